"""Python's ``sqlite3``, with write transactions that take turns.

A drop-in: ``from turnwise import sqlite3`` instead of ``import sqlite3``. Every name is that of the
standard library, but ``connect``, ``Connection`` and ``Cursor``: a connection to a file takes the
turn before it begins a write transaction, and gives it back after COMMIT or ROLLBACK. Other threads
and processes that do so too are let in one after the other, instead of polling for the lock.
Nothing else changes; docs/sqlite3.md has the rules.

It is the interpreter's own SQLite, not the private copy of ``BatchWriter``.
"""

from __future__ import annotations

import sqlite3 as _stdlib
from sqlite3 import *  # noqa: F403 - every public name, in every version of Python
from typing import TYPE_CHECKING, Any

from turnwise.sqlite3._connection import Connection as Connection
from turnwise.sqlite3._connection import named as _named
from turnwise.sqlite3._connection import turn_taking as _turn_taking
from turnwise.sqlite3._cursor import Cursor as Cursor

_connect = _stdlib.connect  # Kept here: an application may put ours in its place.

if TYPE_CHECKING:
    from sqlite3 import connect as connect
else:

    def connect(database: Any, *args: Any, **kwargs: Any) -> Any:
        """Open a database whose write transactions take turns.

        Parameters are those of ``sqlite3.connect``. ``timeout`` bounds the wait for the turn and
        the wait for the lock together. A ``factory`` that is derived from ``sqlite3.Connection``
        gets turns mixed in.

        Raises:
            TypeError: The ``factory`` makes connections that do not take turns.
        """
        settings = _named(args, kwargs, "sqlite3.connect")
        if settings is None:
            return _connect(database, *args, **kwargs)  # Says what is wrong.
        given = settings.get("factory", Connection)
        factory = _turn_taking(given)
        if len(args) > 4:
            args = (*args[:4], factory, *args[5:])
        elif "factory" in kwargs:
            kwargs["factory"] = factory
        connection = factory(database, *args, **kwargs)
        if not isinstance(connection, Connection):
            if hasattr(connection, "close"):
                connection.close()
            message = (
                f"factory {given!r} made a {type(connection).__name__}, which does not take "
                "turns: derive it from turnwise.sqlite3.Connection"
            )
            raise TypeError(message)
        return connection


# The star has brought the standard library's.
del dbapi2  # noqa: F821
# After what it takes from here, and before `__getattr__`, which would find the other again.
from turnwise.sqlite3 import dbapi2 as dbapi2  # noqa: E402


def __getattr__(name: str) -> Any:
    return getattr(_stdlib, name)
