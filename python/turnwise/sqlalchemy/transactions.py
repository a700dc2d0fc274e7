"""The transaction that a caller hands over: which connection, which lock it holds."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, Engine, FromClause, delete, false
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
)
from sqlalchemy.orm import Session, scoped_session
from sqlalchemy.util import greenlet_spawn

from turnwise import errors
from turnwise.sqlalchemy import driver_connections

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Dialect

T = TypeVar("T")

MYSQL = ("mysql", "mariadb")


def unwrapped(target: object) -> tuple[Engine | Connection | Session, bool]:
    """The sync object that a caller's session, connection or engine stands on; whether it is async.

    Raises:
        TypeError: It is something else.
    """
    if isinstance(target, (scoped_session, async_scoped_session)):
        target = target()
    if isinstance(target, AsyncSession):
        return target.sync_session, True
    if isinstance(target, AsyncConnection):
        return target.sync_connection or _unstarted(), True
    if isinstance(target, AsyncEngine):
        return target.sync_engine, True
    if isinstance(target, (Session, Connection, Engine)):
        return target, False
    raise TypeError(
        f"a session, connection or engine of SQLAlchemy is needed, not {type(target).__name__}"
    )


def _unstarted() -> Connection:
    raise TypeError("the AsyncConnection is not started: use `async with engine.connect()`")


async def in_greenlet(function: Callable[..., T], *args: object) -> T:
    """Run sync code of SQLAlchemy on an async driver."""
    result: T = await greenlet_spawn(function, *args)
    return result


def close(session: Session) -> None:
    """Close a session, which neither hides an error nor undoes a COMMIT."""
    try:
        session.close()
    except Exception:  # noqa: BLE001 - its connection is lost, and its transaction with it
        session.invalidate()


async def aclose(session: AsyncSession) -> None:
    """Do the same in a coroutine, also in one that is cancelled."""
    await asyncio.shield(asyncio.ensure_future(in_greenlet(close, session.sync_session)))


def dbapi_connection_of(connection: Connection) -> Any:
    """The driver's connection; for async drivers the one that acts as sync."""
    return connection.connection.dbapi_connection


def refuse_autocommit(connection: Connection) -> None:
    """Raise unless the connection is in a transaction that would keep a lock.

    Raises:
        UnsupportedUnitError: It commits each statement by itself.
    """
    if connection.dialect.name == "sqlite":
        return  # Whoever begins transactions on SQLite by hand has the driver commit by itself.
    if connection.dialect.detect_autocommit_setting(dbapi_connection_of(connection)):
        raise errors.UnsupportedUnitError(
            "the connection is in AUTOCOMMIT: what is locked would be free again at once; "
            "use a connection that begins a transaction"
        )


def hold_write_lock(connection: Connection, table: FromClause) -> None:
    """Have the transaction of a SQLite connection hold the write lock before it reads.

    A DELETE of no rows takes it, however transactions begin here: as the first statement it waits
    for the lock like any write, and after reads it succeeds only while nothing has changed since.

    Raises:
        UnsupportedUnitError: The connection commits each statement by itself.
        sqlalchemy.exc.OperationalError: The driver's own, as of every write.
    """
    has_begun = _is_open(connection)
    try:
        connection.execute(delete(table).where(false()))  # type: ignore[arg-type]
    except Exception as error:
        if has_begun:
            from turnwise.attempts import add_note

            add_note(
                error,
                "turnwise: the transaction had read before it locked rows; on SQLite lock first, "
                'or begin with the write lock (execution option turnwise_begin="immediate")',
            )
        raise
    if not _is_open(connection):
        raise errors.UnsupportedUnitError(
            "the SQLite connection is in AUTOCOMMIT: nothing would stay locked; "
            "use a connection that begins a transaction, such as that of an installed engine"
        )


def _is_open(connection: Connection) -> bool:
    is_open: bool = driver_connections.driver_of(connection.connection).in_transaction
    return is_open


def server_of(dialect: Dialect) -> tuple[str, tuple[int, ...]]:
    """The server's name as its makers write it, and its version."""
    version = tuple(n for n in (dialect.server_version_info or ()) if isinstance(n, int))
    if dialect.name in MYSQL:
        return ("MariaDB" if getattr(dialect, "is_mariadb", False) else "MySQL"), version
    return {"postgresql": "PostgreSQL", "sqlite": "SQLite"}.get(dialect.name, dialect.name), version
