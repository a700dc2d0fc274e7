"""Ends a session at its server: the last resort, and only for one of our own that does nothing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, overload

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import greenlet_spawn

from turnwise import drivers
from turnwise.errors import InvalidSettingError, UnsupportedServerError
from turnwise.sqlalchemy.installing import engines_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from sqlalchemy.engine import Connection


class Held(Protocol):
    """What is asked of a lease."""

    @property
    def backend_pid(self) -> int | None:
        """The server's number of the connection."""

    @property
    def age(self) -> float:
        """Seconds since the connection left the pool."""


class Termination(NamedTuple):
    """What became of it."""

    is_done: bool
    """The server was told to end the session, and its transaction is rolled back."""
    reason: str
    """What was found."""


@overload
def terminate(
    engine: AsyncEngine, pid: int, *, idle: float = 5.0, leases: Iterable[Held] | None = None
) -> Awaitable[Termination]: ...
@overload
def terminate(
    engine: Engine, pid: int, *, idle: float = 5.0, leases: Iterable[Held] | None = None
) -> Termination: ...
def terminate(
    engine: Engine | AsyncEngine,
    pid: int,
    *,
    idle: float = 5.0,
    leases: Iterable[Held] | None = None,
) -> Termination | Awaitable[Termination]:
    """End one session at its server, if it is ours and idle in a transaction.

    ``pid`` is the server's number of a connection, of one in ``leases`` (default:
    ``turnwise.leases()``). The server itself checks, in the statement that ends the session on
    PostgreSQL and right before it on MariaDB and MySQL, that it belongs to the engine's own role,
    that it began before the lease (so that its number was not given to another one meanwhile), and
    that it has been idle in a transaction for ``idle`` seconds. If not, nothing is done and the
    answer says why.

    It uses one connection of its own beside the pool, which may be exhausted. On an ``AsyncEngine``
    the answer is to be awaited. MariaDB and MySQL show transactions only to those who may see them
    (``PROCESS``): without that right nothing is done.

    Raises:
        TypeError: it is no ``Engine`` or ``AsyncEngine``.
        InvalidSettingError: ``idle`` is negative.
        UnsupportedServerError: it is neither PostgreSQL nor MariaDB nor MySQL.
    """
    if not idle >= 0:
        raise InvalidSettingError(f"idle is a number of seconds, 0 or more, not {idle!r}")
    if not isinstance(engine, (Engine, AsyncEngine)):
        raise TypeError(f"an Engine or an AsyncEngine is needed, not {type(engine).__name__}")
    one = engines_of(engine)[0]
    if one.dialect.name not in ("postgresql", "mysql", "mariadb"):
        raise UnsupportedServerError(f"{one.dialect.name} has no sessions to end")
    ages = [lease.age for lease in _all(leases) if lease.backend_pid == pid]
    if isinstance(engine, AsyncEngine):
        return greenlet_spawn(_terminate, one, pid, idle, ages)
    return _terminate(one, pid, idle, ages)


def _all(leases: Iterable[Held] | None) -> Iterable[Held]:
    if leases is not None:
        return leases
    from turnwise.tracking import watching

    held: Iterable[Held] = watching.leases()
    return held


def _terminate(engine: Engine, pid: int, idle: float, ages: list[float]) -> Termination:
    if not ages:
        return Termination(is_done=False, reason=f"no lease of this process has the session {pid}")
    beside = Engine(engine.pool.recreate(), engine.dialect, engine.url)
    try:
        with beside.connect() as connection:
            if engine.dialect.name == "postgresql":
                return _on_postgresql(connection, pid, idle, max(ages))
            return _on_mysql(connection, pid, idle)
    finally:
        beside.dispose()


_IDLE = "('idle in transaction', 'idle in transaction (aborted)')"
_POSTGRESQL = f"""
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid = :pid AND usename = session_user AND pid <> pg_backend_pid()
    AND backend_start <= clock_timestamp() - make_interval(secs => CAST(:age AS float8))
    AND state IN {_IDLE}
    AND state_change <= clock_timestamp() - make_interval(secs => CAST(:idle AS float8))
"""  # noqa: S608 - a constant
_SEEN_POSTGRESQL = """
    SELECT usename = session_user, coalesce(state, ''),
           extract(epoch FROM clock_timestamp() - state_change),
           backend_start <= clock_timestamp() - make_interval(secs => CAST(:age AS float8))
    FROM pg_stat_activity WHERE pid = :pid
"""


def _on_postgresql(connection: Connection, pid: int, idle: float, age: float) -> Termination:
    ended = connection.execute(text(_POSTGRESQL), {"pid": pid, "idle": idle, "age": age}).scalar()
    if ended is not None:
        return _done() if ended else _not_done("the session had ended meanwhile")
    seen = connection.execute(text(_SEEN_POSTGRESQL), {"pid": pid, "age": age}).one_or_none()
    if seen is None:
        return _not_done("the server has no such session")
    is_own, state, seconds, is_older = seen
    if not is_own:
        return _not_done("the session belongs to another role")
    if not is_older:
        return _not_done("the session began after the lease: it is another one")
    return _not_done(f"the session is {state} for {float(seconds or 0):.3g} s")


_DENIED = 1227
_MYSQL = """
    SELECT p.user = SUBSTRING_INDEX(CURRENT_USER(), '@', 1), p.command, p.time, t.trx_id
    FROM information_schema.processlist p
    LEFT JOIN information_schema.innodb_trx t ON t.trx_mysql_thread_id = p.id
    WHERE p.id = :pid
"""


def _on_mysql(connection: Connection, pid: int, idle: float) -> Termination:
    """The numbers of connections are never given again, so none is needed of when it began."""
    try:
        seen: Any = connection.execute(text(_MYSQL), {"pid": pid}).one_or_none()
    except DBAPIError as error:
        reading = drivers.read(error.orig) if error.orig else None
        if reading is None or reading.code != _DENIED:
            raise
        return _not_done("the role has not the right PROCESS, and cannot see transactions")
    if seen is None:
        return _not_done("the server has no such session")
    is_own, command, seconds, transaction = seen
    if not is_own:
        return _not_done("the session belongs to another role")
    if command != "Sleep" or seconds < math.ceil(idle):
        return _not_done(f"the session is in {command} for {seconds} s")
    if transaction is None:
        return _not_done(f"the session is idle for {seconds} s, in no transaction")
    connection.exec_driver_sql(f"KILL {int(pid)}")
    return _done()


def _done() -> Termination:
    return Termination(is_done=True, reason="the session was idle in a transaction")


def _not_done(reason: str) -> Termination:
    return Termination(is_done=False, reason=reason)


__all__ = ["Held", "Termination", "terminate"]
