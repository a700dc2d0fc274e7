"""The wrapper around a unit of work, and what happens once it has failed."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import sys
import time
from itertools import islice
from types import FunctionType
from typing import TYPE_CHECKING

from turnwise import _lineage, _native
from turnwise._process import frames_above
from turnwise.attempts import add_note, is_exhausted
from turnwise.classification import classify
from turnwise.ownership import not_owned, survey
from turnwise.sqlalchemy import greenlets, sessions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import CodeType, FrameType
    from typing import Any

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
        self._unit, self._mark, self._args, self._kwargs = unit, mark, args, kwargs
        self._attempts = unit.plan.attempts(name, started_at_ns=mark)
        self._pause = 0.0
        self._found: sessions.Survey | None = None

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
            verdict = classify(error, overrides=self._unit.plan.overrides)
            self._attempts.give_up(error, verdict, "not_retryable")
            return False
        return self._goes_on(error, verdict)

    def _goes_on(self, error: Exception, verdict: Verdict) -> bool:
        if sessions.committed_at() > self._mark:
            add_note(error, "turnwise: not retried: a session has committed in the unit of work")
            self._attempts.give_up(error, verdict, "not_retryable")
            return False
        found = survey(error, self._mark, self._args, self._kwargs)
        if found.foreign is not None:
            self._attempts.give_up(error, verdict, "not_retryable")
            raise not_owned(error, found.foreign) from error.__cause__
        if found.kept is not None:
            add_note(error, f"turnwise: not retried: {found.kept}")
            self._attempts.give_up(error, verdict, "not_retryable")
            return False
        self._found = found
        pause = self._attempts.after(error, verdict=verdict)
        if pause is None:
            self._attempts.note(error)
            return False
        self._pause = pause
        return True

    def roll_back(self, error: Exception) -> None:
        """Roll back what the attempt has begun, while its error still keeps that alive."""
        found, self._found = self._found, None
        if found and (found.begun or found.free):
            sessions.roll_back(found)
        self._put_back(error)

    async def aroll_back(self, error: Exception) -> None:
        """Do the same in a coroutine."""
        found, self._found = self._found, None
        if found and (found.begun or found.free):
            await sessions.aroll_back(found)
        self._put_back(error)

    def _put_back(self, error: Exception) -> None:
        if (why := sessions.put_back(self._mark)) is not None:
            add_note(error, f"turnwise: not retried: {why}")
            raise error

    def repeat(self, function: Callable[..., Any]) -> Any:  # noqa: ANN401 - the function's own
        """Sleep and try again until it succeeds or is given up."""
        while True:
            greenlets.sleep(self._pause)
            try:
                result = function(*self._args, **self._kwargs)
            except Exception as error:
                if not self.goes_on(error):
                    raise
                self.roll_back(error)
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
                await self.aroll_back(error)
                continue
            self._attempts.recovered()
            return result


# Written out with the parameters of the function: passed on as `*args, **kwargs` they would cost
# twice as much as all the rest (175 ns instead of 80, Python 3.11).
_SYNCHRONOUS = """
def attempt({parameters}):
    _turnwise_mark = _turnwise_clock()
    try:
        return _turnwise_function({call})
    except Exception as _turnwise_error:
        _turnwise_loop = _turnwise_start(_turnwise_mark, ({positional}), {{{named}}})
        if not _turnwise_loop.begins(_turnwise_error):
            raise
        _turnwise_loop.roll_back(_turnwise_error)
    return _turnwise_loop.repeat(_turnwise_function)
"""
_ASYNCHRONOUS = """
async def attempt({parameters}):
    _turnwise_mark = _turnwise_clock()
    _turnwise_mine = _turnwise_lineage()
    if _turnwise_mine is None or _turnwise_mine[0] != id(_turnwise_task(_turnwise_mine[4])):
        _turnwise_join()
    try:
        return await _turnwise_function({call})
    except Exception as _turnwise_error:
        _turnwise_loop = _turnwise_start(_turnwise_mark, ({positional}), {{{named}}})
        if not _turnwise_loop.begins(_turnwise_error):
            raise
        await _turnwise_loop.aroll_back(_turnwise_error)
    return await _turnwise_loop.arepeat(_turnwise_function)
"""
_MARK = "_turnwise_mark"


def wrapped(
    unit: Unit, function: Callable[..., Any], name: str, *, is_async: bool
) -> Callable[..., Any]:
    """A function that does the same as ``function``, and is the unit of work ``name``."""
    modules = sys.modules

    def watching() -> int:
        if "sqlalchemy.orm" in modules and sessions.watch():
            scope["_turnwise_clock"] = time.monotonic_ns
        return time.monotonic_ns()

    scope: dict[str, Any] = {
        "__name__": __name__,
        "_turnwise_clock": time.monotonic_ns if _is_watched() else watching,
        "_turnwise_function": function,
        "_turnwise_start": functools.partial(_Loop, unit, name),
    }
    if is_async:
        import asyncio

        scope["_turnwise_join"] = _lineage.join
        scope["_turnwise_lineage"] = _lineage.mark.get
        # `current_task` of Python < 3.12 is no built-in, and asks which loop and process this is:
        # 350 ns where 50 do.
        slow = sys.version_info < (3, 12)
        tasks = vars(asyncio.tasks)["_current_tasks"].get if slow else asyncio.current_task
        scope["_turnwise_task"] = tasks
    code = getattr(function, "__code__", None) if isinstance(function, FunctionType) else None
    source = (_ASYNCHRONOUS if is_async else _SYNCHRONOUS).format(**_parameters(code))
    exec(compile(source, "<turnwise unit of work>", "exec"), scope)  # noqa: S102 - names only
    attempt = scope["attempt"]
    if code is not None:
        attempt.__defaults__ = function.__defaults__
        attempt.__kwdefaults__ = function.__kwdefaults__
    wrapper: Callable[..., Any] = functools.wraps(function)(attempt)
    return wrapper


def _parameters(code: CodeType | None) -> dict[str, str]:
    """The texts of parameters and arguments; those of any function if there is no code to read."""
    if code is None:
        everything = "*args, **kwargs"
        return {
            "parameters": everything,
            "call": everything,
            "positional": "*args,",
            "named": "**kwargs",
        }
    names = iter(code.co_varnames)
    plain = list(islice(names, code.co_argcount))
    keywords = list(islice(names, code.co_kwonlyargcount))
    rest = [next(names)] if code.co_flags & inspect.CO_VARARGS else []
    more = [next(names)] if code.co_flags & inspect.CO_VARKEYWORDS else []
    # Defaults are set afterwards; without one here, none could follow another that has one.
    parameters = plain[: code.co_posonlyargcount]
    parameters += ["/"] if parameters else []
    parameters += plain[code.co_posonlyargcount :]
    parameters += [f"*{name}" for name in rest] or (["*"] if keywords else [])
    parameters += keywords
    parameters += [f"**{name}" for name in more]
    call = [*plain, *(f"*{name}" for name in rest)]
    call += [f"{name}={name}" for name in keywords]
    call += [f"**{name}" for name in more]
    return {
        "parameters": ", ".join(parameters),
        "call": ", ".join(call),
        "positional": "".join(f"{name}, " for name in [*plain, *(f"*{name}" for name in rest)]),
        "named": ", ".join(
            [*(f"{name!r}: {name}" for name in keywords), *(f"**{name}" for name in more)]
        ),
    }


def _is_watched() -> bool:
    """Whether transactions are stamped, or there is no SQLAlchemy whose they could be.

    Otherwise each call has to look whether SQLAlchemy was loaded meanwhile: what was begun before
    the stamps is then older than the mark, and taken for the caller's.
    """
    return sessions.watch() or importlib.util.find_spec("sqlalchemy") is None


def _is_inside_another(frame: FrameType) -> bool:
    """Whether a unit above this one's frame will retry: the last commit is older than it."""
    committed = sessions.committed_at(anywhere=True)
    return any(
        above is not frame
        and _MARK in above.f_code.co_varnames
        and above.f_locals[_MARK] >= committed
        for above in frames_above(frame)
    )
