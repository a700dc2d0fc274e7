"""The flag that SQLAlchemy raises on a dialect with its first listener, and never lowers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect


def has_listeners(dialect: Dialect) -> bool:
    """Whether anybody listens to the events of a dialect."""
    from sqlalchemy.engine.events import DialectEvents

    names = [name for name in vars(DialectEvents) if not name.startswith("_")]
    return any(list(getattr(dialect.dispatch, name, ())) for name in names)


def lower_flag(dialect: Dialect) -> None:
    """Spare every statement the look for listeners that are gone."""
    if not has_listeners(dialect):
        vars(dialect).pop("_has_events", None)


__all__ = ["has_listeners", "lower_flag"]
