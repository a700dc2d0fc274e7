"""Connections that do nothing, behind SQLAlchemy's own dialects: what is left is SQLAlchemy's time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import create_engine
from sqlalchemy.pool import QueuePool

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine


class Cursor:
    """Takes every statement, and returns no rows."""

    description = None
    rowcount = 1
    lastrowid = 1

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def execute(self, statement: str, parameters: object = ()) -> None:
        """Nothing."""

    executemany = execute

    def close(self) -> None:
        """Nothing."""


class Connection:
    """What both dialects ask of a connection."""

    isolation_level = ""
    in_transaction = True
    autocommit = False
    encoding = "UTF8"
    notices = ()

    class info:  # noqa: N801 - psycopg2's name
        """The server is always in a transaction."""

        transaction_status = 2

    def cursor(self, *_: object) -> Cursor:
        """A cursor."""
        return Cursor(self)

    def nothing(self, *_: object, **__: object) -> None:
        """Nothing."""

    commit = rollback = close = create_function = set_client_encoding = nothing


def null_engine(dialect: str) -> Engine:
    """An engine of `sqlite` or `postgresql` on such connections."""
    # A database in memory takes no turns: what a turn costs is measured on the real file.
    urls = {
        "sqlite": "sqlite:///file:null?mode=memory&uri=true",
        "postgresql": "postgresql+psycopg2://",
    }
    return create_engine(urls[dialect], creator=Connection, poolclass=QueuePool, _initialize=False)
