"""The turn lock: processes that write one SQLite file queue for it, first in, first out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from turnwise import errors
from turnwise._native import NativeTurnLock
from turnwise._process import call_site, running_task

if TYPE_CHECKING:
    import asyncio
    from os import PathLike
    from types import TracebackType

    from typing_extensions import Self

    from turnwise._native import NativePending, NativeTurn


# Who has just got the turn may not have been written down yet.
_SECOND_LOOK = 0.01


@dataclass(frozen=True)
class TurnStats:
    """What the turn lock of a file has seen in this process."""

    waits: int
    """Turns that were not to be had at once."""
    hand_offs: int
    """Turns that went to the next waiter of this process without being given back."""
    fall_throughs: int
    """Times that somebody went on without a turn: it stood still, or no side file could be had."""
    outsiders: int
    """Times that a writer which knows nothing of turns held SQLite's lock in our turn."""


class TurnLock(NativeTurnLock):
    """The queue in front of one SQLite file, for writers on connections of their own.

    ``with lock.turn():`` (or ``async with``) around BEGIN IMMEDIATE ... COMMIT; ``BatchWriter`` and
    ``turnwise.sqlite3`` do that by themselves. It is advisory: where the turn stands still for
    ``turn_timeout`` seconds because its holder hangs, or no side file can be had, the wait ends
    without a turn, and SQLite's own lock decides as ever.

    - ``path``: the database file, which exists. Its links are resolved; the side files
      ``<db>-turn`` and ``<db>-turn-next`` are made beside it with the first turn, and stay.
    - ``turn_timeout``: seconds that the turn may stand still; ``None`` for ever.

    Safe to share between threads and tasks.
    """

    if TYPE_CHECKING:

        def __new__(cls, path: str | PathLike[str], *, turn_timeout: float | None = 2.0) -> Self:
            """Open the lock."""

    def turn(self, *, timeout: float | None = 30.0) -> TurnContext:
        """Wait for the turn on entry, ``timeout`` seconds at most, and give it back on exit.

        ``with`` blocks the thread, ``async with`` suspends the task. What is entered has ``held``:
        whether it is a turn, or leave to go on without one. Raises:

        - ``LockTimeoutError``, which names who has the turn;
        - ``TurnReenteredError`` where the thread or task has it already and would wait for itself.
        """
        return TurnContext(self, timeout, call_site(1))

    def stats(self) -> TurnStats:
        """Return what the lock has seen in this process."""
        return TurnStats(**self._stats())

    def __repr__(self) -> str:
        """Name the file."""
        return f"<TurnLock {self.path!r}>"


class TurnContext:
    """One turn: waited for on entry, given back on exit."""

    def __init__(self, lock: TurnLock, timeout: float | None, site: str) -> None:
        self._lock = lock
        self._timeout = timeout
        self._site = site
        self._turn: NativeTurn | None = None

    def __enter__(self) -> NativeTurn:
        """Wait for the turn, in this thread."""
        self._turn = turn = self._lock.acquire(self._timeout, self._site, running_task())
        return turn

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the turn back."""
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.release()

    async def __aenter__(self) -> NativeTurn:
        """Wait for the turn, suspended."""
        task = running_task()
        turn = self._lock.try_acquire(self._timeout, self._site, task)
        self._turn = turn = turn or await self._line_up(task)
        return turn

    async def _line_up(self, task: int | None) -> NativeTurn:
        import asyncio

        loop = asyncio.get_running_loop()
        until = math.inf if self._timeout is None else loop.time() + float(self._timeout)
        first = False
        while True:
            came: asyncio.Future[NativeTurn] = loop.create_future()
            pending = self._lock.request(loop, came, self._site, task, first=first)
            if pending is None:
                return self._lock.fall_through()
            try:
                turn = await self._wait(loop, came, pending, until)
                if turn.take_up():
                    return turn
            except BaseException:
                # The error keeps this frame alive, and with it a turn that has come.
                pending.withdraw()
                if not came.cancel() and not came.cancelled():
                    came.result().release()
                raise
            first = True

    async def _wait(
        self,
        loop: asyncio.AbstractEventLoop,
        came: asyncio.Future[NativeTurn],
        pending: NativePending,
        until: float,
    ) -> NativeTurn:
        import asyncio

        look = math.inf if self._lock.turn_timeout is None else self._lock.turn_timeout
        while not came.done():
            stuck = self._lock.is_stuck()
            left = min(until - loop.time(), _SECOND_LOOK if stuck else look)
            # `wait_for` loses a cancellation that comes with the result (Python < 3.12).
            await asyncio.wait({came}, timeout=None if left == math.inf else max(0.0, left))
            if came.done():
                break
            without = stuck and self._lock.is_stuck()
            if not without and loop.time() < until:
                continue
            if not pending.withdraw():
                # It is on its way.
                await asyncio.wait({came})
            elif without:
                return self._lock.fall_through()
            else:
                holder = self._lock.holder or "another process has had the turn"
                raise errors.LockTimeoutError(
                    f"database is locked: {holder}; nothing was written", sqlite_errorcode=5
                )
        return came.result()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the turn back."""
        self.__exit__(kind, error, traceback)


def _land(came: asyncio.Future[NativeTurn], turn: NativeTurn) -> None:
    if came.done():
        turn.release()
    else:
        came.set_result(turn)
