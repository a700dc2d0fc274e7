"""The wrapper around a unit of work, and what happens once it has failed."""

from __future__ import annotations

import functools
import importlib.util
import sys
import time
from types import CodeType
from typing import TYPE_CHECKING

from turnwise import _native
from turnwise._process import frames_above
from turnwise.attempts import Attempts, add_note, is_exhausted
from turnwise.classification import classify
from turnwise.ownership import not_owned, survey
from turnwise.sqlalchemy import sessions

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from types import FrameType
    from typing import Any

    from sqlalchemy.orm import Session

    from turnwise._native import Verdict
    from turnwise.attempts import Plan

    On = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], object]

# What another transaction's lock or another transaction's write has caused.
_CONFLICTS = frozenset({"contention", "deadlock", "serialization", "snapshot_stale", "timeout"})
_AGAIN = _native.Verdict(fate="aborted", scope="transaction", retry="redo")


class Unit:
    """What a unit of work retries, and how."""

    def __init__(self, plan: Plan, *, on: On | None = None, conflicts_only: bool = False) -> None:
        self.plan = plan
        self._on = on
        self._conflicts_only = conflicts_only

    def judge(self, error: Exception) -> Verdict | None:
        """The verdict of an error that this unit retries, else ``None``."""
        verdict = classify(error, overrides=self.plan.overrides)
        if verdict.is_in_doubt:
            add_note(error, "turnwise: not retried: it is unknown whether COMMIT took effect")
            return None
        if verdict.is_retryable and (not self._conflicts_only or verdict.class_ in _CONFLICTS):
            return verdict
        return _AGAIN if self._names(error) else None

    def _names(self, error: Exception) -> bool:
        if self._on is None:
            return False
        if isinstance(self._on, (type, tuple)):
            return isinstance(error, self._on)
        return bool(self._on(error))


class _Loop:
    """One call of a unit that has failed at least once."""

    def __init__(
        self,
        unit: Unit,
        name: str,
        mark: int,
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
    ) -> None:
        plan = unit.plan
        self._unit, self._mark, self._args, self._kwargs = unit, mark, args, kwargs
        self._attempts = Attempts(
            plan.policy,
            budget=plan.budget,
            overrides=plan.overrides,
            name=name,
            started_at_ns=mark,
        )
        self._pause = 0.0
        self._begun: list[Session] = []

    def begins(self, error: Exception) -> bool:
        """Whether the first failure is to be retried, by the unit that asks.

        Raises:
            TransactionNotOwnedError: It would be, but in its caller's transaction.
        """
        verdict = self._unit.judge(error)
        if verdict is None or is_exhausted(error) or _is_inside_another(sys._getframe(1)):  # noqa: SLF001
            return False
        return self._goes_on(error, verdict)

    def goes_on(self, error: Exception) -> bool:
        """Whether another failure is to be retried."""
        verdict = self._unit.judge(error)
        if verdict is None:
            self._attempts.give_up(error, "not_retryable")
            return False
        return self._goes_on(error, verdict)

    def _goes_on(self, error: Exception, verdict: Verdict) -> bool:
        if sessions.committed_at() > self._mark:
            add_note(error, "turnwise: not retried: a session has committed in the unit of work")
            self._attempts.give_up(error, "not_retryable")
            return False
        why, self._begun = survey(error, self._mark, self._args, self._kwargs)
        if why is not None:
            self._attempts.give_up(error, "not_retryable")
            raise not_owned(error, why) from error.__cause__
        pause = self._attempts.after(error, verdict=verdict)
        if pause is None:
            self._attempts.note(error)
            return False
        self._pause = pause
        return True

    def roll_back(self) -> None:
        """Roll back what the attempt has begun, while its error still keeps that alive."""
        sessions.roll_back(self._begun)
        self._begun = []

    async def aroll_back(self) -> None:
        """Do the same in a coroutine."""
        if self._begun:
            await sessions.aroll_back(self._begun)
            self._begun = []

    def repeat(self, function: Callable[..., Any]) -> Any:  # noqa: ANN401 - the function's own
        """Sleep and try again until it succeeds or is given up."""
        while True:
            if not sessions.await_in_greenlet(self._pause):
                time.sleep(self._pause)
            try:
                result = function(*self._args, **self._kwargs)
            except Exception as error:
                if not self.goes_on(error):
                    raise
                self.roll_back()
                continue
            self._attempts.recovered()
            return result

    async def arepeat(self, function: Callable[..., Any]) -> Any:  # noqa: ANN401 - the function's own
        """Do the same in a coroutine."""
        import asyncio

        while True:
            await asyncio.sleep(self._pause)
            try:
                result = await function(*self._args, **self._kwargs)
            except Exception as error:
                if not self.goes_on(error):
                    raise
                await self.aroll_back()
                continue
            self._attempts.recovered()
            return result


def synchronous(unit: Unit, function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Wrap a function."""
    clock = time.monotonic_ns

    def watching() -> int:
        nonlocal clock
        if sessions.watch():
            clock = time.monotonic_ns
        return time.monotonic_ns()

    if not _is_watched():
        clock = watching

    @functools.wraps(function)
    def attempt(*args: object, **kwargs: object) -> object:
        mark = clock()
        try:
            return function(*args, **kwargs)
        except Exception as error:
            loop = _Loop(unit, name, mark, args, kwargs)
            if not loop.begins(error):
                raise
            loop.roll_back()
        return loop.repeat(function)

    return attempt


def asynchronous(
    unit: Unit, function: Callable[..., Coroutine[Any, Any, Any]], name: str
) -> Callable[..., Coroutine[Any, Any, Any]]:
    """Wrap a coroutine function."""
    clock = time.monotonic_ns

    def watching() -> int:
        nonlocal clock
        if sessions.watch():
            clock = time.monotonic_ns
        return time.monotonic_ns()

    if not _is_watched():
        clock = watching

    @functools.wraps(function)
    async def attempt(*args: object, **kwargs: object) -> object:
        mark = clock()
        try:
            return await function(*args, **kwargs)
        except Exception as error:
            loop = _Loop(unit, name, mark, args, kwargs)
            if not loop.begins(error):
                raise
            await loop.aroll_back()
        return await loop.arepeat(function)

    return attempt


def _is_watched() -> bool:
    """Whether transactions are stamped, or there is no SQLAlchemy whose they could be.

    Otherwise each call has to look whether SQLAlchemy was loaded meanwhile: what was begun before
    the stamps is then older than the mark, and taken for the caller's.
    """
    return sessions.watch() or importlib.util.find_spec("sqlalchemy") is None


_CODES = frozenset(
    code
    for wrapping in (synchronous, asynchronous)
    for code in wrapping.__code__.co_consts
    if isinstance(code, CodeType) and code.co_name == "attempt"
)


def _is_inside_another(frame: FrameType) -> bool:
    """Whether a unit above this one's frame will retry: the last commit is older than it."""
    committed = sessions.committed_at()
    return any(
        above is not frame and above.f_code in _CODES and above.f_locals["mark"] >= committed
        for above in frames_above(frame)
    )
