"""Units of work: functions that are run again as a whole when the database asks for it.

``retry_on_deadlock`` and ``retry`` decorate a function, ``run`` calls one with a session and
commits. The wrapper notes the time, some tens of nanoseconds, and that of a coroutine looks
whether its task has left a mark for its children, a hundred more; everything else happens once the
function has failed.

The outermost unit retries: one that is called in another lets its errors through, unless a session
has committed since the other began, which then cannot be run again. Another thread, and another
asyncio task, is another unit.
"""

from __future__ import annotations

import functools
import inspect
import sys
from copy import deepcopy
from typing import TYPE_CHECKING, overload

from turnwise import _native
from turnwise._repeating import Unit, wrapped
from turnwise.attempts import add_note, plan
from turnwise.classification import classify
from turnwise.errors import (
    CommitOutcomeUnknownError,
    InvalidSettingError,
    TransactionNotOwnedError,
    UnsupportedUnitError,
)
from turnwise.sqlalchemy import sessions

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any, TypeVar

    from typing_extensions import ParamSpec, Unpack

    from turnwise._native import Verdict
    from turnwise._repeating import On
    from turnwise.attempts import Plan, Settings

    P = ParamSpec("P")
    R = TypeVar("R")
    S = TypeVar("S")
    Verify = Callable[[], object]

_NOT_COMMITTED = _native.Verdict(
    fate="lost_before_commit", scope="connection", retry="unavailable", class_="connection_lost"
)


@overload
def retry_on_deadlock(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def retry_on_deadlock(
    *, copy_arguments: bool = False, **settings: Unpack[Settings]
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def retry_on_deadlock(
    function: Callable[..., Any] | None = None,
    /,
    *,
    copy_arguments: bool = False,
    **settings: Unpack[Settings],
) -> Callable[..., Any]:
    """Run a function again when its transaction has lost against another one.

    That is a deadlock, a serialization failure, a stale snapshot, a lock that is taken or was
    waited for too long; never a lost connection, never a commit whose outcome is unknown. For
    functions and coroutine functions; under ``@classmethod`` and ``@staticmethod``.

    Before the next attempt it rolls back the sessions of SQLAlchemy that this thread or task has
    begun since the first one, and no others. The same arguments are passed again;
    ``copy_arguments=True`` passes deep copies of those that are lists, dicts or sets each time.
    The other settings are those of ``turnwise.attempts.Settings``; durations are in seconds.

    Raises:
        UnsupportedUnitError: A generator function, a class or something that cannot be called.
        InvalidPolicyError: A setting is out of range.
        TransactionNotOwnedError: By the function: it failed in a transaction that its caller had
            begun. It is the driver's own error as well, which is what is raised otherwise.
    """
    return _decorate(
        function, Unit(plan(settings), conflicts_only=True), copy_arguments=copy_arguments
    )


@overload
def retry(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def retry(
    *, on: On | None = None, copy_arguments: bool = False, **settings: Unpack[Settings]
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def retry(
    function: Callable[..., Any] | None = None,
    /,
    *,
    on: On | None = None,
    copy_arguments: bool = False,
    **settings: Unpack[Settings],
) -> Callable[..., Any]:
    """Run a function again after every error that ``classify`` calls retryable.

    Beside what ``retry_on_deadlock`` retries these are lost connections, as long as COMMIT was not
    sent, and overloaded servers. ``on`` names more: exception types, or a function that is given
    the error. A commit in doubt is never retried. All else is as there.
    """
    named = all(isinstance(kind, type) for kind in on) if isinstance(on, tuple) else callable(on)
    if on is not None and not named:
        raise TypeError("on is an exception type, a tuple of them, or a function of the error")
    return _decorate(function, Unit(plan(settings), on=on), copy_arguments=copy_arguments)


@overload
def run(
    function: Callable[[S], Coroutine[Any, Any, R]],
    *,
    session_factory: Callable[[], S],
    verify: Verify | None = None,
    **settings: Unpack[Settings],
) -> Coroutine[Any, Any, R]: ...
@overload
def run(
    function: Callable[[S], R],
    *,
    session_factory: Callable[[], S],
    verify: Verify | None = None,
    **settings: Unpack[Settings],
) -> R: ...
def run(
    function: Callable[[Any], Any],
    *,
    session_factory: Callable[[], Any],
    verify: Verify | None = None,
    **settings: Unpack[Settings],
) -> Any:
    """Call ``function(session)``, commit, close the session, and return the result.

    After an error that ``retry`` would retry, all of it is done again with a new session. For an
    ``async def`` it returns a coroutine, and ``session_factory`` makes asynchronous sessions.

    ``verify()`` is asked when a connection is lost during COMMIT: true, it is committed; false, it
    is not and never will be, so it is run again. It may be a coroutine function where the function
    is.

    Raises:
        CommitOutcomeUnknownError: COMMIT failed, and nobody could tell whether it took effect.
        TransactionNotOwnedError: ``session_factory`` gave a session with an open transaction.
        TransactionPoisonedError: The function has swallowed an error of PostgreSQL, which would
            answer COMMIT with ROLLBACK.
        UnsupportedUnitError: As ``retry_on_deadlock``.
    """
    check_factory(session_factory)
    name = _name(_checked(function))
    is_async = _is_async(function)
    transaction = _Transaction(plan(settings), session_factory, verify, is_async=is_async)
    once = functools.partial(transaction.arun if is_async else transaction.run, function)
    return wrapped(transaction, once, name, is_async=is_async)()


class _Transaction(Unit):
    """The unit of work of ``run``: one session, one COMMIT."""

    def __init__(
        self,
        plan: Plan,
        session_factory: Callable[[], Any],
        verify: Verify | None,
        *,
        is_async: bool,
    ) -> None:
        super().__init__(plan)
        self._is_async = is_async
        self._session_factory = session_factory
        self._verify = verify
        self._disproved = 0

    def judge(self, error: Exception) -> Verdict | None:
        """Retry a COMMIT in doubt that has not taken effect, and what ``retry`` retries."""
        return _NOT_COMMITTED if id(error) == self._disproved else super().judge(error)

    def run(self, function: Callable[[Any], R]) -> R:
        """One attempt."""
        session, is_done = self._open(), False
        try:
            result = function(session)
            refuse_coroutine(result)
            _require_intact(session)
            is_done = True
            session.commit()
        except BaseException as error:
            _undo(session)
            ask = self._whom_to_ask(error, is_done=is_done)
            if ask is None:
                raise
            try:
                answer, _ = sessions.apart(ask)
            except Exception as failure:  # noqa: BLE001 - whatever it was, nobody knows
                raise _unknown(f"verify failed: {type(failure).__name__}") from error
            if not answer:
                self._disproved = id(error)
                raise
        finally:
            try:
                session.close()
            except Exception:  # noqa: BLE001 - neither hides an error nor undoes a COMMIT
                _drop(session)
        return result

    async def arun(self, function: Callable[[Any], Coroutine[Any, Any, R]]) -> R:
        """Do the same in a coroutine."""
        import asyncio

        session, is_done = self._open(), False
        try:
            result = await function(session)
            await _arequire_intact(session)
            is_done = True
            await session.commit()
        except BaseException as error:
            await _aundo(session)
            ask = self._whom_to_ask(error, is_done=is_done)
            if ask is None:
                raise
            try:
                answer, context = sessions.apart(ask)
                if inspect.iscoroutine(answer):
                    answer = await context.run(asyncio.create_task, answer)
            except Exception as failure:  # noqa: BLE001 - whatever it was, nobody knows
                raise _unknown(f"verify failed: {type(failure).__name__}") from error
            if not answer:
                self._disproved = id(error)
                raise
        finally:
            try:
                await asyncio.shield(asyncio.ensure_future(session.close()))
            except Exception:  # noqa: BLE001 - neither hides an error nor undoes a COMMIT
                _drop(session)
        return result

    def _open(self) -> Any:  # noqa: ANN401 - a session of any kind
        session = self._session_factory()
        if inspect.iscoroutinefunction(getattr(session, "commit", None)) is not self._is_async:
            raise UnsupportedUnitError(
                "the function is async def, but session_factory makes sessions that block"
                if self._is_async
                else "session_factory makes asynchronous sessions, but the function is no async def"
            )
        is_open = getattr(session, "in_transaction", False)
        if is_open() if callable(is_open) else is_open:
            raise TransactionNotOwnedError("session_factory gave a session in a transaction")
        self._disproved = 0
        return session

    def _whom_to_ask(self, error: BaseException, *, is_done: bool) -> Verify | None:
        """``verify``, if the error leaves open whether COMMIT has taken effect.

        It runs in a context of its own: what it commits, the unit has not.
        """
        if not isinstance(error, Exception):
            if is_done:
                add_note(error, "turnwise: cancelled in COMMIT: it is unknown whether it was done")
            return None
        if not classify(error, overrides=self.plan.overrides).is_in_doubt:
            return None
        # A function that has committed by itself has no result yet, whatever the answer is.
        if self._verify is None or not is_done:
            raise _unknown("read the data back before it is done again") from error
        return self._verify


def check_factory(session_factory: object) -> None:
    """Refuse a session where a function that makes one is needed."""
    if not callable(session_factory):
        raise TypeError(
            "session_factory is a sessionmaker or another function that makes a session, not "
            f"{type(session_factory).__name__}"
        )


def refuse_coroutine(result: object) -> None:
    """Refuse what a plain function has left undone, before it is taken for done."""
    if inspect.iscoroutine(result):
        result.close()
        raise UnsupportedUnitError(
            "the function has returned a coroutine, in which nothing has run yet: write async def"
        )


def check_whole(name: str, value: object, least: int) -> None:
    """Refuse what is no whole number, or too small."""
    if not isinstance(value, int) or value < least:
        raise InvalidSettingError(f"{name} is a whole number from {least}, not {value!r}")


def _unknown(why: str) -> CommitOutcomeUnknownError:
    return CommitOutcomeUnknownError(f"it is unknown whether COMMIT took effect: {why}")


def _require_intact(session: Any) -> None:  # noqa: ANN401 - a session of any kind
    """Refuse a COMMIT that PostgreSQL would answer with ROLLBACK, and drivers with silence."""
    module = sys.modules.get("sqlalchemy.orm")
    if module is not None and isinstance(session, module.Session):
        from turnwise.sqlalchemy.committing import require_intact_session

        require_intact_session(session)


async def _arequire_intact(session: Any) -> None:  # noqa: ANN401 - a session of any kind
    """Do the same in a coroutine."""
    module = sys.modules.get("sqlalchemy.ext.asyncio")
    if module is not None and isinstance(session, module.AsyncSession):
        from turnwise.sqlalchemy.committing import arequire_intact_session

        await arequire_intact_session(session)


def _undo(session: Any) -> None:  # noqa: ANN401 - a session of any kind
    """Roll back: a session that is only closed leaves new objects behind as if they were stored.

    Added again in the next attempt, they would not be written.
    """
    try:
        session.rollback()
    except Exception:  # noqa: BLE001 - closing drops what cannot be rolled back
        _drop(session)


async def _aundo(session: Any) -> None:  # noqa: ANN401 - a session of any kind
    """Do the same in a coroutine, also in one that is cancelled."""
    import asyncio

    try:
        await asyncio.shield(asyncio.ensure_future(session.rollback()))
    except Exception:  # noqa: BLE001 - closing drops what cannot be rolled back
        _drop(session)


def _drop(session: object) -> None:
    invalidate = getattr(session, "invalidate", None)
    if invalidate is not None and not inspect.iscoroutinefunction(invalidate):
        invalidate()


def _decorate(
    function: Callable[..., Any] | None, unit: Unit, *, copy_arguments: bool
) -> Callable[..., Any]:
    if function is None:
        return lambda function: _decorate(function, unit, copy_arguments=copy_arguments)
    called = _copying(_checked(function)) if copy_arguments else _checked(function)
    return wrapped(unit, called, _name(function), is_async=_is_async(function))


def _checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse what cannot be run again as a whole."""
    if isinstance(function, (classmethod, staticmethod)):
        kind = type(function).__name__
        raise UnsupportedUnitError(f"write @{kind} above the decorator of the unit of work")
    if isinstance(function, type) or not callable(function):
        raise UnsupportedUnitError(
            f"a unit of work is a function, not {function!r}; settings have names: max_attempts=3"
        )
    for code in (function, type(function).__call__):
        if inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code):
            raise UnsupportedUnitError(
                f"{_name(function)} is a generator function: what it has handed out cannot be "
                "taken back"
            )
    return function


def _is_async(function: Callable[..., Any]) -> bool:
    return any(map(inspect.iscoroutinefunction, (function, type(function).__call__)))


def _name(function: Callable[..., Any]) -> str:
    function = getattr(function, "func", function)
    qualified = getattr(function, "__qualname__", type(function).__qualname__)
    module = getattr(function, "__module__", None)
    return f"{module}.{qualified}" if module else qualified


def _copying(function: Callable[..., Any]) -> Callable[..., Any]:
    """Call a function with copies of its mutable arguments, which so stay as they were."""

    @functools.wraps(function)
    def called(*args: object, **kwargs: object) -> object:
        return function(*map(_copy, args), **{name: _copy(value) for name, value in kwargs.items()})

    return called


def _copy(value: object) -> object:
    return deepcopy(value) if isinstance(value, (list, dict, set)) else value
