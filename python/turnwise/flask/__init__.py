"""turnwise for Flask, with or without Flask-SQLAlchemy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from turnwise.flask.errors import add_error_handlers
from turnwise.flask.tracking import setup
from turnwise.tracking.wsgi import OwnerMiddleware

if TYPE_CHECKING:
    from turnwise.flask.extension import Turnwise

__all__ = ["OwnerMiddleware", "Turnwise", "add_error_handlers", "setup"]


def __getattr__(name: str) -> object:
    """Load the extension where it is used: Flask does well without SQLAlchemy."""
    if name == "Turnwise":
        from turnwise.sqlalchemy import require

        require("turnwise.flask.Turnwise")
        from turnwise.flask.extension import Turnwise

        return Turnwise
    raise AttributeError(f"module 'turnwise.flask' has no attribute {name!r}")
