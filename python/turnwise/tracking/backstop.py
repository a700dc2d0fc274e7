"""The server's own limit for transactions in which nothing happens."""

from __future__ import annotations

import math
import weakref
from typing import TYPE_CHECKING, Any

from sqlalchemy import event

from turnwise import drivers
from turnwise.errors import InvalidSettingError, UnsupportedServerError
from turnwise.sqlalchemy import dialect_events
from turnwise.sqlalchemy.installing import engines_of

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.engine import Dialect
    from sqlalchemy.pool import ConnectionPoolEntry

_SENT = "turnwise.backstop"
_LONGEST = 2_147_483  # Seconds: both servers keep the limit in 32 bits, PostgreSQL's in ms.
_UNKNOWN_VARIABLE = 1193

_backstops: weakref.WeakKeyDictionary[Engine, _Backstop] = weakref.WeakKeyDictionary()


def backstop(engine: object, seconds: float | None) -> None:
    """Let the server end connections that are idle in a transaction for longer.

    Takes an ``Engine``, an ``AsyncEngine``, or Flask-SQLAlchemy's extension object. On PostgreSQL
    it is ``idle_in_transaction_session_timeout``, which goes with the request for the connection
    and costs nothing; on MariaDB ``idle_transaction_timeout``, in whole seconds and one more round
    trip when a connection is opened. ``None`` takes the limit away. It holds for connections that
    are opened from now on; ``reset_pool`` replaces the others.

    The server ends the connection, and with it the transaction and its locks; the application
    learns of it by its next statement. Make it several times as long as anything legitimate.
    Behind a pooler that refuses options of a connection (PgBouncer), use ``ALTER ROLE … SET``.

    Raises:
        TypeError: it is no engine.
        InvalidSettingError: ``seconds`` is not above 0, or above 2,147,483.
        UnsupportedServerError: SQLite has no server, MySQL no such limit. Where the engine has not
            yet connected, the first connection of a MySQL server raises it.
    """
    if seconds is not None and not 0 < seconds <= _LONGEST:
        raise InvalidSettingError(
            f"seconds is a number above 0 and up to {_LONGEST}, or None, not {seconds!r}"
        )
    engines = engines_of(engine)
    for one in engines:
        _check(one.dialect)
    for one in engines:
        previous = _backstops.pop(one, None)
        if previous is not None:
            previous.detach(one)
        if seconds is not None:
            _backstops[one] = _Backstop(seconds)
            _backstops[one].attach(one)


def _check(dialect: Dialect) -> None:
    if dialect.name == "sqlite":
        raise UnsupportedServerError("SQLite has no server that could end an idle transaction")
    if dialect.name not in ("postgresql", "mysql", "mariadb"):
        raise UnsupportedServerError(f"{dialect.name}: PostgreSQL or MariaDB is needed")
    is_known = getattr(dialect, "server_version_info", None) is not None
    if dialect.name == "mysql" and is_known and not getattr(dialect, "is_mariadb", False):
        raise _no_such_limit()


def _no_such_limit() -> UnsupportedServerError:
    return UnsupportedServerError(
        "MySQL has no limit for idle transactions (MariaDB 10.3 has idle_transaction_timeout): its "
        "wait_timeout ends every connection that is idle for so long, in a transaction or not; set "
        "it for a connection by 'SET SESSION wait_timeout = …'"
    )


class _Backstop:
    """The listeners of one engine."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._milliseconds = str(max(1, math.ceil(seconds * 1000)))

    def attach(self, engine: Engine) -> None:
        if engine.dialect.name == "postgresql":
            event.listen(engine, "do_connect", self._connecting)
        event.listen(engine, "connect", self._connected)

    def detach(self, engine: Engine) -> None:
        for name, listener in (("do_connect", self._connecting), ("connect", self._connected)):
            if event.contains(engine, name, listener):
                event.remove(engine, name, listener)
        dialect_events.lower_flag(engine.dialect)

    def _connecting(
        self,
        dialect: Dialect,
        record: ConnectionPoolEntry | None,
        arguments: list[Any],
        parameters: dict[str, Any],
    ) -> None:
        """Send the limit with the request for the connection."""
        name = "idle_in_transaction_session_timeout"
        if dialect.driver in ("psycopg2", "psycopg", "psycopg_async"):
            given = parameters.get("options") or ""
            parameters["options"] = f"{given} -c {name}={self._milliseconds}".strip()
        elif dialect.driver in ("asyncpg", "pg8000"):
            key = "server_settings" if dialect.driver == "asyncpg" else "startup_params"
            parameters[key] = {**(parameters.get(key) or {}), name: self._milliseconds}
        else:
            return
        if record is not None:
            record.info[_SENT] = True

    def _connected(self, connection: Any, record: ConnectionPoolEntry) -> None:
        """Set the limit, where it could not be sent: the engine has a ``creator`` of its own."""
        if record.info.pop(_SENT, False):
            return
        if drivers.dialect_of(connection) == "postgresql":
            statement = f"SET idle_in_transaction_session_timeout = {self._milliseconds}"
        else:
            statement = f"SET SESSION idle_transaction_timeout = {math.ceil(self._seconds)}"
        cursor = connection.cursor()
        try:
            cursor.execute(statement)
        except Exception as error:
            reading = drivers.read(error)
            if reading is not None and reading.code == _UNKNOWN_VARIABLE:
                raise _no_such_limit() from error
            raise
        finally:
            cursor.close()
        connection.commit()  # A rollback would undo it.


__all__ = ["backstop"]
