"""Which sessions a unit of work has begun, and which transactions it found open.

Two listeners on SQLAlchemy's ``Session`` class stamp the root transaction of every session with the
time at which it began, its thread, its asyncio task and its line of code; the time at which a unit
begins separates what it has begun from what it found. Everything else happens once a unit fails.
"""

from __future__ import annotations

import sys
import threading
import time
import weakref
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from turnwise import _lineage
from turnwise._process import frames_above, running_task
from turnwise.attempts import causes
from turnwise.drivers.wrappers import commits_itself

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextvars import Context
    from types import FrameType

    from sqlalchemy import Connection
    from sqlalchemy.orm import Session, SessionTransaction
    from sqlalchemy.pool import PoolResetState

R = TypeVar("R")

_STAMP = "_turnwise_began"
_ENDED = "_turnwise_ended"
_SEVERAL = "_turnwise_several"
_SENDS_COMMIT = {"_commit_impl", "_commit_twophase_impl"}


class Began(NamedTuple):
    """Where a root transaction began. ``at_ns`` is of ``time.monotonic_ns()``."""

    at_ns: int
    thread: int
    task: int | None
    site: str


class Survey(NamedTuple):
    """What became of the transactions that a failed unit of work had to do with."""

    foreign: str | None
    """What it has found open, in words; ``None``: all that is open it has begun itself."""
    kept: str | None
    """What it has done that no rollback undoes, in words."""
    begun: list[Session]
    """The sessions that it has begun and not ended."""
    free: list[Connection]
    """Connections that are in no transaction, as far as SQLAlchemy knows."""


class _Here(threading.local):
    """The root transactions that this thread has begun and that are still referred to."""

    def __init__(self) -> None:
        self.transactions: weakref.WeakSet[SessionTransaction] = weakref.WeakSet()
        self.committed = 0


class _Watch:
    """Since when transactions are stamped: ``time.monotonic_ns()``, or ``None``."""

    since: int | None = None


_here = _Here()
# A task begins with a copy of its parent's context, so what its parent commits is not its own;
# greenlets of SQLAlchemy share the context of their task.
_committed: ContextVar[int] = ContextVar("turnwise_committed", default=0)


def watch() -> bool:
    """Stamp transactions from now on. ``False``: SQLAlchemy's sessions are not loaded."""
    if _Watch.since is not None:
        return True
    session_class = getattr(sys.modules.get("sqlalchemy.orm"), "Session", None)
    if session_class is None:
        return False
    from sqlalchemy import event
    from sqlalchemy.pool import Pool

    from turnwise.sqlalchemy import brought, require

    require("a unit of work")
    brought.watch()
    event.listen(Pool, "reset", _reset)
    event.listen(session_class, "after_transaction_create", _begin)
    event.listen(session_class, "after_transaction_end", _end)
    # Before a listener that fails once the database has committed.
    event.listen(session_class, "after_commit", _commit, insert=True)
    _Watch.since = time.monotonic_ns()
    return True


def _begin(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        began = Began(time.monotonic_ns(), threading.get_ident(), running_task(), _site())
        vars(transaction)[_STAMP] = began
        _here.transactions.add(transaction)


def _end(session: Session, transaction: SessionTransaction) -> None:
    began = vars(transaction).get(_STAMP)
    if began is not None:
        vars(session)[_ENDED] = (began, time.monotonic_ns())
        vars(transaction)[_SEVERAL] = _is_several(transaction)
        if _commits_itself(transaction):
            _note_commit()


def _commit(session: Session) -> None:
    transaction = session.get_transaction()
    # One without a connection has written nothing; a SAVEPOINT is not committed yet.
    if transaction is not None and not session.in_nested_transaction() and _entries(transaction):
        _note_commit()


def _note_commit() -> None:
    now = time.monotonic_ns()
    _committed.set(now)
    _here.committed = now
    _lineage.note_commit(now)


def _reset(dbapi_connection: object, record: object, state: PoolResetState) -> None:
    """Roll back what SQLAlchemy takes for ended when a connection goes back to its pool.

    After a COMMIT that failed it sends no ROLLBACK, but in SQLite the transaction is still open
    (BUSY, a deferred foreign key): the next one on this connection would commit it as well.
    """
    if state.transaction_was_reset and state.asyncio_safe:
        _end_leftover(dbapi_connection)


def _end_leftover(dbapi_connection: object) -> None:
    """Roll back a SQLite transaction that the driver says is open."""
    # That of `aiosqlite` is inside SQLAlchemy's adapter.
    driver = getattr(dbapi_connection, "driver_connection", None) or dbapi_connection
    if type(driver).__module__.startswith(("sqlite3", "aiosqlite", "turnwise.sqlite3")) and (
        getattr(driver, "in_transaction", False)
    ):
        dbapi_connection.rollback()  # type: ignore[attr-defined]


def committed_at(*, anywhere: bool = False) -> int:
    """When a session of this thread or task, or below it, last committed; 0 for never.

    ``anywhere``: in one of the units around this one, too.
    """
    last = max(_committed.get(), _lineage.committed_at(anywhere=anywhere))
    if running_task() is None:
        last = max(last, _here.committed)  # Also of an event loop that ran in this thread.
    return last


def apart(function: Callable[[], R]) -> tuple[R, Context]:
    """Call a function whose commits are not those of the unit; and the context that it had."""
    context, committed = copy_context(), _here.committed
    context.run(_lineage.mark.set, None)
    try:
        return context.run(function), context
    finally:
        _here.committed = committed


def survey(error: BaseException, mark: int, arguments: Iterable[object]) -> Survey:
    """Tell what a failed unit that began at ``mark`` has found open from what it has begun.

    Looked at are the sessions and connections among ``arguments``, those in which ``error`` was
    raised (its traceback passes through their methods), and those that this thread or task has
    begun since.
    """
    watch()
    sessions, connections = _touched(error)
    for argument in arguments:
        _sort(argument, sessions, connections)
    sessions |= {id(session): session for session in _begun_since(mark)}
    begun: list[Session] = []
    owned: set[int] = set()
    for session in sessions.values():
        if (why := _not_begun_since(session, mark)) is not None:
            return Survey(why, None, [], [])
        if (root := _root(session)) is not None:
            begun.append(session)
            owned |= {id(entry[0]) for entry in _entries(root)}
    free = [one for key, one in connections.items() if key not in owned and not one.closed]
    # One that is no longer active after a failed COMMIT may have held the caller's writes as well.
    if any(connection.get_transaction() is not None for connection in free):
        why = "a connection, given to it or left by it, has an open transaction"
        return Survey(why, None, [], [])
    kept = None
    if any(_commits_itself(root) for session in begun if (root := _root(session))):
        kept = "in AUTOCOMMIT each of its statements was committed by itself"
    elif _may_be_half(error):
        kept = "COMMIT has failed in one of several databases, or after a transaction was prepared"
    return Survey(None, kept, begun, free)


def _may_be_half(error: BaseException) -> bool:
    """Whether COMMIT has failed on one connection, and another may have committed before."""
    transaction = None
    for frame in _frames_of(error):
        me = frame.f_locals.get("self")
        if frame.f_globals.get("__name__") == "sqlalchemy.orm.session":
            transaction = me if hasattr(me, "nested") else transaction
        elif frame.f_code.co_name in _SENDS_COMMIT and transaction is not None:
            is_several = vars(transaction).get(_SEVERAL)
            if is_several or (is_several is None and _is_several(transaction)):
                return True
            if frame.f_code.co_name == "_commit_twophase_impl":
                return True
    return False


def _is_several(transaction: SessionTransaction) -> bool:
    if len(transaction._connections) <= 2:  # noqa: SLF001 - a connection and its engine
        return False
    return sum(bool(should_commit) for _, _, should_commit, _ in _entries(transaction)) > 1


def _commits_itself(transaction: SessionTransaction) -> bool:
    """Whether a connection of the transaction is set to AUTOCOMMIT."""
    for connection, _, _, _ in _entries(transaction):
        if commits_itself(connection, connection.dialect):
            # Where a listener begins the transaction this is how the driver is told not to.
            return not (connection.dialect.name == "sqlite" and connection.dispatch.begin)
    return False


def _begun_since(mark: int) -> list[Session]:
    """The sessions that this thread or task has put into a transaction since ``mark``."""
    task = running_task()
    return [
        transaction.session
        for transaction in list(_here.transactions)
        if (began := vars(transaction)[_STAMP]).at_ns > mark and began.task == task
    ]


def _not_begun_since(session: Session, mark: int) -> str | None:
    """Why a session's transaction is not this unit's to roll back and repeat."""
    transaction = _root(session)
    if transaction is None:
        began, ended = vars(session).get(_ENDED, (None, 0))
        if began is not None and began.at_ns <= mark < ended:
            return f"the transaction that began before it at {began.site} was ended in it"
        return None
    began = vars(transaction).get(_STAMP)
    if began is None:
        # Older than the listeners. When they came after the mark, SQLAlchemy was loaded after it.
        since = _Watch.since
        return None if since is None or since > mark else "the transaction began before it"
    if began.at_ns <= mark:
        return f"the transaction began before it, at {began.site}"
    if (began.thread, began.task) != (threading.get_ident(), running_task()):
        return f"the transaction was begun by another thread or task, at {began.site}"
    return _joins_another(session, transaction)


def _joins_another(session: Session, transaction: SessionTransaction) -> str | None:
    """Whether a session bound to a Connection has joined a transaction that is not its own."""
    from sqlalchemy.engine import NestedTransaction

    for _connection, inner, should_commit, autoclose in _entries(transaction):
        if not autoclose and (
            not should_commit
            or isinstance(inner, NestedTransaction)
            or session.join_transaction_mode == "control_fully"
        ):
            return "its session is bound to a connection with an open transaction"
    return None


def _touched(error: BaseException) -> tuple[dict[int, Session], dict[int, Connection]]:
    """The sessions and connections whose methods the errors of a chain have passed through."""
    sessions: dict[int, Session] = {}
    connections: dict[int, Connection] = {}
    for frame in _frames_of(error):
        _sort(frame.f_locals.get("self"), sessions, connections)
    return sessions, connections


def _frames_of(error: BaseException) -> Iterator[FrameType]:
    """The frames of SQLAlchemy's sessions and connections that the errors have passed through."""
    for one in causes(error):
        step = one.__traceback__
        while step is not None:
            frame, step = step.tb_frame, step.tb_next
            if frame.f_globals.get("__name__") in {
                "sqlalchemy.orm.session",
                "sqlalchemy.engine.base",
            }:
                yield frame


def _sort(thing: object, sessions: dict[int, Session], connections: dict[int, Connection]) -> None:
    """Put a session or connection, or what stands for one, where it belongs."""
    from sqlalchemy import Connection
    from sqlalchemy.orm import Session, scoped_session
    from sqlalchemy.orm.session import SessionTransaction

    asynchronous = sys.modules.get("sqlalchemy.ext.asyncio")
    scoped: tuple[type, ...] = (scoped_session,)
    if asynchronous is not None:
        scoped = (scoped_session, asynchronous.async_scoped_session)
    if isinstance(thing, scoped):
        thing = thing.registry() if thing.registry.has() else None  # type: ignore[attr-defined]
    if asynchronous is not None and isinstance(thing, asynchronous.AsyncSession):
        thing = thing.sync_session
    elif asynchronous is not None and isinstance(thing, asynchronous.AsyncConnection):
        thing = thing.sync_connection
    elif isinstance(thing, SessionTransaction):
        thing = thing.session
    if isinstance(thing, Session):
        sessions[id(thing)] = thing
    elif isinstance(thing, Connection):
        connections[id(thing)] = thing


def _root(session: Session) -> SessionTransaction | None:
    transaction = session.get_transaction()
    while transaction is not None and transaction.parent is not None:
        transaction = transaction.parent
    return transaction


def _entries(transaction: SessionTransaction) -> set[tuple[Connection, object, bool, bool]]:
    """Connection, its transaction, whether to commit it, whether the session opened it."""
    return set(transaction._connections.values())  # noqa: SLF001 - nothing public tells


def roll_back(survey: Survey) -> None:
    """Roll back sessions, and drop the connection of one that cannot."""
    for connection in survey.free:
        if not connection.invalidated:
            _end_leftover(connection.connection.dbapi_connection)
    for session in survey.begun:
        roll_back_or_drop(session)


def roll_back_or_drop(session: Session) -> None:
    """Roll back a session, or drop its connection where it cannot."""
    try:
        session.rollback()
    except Exception:  # noqa: BLE001 - the server is gone, and its transaction with it
        session.invalidate()


async def aroll_back(survey: Survey) -> None:
    """Do the same for sessions of asyncio as well."""
    if sys.modules.get("sqlalchemy.ext.asyncio") is None:
        roll_back(survey)
        return
    from sqlalchemy.util import greenlet_spawn

    await greenlet_spawn(roll_back, survey)


def put_back(mark: int) -> str | None:
    """Have the objects that were brought into sessions since ``mark`` be as they were before.

    Why that is not possible; ``None``: it is done.
    """
    brought = sys.modules.get("turnwise.sqlalchemy.brought")
    return None if brought is None else brought.put_back(mark)


def _site() -> str:
    """The line that began a transaction: the first that is not SQLAlchemy's."""
    for frame in frames_above(sys._getframe(2)):  # noqa: SLF001 - what traceback and logging use
        if not frame.f_globals.get("__name__", "").startswith("sqlalchemy."):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
    return "an unknown line"
