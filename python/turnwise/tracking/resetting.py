"""New connections in the place of all that a pool has, and never more than its size.

``engine.dispose()`` is not that: it makes a second pool, which opens its own connections while
those in use stay open.
"""

from __future__ import annotations

import threading
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import event
from sqlalchemy.pool import NullPool, QueuePool
from sqlalchemy.util import concurrency
from sqlalchemy.util import queue as pool_queue

from turnwise.errors import InvalidSettingError
from turnwise.sqlalchemy.installing import engines_of

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.pool import ConnectionPoolEntry, Pool

_resetting = threading.Lock()
_last: weakref.WeakKeyDictionary[Engine, float] = weakref.WeakKeyDictionary()
"""When the pool of an engine was reset, by the monotonic clock."""


class PoolReset(NamedTuple):
    """What ``reset_pool`` did."""

    is_done: bool
    """False: it was done less than ``every`` seconds ago, and was not done again."""
    idle: int
    """Connections in the pool: closed, or closed when somebody asks for one."""
    in_use: int
    """Connections that are out: closed when they come back."""


def reset_pool(engine: object, *, every: float = 10.0) -> PoolReset:
    """Replace every connection of the pool, without ever having more than its size.

    Takes an ``Engine``, an ``AsyncEngine``, or Flask-SQLAlchemy's extension object. Idle
    connections are closed now (of an ``AsyncEngine``: when they are asked for next), those in use
    when they come back; nobody's work is interrupted. New ones are opened when they are needed.

    ``every``: seconds; a pool that was reset less than that ago is left alone, so that many
    threads that see the same trouble reset it once.

    Raises:
        TypeError: it is no engine, or its pool has one connection that holds all data (SQLite in
            memory).
        InvalidSettingError: ``every`` is negative.
    """
    if not every >= 0:
        raise InvalidSettingError(f"every is a number of seconds, 0 or more, not {every!r}")
    engines = engines_of(engine)
    for one in engines:
        if not isinstance(one.pool, (QueuePool, NullPool)):
            raise TypeError(f"a {type(one.pool).__name__} cannot be reset: it would lose its data")
    done = [_reset(one, every) for one in engines]
    return PoolReset(
        any(one.is_done for one in done),
        sum(one.idle for one in done),
        sum(one.in_use for one in done),
    )


def _reset(engine: Engine, every: float) -> PoolReset:
    pool = engine.pool
    if not isinstance(pool, QueuePool):
        return PoolReset(is_done=True, idle=0, in_use=0)
    with _resetting:
        now = time.monotonic()
        idle, in_use = pool.checkedin(), pool.checkedout()
        if engine in _last and now - _last[engine] < every:
            return PoolReset(is_done=False, idle=idle, in_use=in_use)
        _last[engine] = now
        if not event.contains(engine, "checkin", _checkin):
            event.listen(engine, "checkin", _checkin)
    _outdate(pool)
    if not engine.dialect.is_async:
        _close_idle(pool)
    return PoolReset(is_done=True, idle=idle, in_use=in_use)


def _outdate(pool: Pool) -> None:
    """What SQLAlchemy does when a listener raises ``InvalidatePoolError``."""
    outdate: Any = pool._invalidate  # noqa: SLF001 - public only from inside a checkout
    outdate(None, None, _checkin=False)


def _close_idle(pool: QueuePool) -> None:
    """Close what waits in the pool; its places stay, and are filled when they are asked for."""
    held: list[ConnectionPoolEntry] = []
    try:
        for _ in range(pool.checkedin()):
            # A checkout would open a connection for a place whose own one is outdated.
            record = pool._pool.get(False)  # noqa: SLF001 - see above
            held.append(record)
            if _is_outdated(record):
                record.close()
    except pool_queue.Empty:
        pass  # Somebody was faster, and gets a new connection.
    finally:
        for record in held:
            pool._do_return_conn(record)  # noqa: SLF001 - see above


def _is_outdated(record: Any) -> bool:
    return bool(record._is_hard_or_soft_invalidated())  # noqa: SLF001 - no public name


def _checkin(connection: Any, record: ConnectionPoolEntry) -> None:
    """Close an outdated connection when it comes back, not only at its next checkout."""
    if connection is None or not _is_outdated(record):
        return
    if hasattr(connection, "driver_connection") and not concurrency.in_greenlet():
        return  # The garbage collector brings it back, and its event loop cannot be waited for.
    # What is raised here would lose the pool a place.
    with suppress(Exception):
        record.invalidate()


__all__ = ["PoolReset", "reset_pool"]
