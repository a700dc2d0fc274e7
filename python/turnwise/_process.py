"""What the package does once in a process, and what it knows of its callers."""

from __future__ import annotations

import atexit
import itertools
import os
import sys
import warnings
import weakref
from typing import TYPE_CHECKING

from turnwise import _native

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

# How long the end of a process waits for writes that were submitted and not awaited.
_EXIT_TIMEOUT = 30.0


class _Once:
    """What was done already, and in which process."""

    warned = False
    exit_pid = 0
    finalized: tuple[str, ...] = ()


def warn_of_wal_reset_bug() -> None:
    """Warn once when the host's own SQLite has the WAL-reset bug."""
    if _Once.warned:
        return
    _Once.warned = True
    import sqlite3

    if (3, 7, 0) <= sqlite3.sqlite_version_info < (3, 51, 3):
        from turnwise.errors import WalResetBugWarning

        warnings.warn(
            f"Python's sqlite3 uses SQLite {sqlite3.sqlite_version}, which can corrupt a WAL "
            "database when two connections write or checkpoint at the same moment "
            "(https://sqlite.org/wal.html#walresetbug; fixed in 3.51.3). turnwise's own copy is "
            "not affected: let it do the writing.",
            WalResetBugWarning,
            stacklevel=3,
        )


def drain_at_exit() -> None:
    """Have this process wait at its end for writes that nobody awaited."""
    pid = os.getpid()
    if _Once.exit_pid != pid:
        if _Once.exit_pid == 0:
            atexit.register(_drain)
        _Once.exit_pid = pid
        _Once.finalized = ()
    # Children of these end in os._exit, which skips atexit.
    for package in ("multiprocessing", "billiard"):
        if f"{package}.util" in sys.modules and package not in _Once.finalized:
            _Once.finalized = (*_Once.finalized, package)
            sys.modules[f"{package}.util"].Finalize(None, _drain, exitpriority=100)
    if "celery.signals" in sys.modules and "celery" not in _Once.finalized:
        _Once.finalized = (*_Once.finalized, "celery")
        shutdown = sys.modules["celery.signals"].worker_process_shutdown
        shutdown.connect(_drain, weak=False, dispatch_uid="turnwise.drain")


def _drain(*_arguments: object, **_details: object) -> None:
    trouble = _native.drain_all(_EXIT_TIMEOUT)
    if trouble is not None:
        import logging

        logging.getLogger("turnwise").error(
            "process %d ends before every submitted write was committed: %s", os.getpid(), trouble
        )


# Unlike an `id`, a number is not used again once its task has ended.
_task_numbers: weakref.WeakKeyDictionary[object, int] = weakref.WeakKeyDictionary()
_next_task = itertools.count(1)


def running_task() -> int | None:
    """The number of the asyncio task that runs in this thread, given to it now if need be."""
    loaded = sys.modules.get("asyncio")
    if loaded is None or loaded._get_running_loop() is None:  # noqa: SLF001 - 20 ns
        return None
    task = loaded.current_task()
    if task is None:
        return None
    number = _task_numbers.get(task)
    if number is None:
        number = _task_numbers[task] = next(_next_task)
    return number


def known_task(task: object) -> int | None:
    """The number of an asyncio task; ``None`` for one that has never asked for a turn."""
    return None if task is None else _task_numbers.get(task)


def call_site(depth: int) -> str:
    """The file and line of a caller, ``depth`` functions above the one that asks."""
    frame = sys._getframe(depth + 1)  # noqa: SLF001 - what traceback and logging use
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def frames_above(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame and those that called it, also across SQLAlchemy's greenlets.

    A coroutine's frame leads on to whoever awaits it; a task's first one to the event loop.
    """
    waiting = waiting_frames()
    while frame is not None:
        yield frame
        frame = frame.f_back
        if frame is None:
            frame = next(waiting, None)


def waiting_frames() -> Iterator[FrameType]:
    """The frame that waits for this greenlet, then the one that waits for that, and so on."""
    greenlets = sys.modules.get("greenlet")
    here = greenlets.getcurrent() if greenlets is not None else None
    while here is not None:
        # The greenlet that started this one.
        here = here.parent
        if here is not None and here.gr_frame is not None:
            yield here.gr_frame
