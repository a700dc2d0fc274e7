"""A look at a connection's socket before it leaves the pool, without a round trip."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, event
from sqlalchemy.exc import DisconnectionError

from turnwise.errors import UnsupportedPlatformError
from turnwise.sqlalchemy.installing import engines_of
from turnwise.tracking import sockets, watching

if TYPE_CHECKING:
    from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

_READY = "turnwise.ready"


def check_liveness(engine: object = None) -> None:
    """Never hand out a connection that its server has ended.

    Takes an ``Engine``, an ``AsyncEngine``, Flask-SQLAlchemy's extension object, or nothing for
    every engine of the process. At each checkout the connection's socket is asked whether something
    waits on it (0.3 to 0.5 µs, no round trip). If that is the connection's end, the application
    gets a new connection in its place, and ``dead-in-pool`` is reported. Pending notifications of
    PostgreSQL are left for their reader.

    It does not see what the network swallows without a word: a firewall that forgets a connection
    is found by the next statement, or by ``pool_pre_ping``. SQLite has no socket and is left alone.

    Raises:
        TypeError: it is no engine.
        UnsupportedPlatformError: the system has no ``poll``.
    """
    if not hasattr(select, "poll"):
        raise UnsupportedPlatformError("the liveness check needs poll(), which is not here")
    for target in _targets(engine):
        if not event.contains(target, "checkout", _checkout):
            event.listen(target, "checkout", _checkout)


def stop_checking_liveness(engine: object = None) -> None:
    """Hand out connections unseen again. Harmless if they were."""
    for target in _targets(engine):
        if event.contains(target, "checkout", _checkout):
            event.remove(target, "checkout", _checkout)


def _targets(engine: object) -> list[Any]:
    return [Engine] if engine is None else list(engines_of(engine))


def _checkout(connection: Any, record: ConnectionPoolEntry, proxied: PoolProxiedConnection) -> None:
    try:
        events = record.info[_READY](0)
    except KeyError:
        ready = record.info[_READY] = sockets.ready_of(record.driver_connection)
        events = ready(0)
    if events:
        _look_closer(events, connection, record, proxied)


def _look_closer(
    events: list[tuple[int, int]],
    connection: Any,
    record: ConnectionPoolEntry,
    proxied: PoolProxiedConnection,
) -> None:
    dialect = proxied._pool._dialect  # noqa: SLF001 - no public name
    arrived = sockets.look(events, dialect.name)
    is_dead = arrived.is_dead
    if is_dead is None:
        is_dead = not _answers(dialect, connection)
    if not is_dead:
        return
    idle = sockets.idle_of(events)
    words = ["ended in the pool"]
    if arrived.reason:
        words.append(f"({arrived.reason})")
    if idle is not None:
        words.append(f"after {idle:.3g} s without a statement")
    watching.report("dead-in-pool", detail=" ".join(words), connection=record, age=idle)
    raise DisconnectionError(" ".join(["turnwise: the connection was", *words]))


def _answers(dialect: Any, connection: Any) -> bool:
    """A round trip, where what has arrived is encrypted."""
    try:
        return bool(dialect.do_ping(connection))
    except Exception:  # noqa: BLE001 - whatever the driver raises for it
        return False


__all__ = ["check_liveness", "stop_checking_liveness"]
