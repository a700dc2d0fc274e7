"""How the SQLAlchemy layer waits: a thread blocks, a task is suspended."""

from __future__ import annotations

import sqlite3
import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

from turnwise._process import frames_above, running_task
from turnwise.sqlalchemy.greenlets import wait
from turnwise.turn import TurnContext

if TYPE_CHECKING:
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
        self._connection = driver_connection

    def turn(self, lock: TurnLock, timeout: float, site: str) -> NativeTurn:
        """Wait for the turn."""
        turn: NativeTurn = wait(TurnContext(lock, timeout, site).__aenter__())
        return turn

    def sleep(self, seconds: float) -> None:
        """Wait."""
        import asyncio

        wait(asyncio.sleep(seconds))

    def run(self, sql: str) -> list[Any]:
        """Run a statement in the connection's thread."""
        return list(wait(self._connection.execute_fetchall(sql)))


def place() -> str:
    """The line of the application that runs a statement, above SQLAlchemy and its greenlets."""
    for frame in frames_above(sys._getframe(1)):  # noqa: SLF001 - what traceback and logging use
        # Code that SQLAlchemy generates has no file, but the name of its module.
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in _OURS:
            break
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
