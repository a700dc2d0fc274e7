"""turnwise for Flask, with or without Flask-SQLAlchemy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from turnwise.flask.errors import add_error_handlers

if TYPE_CHECKING:
    from turnwise.flask.extension import Turnwise

__all__ = ["Turnwise", "add_error_handlers"]


def __getattr__(name: str) -> object:
    """Load the extension where it is used: Flask does well without SQLAlchemy."""
    if name == "Turnwise":
        from turnwise.sqlalchemy import require

        require("turnwise.flask.Turnwise")
        from turnwise.flask.extension import Turnwise

        return Turnwise
    raise AttributeError(f"module 'turnwise.flask' has no attribute {name!r}")
