"""turnwise for FastAPI, and for Starlette."""

from __future__ import annotations

from turnwise.fastapi.errors import add_error_handlers
from turnwise.fastapi.tracking import setup
from turnwise.tracking.asgi import OwnerMiddleware

__all__ = ["OwnerMiddleware", "add_error_handlers", "setup"]
