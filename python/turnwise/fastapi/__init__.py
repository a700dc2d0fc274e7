"""turnwise for FastAPI, and for Starlette."""

from __future__ import annotations

from turnwise.fastapi.errors import add_error_handlers

__all__ = ["add_error_handlers"]
