"""turnwise for Flask."""

from __future__ import annotations

from turnwise.flask.errors import add_error_handlers

__all__ = ["add_error_handlers"]
