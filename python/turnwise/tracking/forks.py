"""Connections that a process has inherited by fork, and must neither use nor close.

Parent and child share the socket: what one of them sends ends up in the middle of the other's
conversation, and a driver that closes its copy says good-bye to the server for both. SQLAlchemy's
recipe looks at the process when a connection leaves its pool
(https://docs.sqlalchemy.org/en/21/core/pooling.html#using-connection-pools-with-multiprocessing-or-os-fork).
That comes too late with ``pool_pre_ping`` and ``pool_recycle``, which have used or closed the
connection by then, and says nothing of one that was in use during the fork. Therefore the child
takes all connections that it knows of out of the pools before anything else runs in it, and the
recipe is for those that were made before the guard came.
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import Pool

from turnwise.sqlalchemy.installing import engines_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.engine import Dialect, ExceptionContext

_PID = "turnwise_pid"
_INHERITED = "turnwise_inherited"


class _Guarded:
    """Whose connections are looked at, and for whom."""

    listening = 0
    """The process that the listeners were put up in; 0: none are up."""
    is_child = False
    """Whether connections are looked at when they leave their pool, which only a child needs."""
    has_lost = False
    """Whether errors are looked at, which only a child needs that has lost connections in use."""
    hooked = False
    everything: frozenset[str] = frozenset()
    dialects: ClassVar[WeakKeyDictionary[Dialect, frozenset[str]]] = WeakKeyDictionary()
    records: ClassVar[WeakSet[Any]] = WeakSet()
    """The pools' entries whose connections were made since."""
    fresh: ClassVar[WeakKeyDictionary[Engine, int]] = WeakKeyDictionary()
    """Engines that get a new pool in a child, and the process for which they last did."""


def guard_forks(target: Any, *, by: str = "watch") -> None:
    """Have no child of this process use or close a connection that this process has made.

    ``target``: an engine, an async engine, Flask-SQLAlchemy's extension object, or SQLAlchemy's
    class ``Pool`` for all engines. A connection that was idle is replaced once the child asks for
    it; one that was in use counts as lost there, so that its session has to be rolled back. Each is
    reported as ``forked-connection``. Guarding again changes nothing; the guard ends when everyone
    ``by`` whom it was put up has called ``unguard_forks``.

    SQLite databases in memory are left alone: a child has a copy of its own.
    """
    if target is Pool:
        _Guarded.everything |= {by}
    else:
        for engine in engines_of(target):
            held = _Guarded.dialects.get(engine.dialect, frozenset())
            _Guarded.dialects[engine.dialect] = held | {by}
    _listen()


def unguard_forks(target: Any, *, by: str = "watch") -> None:
    """End the guard. Harmless if there is none."""
    if target is Pool:
        _Guarded.everything -= {by}
    else:
        for engine in engines_of(target):
            held = _Guarded.dialects.pop(engine.dialect, frozenset()) - {by}
            if held:
                _Guarded.dialects[engine.dialect] = held
    if not _Guarded.everything and not _Guarded.dialects:
        _unlisten()


def renew_in_children(engines: Iterable[Engine]) -> None:
    """Have every child begin with new, empty pools for these engines, as ``dispose`` makes them."""
    for engine in engines:
        _Guarded.fresh.setdefault(engine, os.getpid())
    _hook()


def keep_in_children(engines: Iterable[Engine]) -> None:
    """End ``renew_in_children``."""
    for engine in engines:
        _Guarded.fresh.pop(engine, None)


def renew_now() -> None:
    """Do in this process what a child does at the fork, unless that has been done.

    For children that were made in a way that does not run Python's handlers.
    """
    pid = os.getpid()
    _take_away_inherited(pid)
    for engine, last in list(_Guarded.fresh.items()):
        if last != pid:
            _Guarded.fresh[engine] = pid
            if not _is_in_memory(engine.pool):
                _leave_alive(engine.pool)
                engine.dispose(close=False)


def _hook() -> None:
    if not _Guarded.hooked:
        _Guarded.hooked = True
        os.register_at_fork(after_in_child=_begin_child)


def _begin_child() -> None:
    if _Guarded.listening and not _Guarded.is_child:
        _Guarded.is_child = True
        # Before a listener that would use the connection.
        event.listen(Pool, "checkout", _check_out, insert=True)
    renew_now()


def _listen() -> None:
    if not _Guarded.listening:
        _Guarded.listening = os.getpid()
        event.listen(Pool, "connect", _connect)
        _hook()


def _unlisten() -> None:
    if _Guarded.listening:
        event.remove(Pool, "connect", _connect)
        _Guarded.listening = 0
        _Guarded.records.clear()
    if _Guarded.is_child:
        event.remove(Pool, "checkout", _check_out)
        _Guarded.is_child = False
    if _Guarded.has_lost:
        event.remove(Engine, "handle_error", _handle)
        _Guarded.has_lost = False


def _is_guarded(dialect: Dialect | None) -> bool:
    return bool(_Guarded.everything) or (dialect is not None and dialect in _Guarded.dialects)


def _connect(dbapi_connection: object, record: Any) -> None:
    record.info[_PID] = os.getpid()
    _Guarded.records.add(record)
    owner = record.record_info.pop(_INHERITED, None)
    if owner is not None:
        _report(owner, "was replaced", dbapi_connection)


def _check_out(dbapi_connection: object, record: Any, proxy: Any) -> None:
    owner = record.info.get(_PID, _Guarded.listening)
    pool = proxy._pool  # noqa: SLF001 - nothing public tells
    if owner == os.getpid() or not _is_guarded(pool._dialect) or _is_in_memory(pool):  # noqa: SLF001
        return
    _leave_alive(dbapi_connection)
    record.dbapi_connection = proxy.dbapi_connection = None
    _report(owner, "is replaced", None)
    raise DisconnectionError(
        f"the connection was made by process {owner}, before it forked, and this is {os.getpid()}"
    )


def _take_away_inherited(pid: int) -> None:
    """Leave no entry of a pool with a connection that another process has made."""
    for record in list(_Guarded.records):
        owner = record.info.get(_PID, pid)
        pool = record._ConnectionRecord__pool  # noqa: SLF001 - nothing public tells
        if owner == pid or not _is_guarded(pool._dialect) or _is_in_memory(pool):  # noqa: SLF001
            continue
        if record.dbapi_connection is not None:
            _leave_alive(record.dbapi_connection)
            record.dbapi_connection = None
            record.record_info[_INHERITED] = owner
        proxy = record.fairy_ref and record.fairy_ref()
        if proxy is not None:
            proxy.dbapi_connection = _Lost(owner, pid)
            _expect_lost()


class _Lost:
    """In a child, in the place of a connection that was in use during the fork."""

    def __init__(self, owner: int, pid: int) -> None:
        self._text = f"the connection was in use in process {owner} when it forked process {pid}"

    def cursor(self, *arguments: object, **settings: object) -> NoReturn:
        raise DisconnectionError(self._text)

    def commit(self) -> NoReturn:
        raise DisconnectionError(self._text)

    def rollback(self) -> None:
        """Leave it to the parent."""

    close = terminate = rollback


def _expect_lost() -> None:
    if not _Guarded.has_lost:
        _Guarded.has_lost = True
        event.listen(Engine, "handle_error", _handle)


def _handle(context: ExceptionContext) -> None:
    """Have SQLAlchemy treat it like one that the server has ended."""
    connection = context.connection
    proxy: Any = None if connection is None else connection._dbapi_connection  # noqa: SLF001 - as it is
    if proxy is not None and isinstance(proxy.dbapi_connection, _Lost):
        context.is_disconnect = True
        context.invalidate_pool_on_disconnect = False


def _leave_alive(thing: object) -> None:
    """Never let go of it: `mysqlclient` says good-bye to the server when a connection is freed."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _is_in_memory(pool: Pool) -> bool:
    from sqlalchemy.pool import SingletonThreadPool, StaticPool

    name = getattr(pool._dialect, "name", "")  # noqa: SLF001 - nothing public tells
    return name == "sqlite" and isinstance(pool, (SingletonThreadPool, StaticPool))


def _report(owner: int, what: str, connection: object) -> None:
    from turnwise.tracking.watching import report

    report(
        "forked-connection",
        detail=f"made by process {owner} before it forked, it {what} in process {os.getpid()}",
        connection=connection,
    )
