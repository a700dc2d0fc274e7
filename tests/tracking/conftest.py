"""What the tests of the tracker share."""

from __future__ import annotations

from redis_server import redis

__all__ = ["redis"]
