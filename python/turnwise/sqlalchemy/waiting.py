"""How the SQLAlchemy layer waits: a thread blocks, a task is suspended."""

from __future__ import annotations

import sqlite3
import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

from turnwise._process import running_task
from turnwise.turn import TurnContext

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from types import FrameType

    from turnwise._native import NativeTurn
    from turnwise.turn import TurnLock

_OURS = frozenset({"sqlalchemy", "turnwise"})
# Kept here: an application may put ours in its place.
_Cursor = sqlite3.Cursor


class Waiting(Protocol):
    """How one connection waits, and how a statement of ours is run on it."""

    def turn(self, lock: TurnLock, timeout: float, site: str) -> NativeTurn:
        """Wait for the turn.

        Raises:
            LockTimeoutError: It was not to be had. Names the holder.
            TurnReenteredError: This thread or task has it.
        """

    def sleep(self, seconds: float) -> None:
        """Wait."""

    def run(self, sql: str) -> list[Any]:
        """Run a statement, and return its rows."""


class Blocking:
    """On a connection of ``sqlite3``: the thread waits."""

    def __init__(self, raw: sqlite3.Connection) -> None:
        self._raw = raw

    def turn(self, lock: TurnLock, timeout: float, site: str) -> NativeTurn:
        """Wait for the turn."""
        return lock.acquire(timeout, site, running_task())

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def run(self, sql: str) -> list[Any]:
        """Run a statement, past the application's row factory."""
        return _Cursor(self._raw).execute(sql).fetchall()


class Suspending:
    """On a connection of ``aiosqlite``: the task waits, in SQLAlchemy's greenlet."""

    def __init__(self, driver_connection: Any) -> None:
        # SQLAlchemy 2.1 calls it await_, and will drop this name with 2.2.
        from sqlalchemy.util import concurrency

        self._wait: Callable[[Awaitable[Any]], Any] = (
            concurrency.await_ if hasattr(concurrency, "await_") else concurrency.await_only
        )
        self._connection = driver_connection

    def turn(self, lock: TurnLock, timeout: float, site: str) -> NativeTurn:
        """Wait for the turn."""
        turn: NativeTurn = self._wait(TurnContext(lock, timeout, site).__aenter__())
        return turn

    def sleep(self, seconds: float) -> None:
        """Wait."""
        import asyncio

        self._wait(asyncio.sleep(seconds))

    def run(self, sql: str) -> list[Any]:
        """Run a statement in the connection's thread."""
        return list(self._wait(self._connection.execute_fetchall(sql)))


def place() -> str:
    """The line of the application that runs a statement, above SQLAlchemy and its greenlets."""
    for frame in _frames(sys._getframe(1)):  # noqa: SLF001 - what traceback and logging use
        # Code that SQLAlchemy generates has no file, but the name of its module.
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in _OURS:
            break
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _frames(innermost: FrameType) -> Iterator[FrameType]:
    """The frames of this greenlet, then those of the coroutine that waits for it, and so on."""
    loaded = sys.modules.get("greenlet")
    greenlet = loaded.getcurrent() if loaded else None
    frame: FrameType | None = innermost
    while frame is not None:
        yield frame
        frame = frame.f_back
        if frame is None and greenlet is not None:
            greenlet = greenlet.parent
            frame = greenlet.gr_frame if greenlet is not None else None
