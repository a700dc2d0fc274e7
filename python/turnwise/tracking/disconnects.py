"""Says why a connection is gone: which limit ended it, and how long it had been idle.

psycopg2, asyncpg and pg8000 hide the server's reason if it came while the connection was idle, and
MariaDB sends none. The server's limits are therefore read when a connection is opened, and compared
with how long it had been idle.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import event

from turnwise import drivers
from turnwise.attempts import add_note
from turnwise.sqlalchemy import interception
from turnwise.sqlalchemy.installing import engines_of
from turnwise.tracking import limits as server_limits
from turnwise.tracking import watching

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import Engine
    from sqlalchemy.engine import Dialect
    from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

_LIMITS = "turnwise.limits"
_ANSWERED = "turnwise.answered"
_BEGUN = "turnwise.begun"
_PREFIX = "turnwise: "
LAYER = "disconnects"
"""The name of the layer."""
_TOLERANCE = 0.05
"""Seconds that the client may have waited less than the server: the way between them."""


class Idle(NamedTuple):
    """What a connection did before the statement that found it gone."""

    seconds: float
    """Since the last answer."""
    in_transaction: bool
    """The last answer belonged to a transaction that was still open."""


def explain_disconnects(engine: object, *, limits: bool = True) -> None:
    """Note on every error of a lost connection what ended it; report ``killed-by-server``.

    Takes an ``Engine``, an ``AsyncEngine``, or Flask-SQLAlchemy's extension object. The note is on
    the driver's error, SQLAlchemy's ``orig``, and says which limit of the server it was, or that it
    was an administrator, a crash or the network, and for how long the connection had been idle, in
    a transaction or not. Connections that are open already are explained without limits.

    ``limits``: read the server's limits when a connection is opened, two round trips. A statement
    costs 0.4 to 0.9 µs more.

    Raises:
        TypeError: it is no engine.
    """
    for one in engines_of(engine):
        if interception.layer_of(one.dialect, LAYER) is None:
            layer = Remembering(limits=limits)
            interception.add(one.dialect, LAYER, layer)
            layer.listen(one)


def stop_explaining_disconnects(engine: object) -> None:
    """Leave the engine as it was. Harmless if it is not explained."""
    for one in engines_of(engine):
        layer = interception.layer_of(one.dialect, LAYER)
        if layer is not None:
            interception.remove(one.dialect, LAYER)
            layer.leave(one)


class Disconnects:
    """The layer ``disconnects`` of a dialect: asked about errors alone, it costs nothing else.

    ``idle`` tells what a connection of the pool did last.
    """

    def __init__(
        self, *, limits: bool = True, idle: Callable[[PoolProxiedConnection], Idle | None]
    ) -> None:
        self._reads_limits = limits
        self._idle = idle

    def listen(self, target: Engine | type[Engine]) -> None:
        """Read the limits of new connections, of an engine or of all."""
        if self._reads_limits:
            event.listen(target, "connect", _read_limits)

    def leave(self, target: Engine | type[Engine]) -> None:
        """Read them no more."""
        if event.contains(target, "connect", _read_limits):
            event.remove(target, "connect", _read_limits)

    def is_disconnect(
        self, proceed: Callable[..., bool], error: BaseException, connection: Any, cursor: Any
    ) -> bool:
        """Answer as the dialect does, and note the reason on the error."""
        is_lost = proceed(error, connection, cursor)
        if connection is not None:  # It is None while connecting, and at a pre-ping.
            with suppress(Exception):  # An explanation must not take the place of the error.
                self._explain(error, connection, is_lost=is_lost)
        return is_lost

    def _explain(
        self, error: BaseException, connection: PoolProxiedConnection, *, is_lost: bool
    ) -> None:
        reading = drivers.read(error)
        if reading is None or not (is_lost or reading.code == "57014"):
            return
        if any(note.startswith(_PREFIX) for note in getattr(error, "__notes__", ())):
            return  # Whoever else asks about it.
        dialect = connection._pool._dialect  # noqa: SLF001 - no public name
        idle = self._idle(connection)
        limits = connection.info.get(_LIMITS, {})
        text = explain(reading, limits, idle, server=_server_of(dialect))
        add_note(error, _PREFIX + text)
        if is_lost:
            age = idle.seconds if idle else None
            record = connection.dbapi_connection
            watching.report("killed-by-server", detail=text, connection=record, age=age)


class Remembering(Disconnects):
    """The same, with a memory of its own."""

    def __init__(self, *, limits: bool = True) -> None:
        super().__init__(limits=limits, idle=_remembered)

    def do_begin(self, proceed: Callable[..., Any], connection: Any) -> Any:
        """Remember when the transaction began, which its first statement will open."""
        with suppress(Exception):
            connection.info[_BEGUN] = time.monotonic()
        return proceed(connection)

    def do_execute(
        self,
        proceed: Callable[..., Any],
        cursor: Any,
        statement: Any,
        parameters: Any,
        context: Any = None,
    ) -> Any:
        """Remember when the answer came."""
        result = proceed(cursor, statement, parameters, context)
        _remember(context)
        return result

    do_executemany = do_execute

    def do_execute_no_params(
        self, proceed: Callable[..., Any], cursor: Any, statement: Any, context: Any = None
    ) -> Any:
        """The same."""
        result = proceed(cursor, statement, context)
        _remember(context)
        return result


def _read_limits(connection: Any, record: ConnectionPoolEntry) -> None:
    dialect = drivers.dialect_of(connection)
    if dialect in ("postgresql", "mysql"):
        record.info[_LIMITS] = server_limits.read(connection, dialect)


def _remember(context: Any) -> None:
    try:
        context.root_connection.info[_ANSWERED] = time.monotonic()
    except Exception:  # noqa: BLE001 - SQLAlchemy's own first questions have no place for it
        return


def _remembered(connection: PoolProxiedConnection) -> Idle | None:
    answered = connection.info.get(_ANSWERED)
    if answered is None:
        return None
    # A failed statement outside of a transaction has just begun one.
    is_open = answered > connection.info.get(_BEGUN, answered)
    autocommit = getattr(connection.dbapi_connection, "autocommit", False) is True
    return Idle(time.monotonic() - answered, is_open and not autocommit)


def _server_of(dialect: Dialect) -> str:
    if dialect.name == "postgresql":
        return "PostgreSQL"
    return "MariaDB" if getattr(dialect, "is_mariadb", False) else "MySQL"


_LIMIT_OF_CODE = {
    "25P03": "idle_in_transaction_session_timeout",
    "57P05": "idle_session_timeout",
    "25P04": "transaction_timeout",
    "57014": "statement_timeout",
    4031: "wait_timeout",
}
_CAUSE_OF_CODE = {
    "57P01": "pg_terminate_backend, or the server was shut down",
    "57P02": "a process of the server crashed, which ends all connections",
    1927: "KILL",
    1053: "the server was shut down",
}
# The last resort: PgBouncer has one SQLSTATE for all, and its words are the names of its limits.
_OF_PGBOUNCER = {
    "idle transaction timeout": "idle_transaction_timeout",
    "client_idle_timeout": "client_idle_timeout",
    "query_wait_timeout": "query_wait_timeout",
    "query timeout": "query_timeout",
    "query_timeout": "query_timeout",
    "transaction timeout": "transaction_timeout",
}


def explain(
    reading: drivers.Reading, limits: Mapping[str, float], idle: Idle | None, *, server: str
) -> str:
    """One sentence: what ended the connection, as far as it is known, and how idle it had been."""
    what = ""
    if idle is not None:
        where = "idle in a transaction" if idle.in_transaction else "idle"
        what = f"; it had been {where} for {idle.seconds:.3g} s"
    code = reading.code
    if code == "57014":
        limit = limits.get("statement_timeout")
        bound = f" (statement_timeout is {limit:g} s)" if limit else ""
        return f"{server} cancelled the statement{bound}, the connection is intact"
    if code in _LIMIT_OF_CODE:
        name = _LIMIT_OF_CODE[code]
        value = f" of {limits[name]:g} s" if name in limits else ""
        return f"{server} ended the connection by its {name}{value} ({code}){what}"
    if code in _CAUSE_OF_CODE:
        return f"{server} ended the connection: {_CAUSE_OF_CODE[code]} ({code}){what}"
    for words, name in _OF_PGBOUNCER.items():
        if code == "08P01" and words in reading.message:
            return f"PgBouncer ended the connection by its {name}{what}"
    return _inferred(limits, idle, what, server=server)


def _inferred(limits: Mapping[str, float], idle: Idle | None, what: str, *, server: str) -> str:
    """The limit that ends a connection first, of those that it had reached."""
    if idle is not None:
        names = [*server_limits.IN_TRANSACTION] if idle.in_transaction else []
        if not (idle.in_transaction and server == "PostgreSQL"):
            names += server_limits.IDLE
        fit = [
            (limits[name], name)
            for name in names
            if name in limits and idle.seconds + _TOLERANCE >= limits[name]
        ]
        if fit:
            limit, name = min(fit)
            return f"{server} ended the connection by its {name} of {limit:g} s{what}"
    known = ", ".join(f"{name} {seconds:g} s" for name, seconds in sorted(limits.items()))
    return (
        f"the connection to {server} is gone{what}; "
        + (f"its limits do not explain it ({known}): " if known else "")
        + "somebody ended it, the server crashed, or the network or a pooler between cut it"
    )


__all__ = [
    "LAYER",
    "Disconnects",
    "Idle",
    "Remembering",
    "explain",
    "explain_disconnects",
    "stop_explaining_disconnects",
]
