"""Work that blocks, done off the event loop, and what becomes of it when its task is cancelled."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from turnwise.classification import classify
from turnwise.sqlalchemy import sessions
from turnwise.tracking.scopes import SessionScope, undisturbed
from turnwise.units import check_factory, refuse_coroutine

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

T = TypeVar("T")

THREADS = 10
"""How many units of work run at once in a process; the others wait, without a connection. Fewer
than the 15 connections of SQLAlchemy's default pool, so that these threads alone never drain it."""


class CancelledTooLateError(asyncio.CancelledError):
    """The task was cancelled while its unit of work was beyond stopping: the work is done.

    Still a ``CancelledError``, so that who cancels the task gets what he wants. ``result`` is what
    the function has returned.
    """

    def __init__(self, result: object) -> None:
        super().__init__("the unit of work was done before it could be cancelled")
        self.result = result


async def to_thread(
    fn: Callable[..., T],
    /,
    *args: Any,
    session_factory: Callable[[], Any] | None = None,
    **kwargs: Any,
) -> T:
    """Run a function that blocks in a thread, with the caller's context, and return its result.

    With ``session_factory`` it is called as ``fn(session, *args, **kwargs)`` in a ``session_scope``
    of its own: committed when it returns, rolled back when it raises.

    A thread cannot be stopped. When the task is cancelled, it is nevertheless told the truth, and
    for that waits until the thread is done: ``CancelledError`` means that nothing was committed,
    because the function had not begun, has raised, or its session was rolled back instead of
    committed; ``CancelledTooLateError`` that the function has returned and all of it is committed,
    because COMMIT had begun, the function commits by itself, or there is no ``session_factory``.
    The function's own error is raised where a COMMIT is in doubt, or it had committed before.

    At most ``THREADS`` (10) run at once in a process.

    Raises:
        TransactionNotOwnedError: ``session_factory`` gave a session that is in use.
        UnsupportedUnitError: ``fn`` has returned a coroutine, or the sessions are asynchronous.
    """
    gate = _Gate()
    work = partial(fn, *args, **kwargs)
    if session_factory is not None:
        check_factory(session_factory)
        work = partial(_in_a_session, gate, session_factory, fn, *args, **kwargs)
    running = _submit(partial(copy_context().run, _called, gate, work))
    cancelled: asyncio.CancelledError | None = None
    landed = asyncio.wrap_future(running)
    with undisturbed():
        while not landed.done():
            try:
                await asyncio.wait({landed})
            except asyncio.CancelledError as error:
                if running.cancel():
                    raise
                gate.close()
                cancelled = cancelled or error
    if cancelled is None:
        return landed.result()
    failure = landed.exception()
    if failure is None:
        raise CancelledTooLateError(landed.result()) from cancelled
    if gate.has_committed or classify(failure).is_in_doubt:
        raise failure
    raise cancelled from None if isinstance(failure, _WithdrawnError) else failure


class _WithdrawnError(Exception):
    """A unit of work was rolled back because its task was cancelled."""


class _Gate:
    """Whether a unit of work may still be committed, and may still be cancelled."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._passed = self._closed = False
        self.has_committed = False

    def close(self) -> None:
        with self._lock:
            self._closed = not self._passed

    def passes(self) -> bool:
        with self._lock:
            self._passed = not self._closed
            return self._passed


class _GatedScope(SessionScope):
    """A session that is not committed once its task was cancelled."""

    def __init__(self, factory: Callable[[], Any], gate: _Gate) -> None:
        super().__init__(factory)
        self._gate = gate
        self._mark = time.monotonic_ns()

    def _may_commit(self) -> bool:
        # What is committed in part cannot be taken back as a whole.
        return self._gate.passes() or sessions.committed_at() > self._mark


def _in_a_session(
    gate: _Gate, factory: Callable[[], Any], fn: Callable[..., T], *args: object, **kwargs: object
) -> T:
    scope = _GatedScope(factory, gate)
    with scope as session:
        result = fn(session, *args, **kwargs)
        refuse_coroutine(result)
    if scope.outcome != "committed":
        raise _WithdrawnError
    return result


def _called(gate: _Gate, work: Callable[[], T]) -> T:
    _here.is_ours = True
    sessions.watch()
    mark = time.monotonic_ns()
    try:
        result = work()
        refuse_coroutine(result)
        return result
    finally:
        gate.has_committed = sessions.committed_at() > mark


class _Here(threading.local):
    is_ours = False


class _Threads:
    """The threads of this process; those of its parent are not in a child."""

    lock = threading.Lock()
    executor: ThreadPoolExecutor | None = None
    pid = 0


_here = _Here()


def _submit(work: Callable[[], T]) -> Future[T]:
    if _here.is_ours:
        # An event loop within a unit of work: all threads could wait for each other.
        return _submit_apart(work)
    with _Threads.lock:
        if _Threads.executor is None or _Threads.pid != os.getpid():
            _Threads.executor = ThreadPoolExecutor(THREADS, thread_name_prefix="turnwise")
            _Threads.pid = os.getpid()
        return _Threads.executor.submit(work)


def _submit_apart(work: Callable[[], T]) -> Future[T]:
    executor = ThreadPoolExecutor(1, thread_name_prefix="turnwise-nested")
    try:
        return executor.submit(work)
    finally:
        executor.shutdown(wait=False)


__all__ = ["THREADS", "CancelledTooLateError", "to_thread"]
