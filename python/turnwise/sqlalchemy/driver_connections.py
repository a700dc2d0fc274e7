"""The driver's own connection behind one of the pool."""

from __future__ import annotations

from typing import Any


def driver_of(connection: Any) -> Any:
    """The driver's own connection, also where the pool has let go of it.

    SQLAlchemy answers ``driver_connection`` with None after ``Connection.detach()``.
    """
    driver = connection.driver_connection
    if driver is None:
        adapted = connection.dbapi_connection
        driver = getattr(adapted, "driver_connection", adapted)
    return driver


__all__ = ["driver_of"]
