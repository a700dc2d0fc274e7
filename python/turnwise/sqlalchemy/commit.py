"""``commit_with_retry``: a commit that is tried again where that is the truth, and nowhere else."""

from __future__ import annotations

import asyncio
import inspect
import sys
import time
from typing import TYPE_CHECKING, Any, Literal, NoReturn, overload

from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError

from turnwise.attempts import Attempts, add_note, causes, plan
from turnwise.classification import classify
from turnwise.errors import (
    CommitNotReplayableError,
    CommitOutcomeUnknownError,
    LockTimeoutError,
)
from turnwise.sqlalchemy.committing import (
    Committing,
    connections_of,
    has_turns,
    is_open,
)
from turnwise.sqlalchemy.greenlets import sleep, wait
from turnwise.sqlalchemy.restoring import NotRestoredError, PendingWork, flushed
from turnwise.sqlalchemy.sessions import roll_back_or_drop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
    from sqlalchemy.orm import scoped_session
    from typing_extensions import Unpack

    from turnwise._native import Verdict
    from turnwise.attempts import Plan, Settings

    Verify = Callable[[], bool | Awaitable[bool]]

_SHOWN = 20
"""How many lost objects a message names; the error's ``lost`` has all."""


@overload
def commit_with_retry(
    session: Session | scoped_session[Any],
    *,
    verify: Callable[[], bool] | None = None,
    **settings: Unpack[Settings],
) -> Literal[True]: ...


@overload
def commit_with_retry(
    session: AsyncSession | async_scoped_session[Any],
    *,
    verify: Verify | None = None,
    **settings: Unpack[Settings],
) -> Coroutine[Any, Any, Literal[True]]: ...


def commit_with_retry(
    session: Any,
    *,
    verify: Verify | None = None,
    **settings: Unpack[Settings],
) -> Literal[True] | Coroutine[Any, Any, Literal[True]]:
    """Commit a session, again where an error of the database says that this may help.

    Returns ``True`` once the database has committed, and raises otherwise. With a session of
    asyncio: to be awaited.

    COMMIT itself is repeated where SQLite's transaction is still open. Work is done again if the
    transaction has held nothing before this call but pending changes of the session: they are put
    back as they were, and flushed and committed anew, with the session's events.

    ``verify`` is called when the connection was lost during COMMIT: ``True``, the transaction is in
    the database; ``False``, it is not and never will be. ``settings``: see
    ``turnwise.attempts.Settings``.

    Raises:
        CommitNotReplayableError: Trying again could help, but the work cannot be put back. Nothing
            is committed, the session is rolled back, and the error names what is to be done again.
        CommitOutcomeUnknownError: Whether it is committed is not known, and ``verify`` did not say.
        Exception: Any other error is raised as it came, and the session is as SQLAlchemy leaves it.
    """
    how = plan(settings)
    target = session.registry() if hasattr(session, "registry") else session
    if isinstance(target, Session):
        return _Commit(target, how, verify).run()
    if not hasattr(target, "run_sync"):
        raise TypeError(f"a session is needed, not {type(session).__name__}")
    return _commit_async(target, how, verify)


async def _commit_async(session: AsyncSession, how: Plan, verify: Verify | None) -> Literal[True]:
    return await session.run_sync(lambda target: _Commit(target, how, verify).run())


class _Commit:
    """One call."""

    def __init__(self, session: Session, how: Plan, verify: Verify | None) -> None:
        self._session, self._how, self._verify = session, how, verify
        self._began = time.monotonic_ns()
        self._attempts: Attempts | None = None
        self._committing = Committing(session, self._heal)
        self._is_alone = not connections_of(session.get_transaction())
        self._work = PendingWork(session, names_only=not self._is_alone)
        self._verdict: Verdict | None = None

    def run(self) -> Literal[True]:
        """Commit, until that succeeds or gives reason to raise."""
        with self._committing:
            while True:
                try:
                    self._session.commit()
                except BaseException as error:  # noqa: BLE001 - a cancellation may come at COMMIT
                    pause = self._after(error)
                else:
                    if self._attempts is not None:
                        self._attempts.recovered()
                    return True
                sleep(pause)

    def _heal(self, connection: Connection, error: Exception) -> bool:
        """COMMIT has failed: whether it has succeeded all the same, or is to be sent again."""
        still_open, overrides = is_open(connection), self._how.overrides
        verdict = classify(error, phase="commit", in_transaction=still_open, overrides=overrides)
        self._verdict = verdict
        if verdict.is_in_doubt:
            if self._ask(error):
                return True
            self._verdict = classify(error, phase="statement", overrides=overrides)
        elif verdict.scope == "commit" and still_open and not has_turns(connection):
            sleep(self._pause(error, verdict))
            return False
        raise error

    def _ask(self, error: Exception) -> bool:
        """Whether a transaction whose COMMIT had no answer is committed."""
        if self._verify is None:
            raise _unknown("the connection was lost during COMMIT") from error
        try:
            answer = self._verify()
            if inspect.isawaitable(answer):
                answer = wait(answer)
        except Exception as failure:  # noqa: BLE001 - the application's
            add_note(error, f"turnwise: verify() has failed with {type(failure).__name__}")
            raise _unknown("the connection was lost during COMMIT, verify() failed") from error
        if not isinstance(answer, bool):
            raise _unknown(
                "the connection was lost during COMMIT, verify() gave no bool"
            ) from error
        return answer

    def _after(self, error: BaseException) -> float:
        """Seconds to wait, with the work put back; raises if it is not to be tried again."""
        committing = self._committing
        if isinstance(error, CommitOutcomeUnknownError):
            raise error
        if committing.committed and not committing.is_complete:
            raise _unknown("one of the session's databases has committed, another not") from error
        if committing.committed:
            add_note(error, "turnwise: this came after COMMIT: the transaction is committed")
            raise error
        if not isinstance(error, Exception):
            self._raise_interrupted(error)
        if committing.has_failed and self._session.twophase:
            raise _unknown("COMMIT of a prepared transaction has failed") from error
        verdict = self._verdict if committing.has_failed else self._before_commit(error)
        # A stale object is for the application to load, and to decide on again.
        if verdict is None or not verdict.is_retryable or isinstance(error, StaleDataError):
            raise error
        if committing.is_autocommit:
            raise _unknown("in AUTOCOMMIT each statement commits, and one has failed") from error
        if any(isinstance(one, LockTimeoutError) for one in causes(error)):
            self._give_up(error)  # `install` has waited for the lock as long as it may.
        self._require_replayable(error)
        pause = self._pause(error, verdict)
        self._put_back(error)
        return pause

    def _raise_interrupted(self, error: BaseException) -> NoReturn:
        """A cancellation, Ctrl-C or an exit."""
        if self._committing.is_sent:
            if isinstance(error, asyncio.CancelledError):
                raise _unknown("COMMIT was cancelled after it was sent") from error
            add_note(error, "turnwise: COMMIT was sent; whether it took effect is not known")
        raise error

    def _before_commit(self, error: Exception) -> Verdict:
        """What an error means while COMMIT has certainly not been sent."""
        verdict = classify(error, overrides=self._how.overrides)
        if verdict.is_in_doubt:
            return classify(error, phase="statement", overrides=self._how.overrides)
        return verdict

    def _require_replayable(self, error: Exception) -> None:
        obstacle = self._work.obstacle() or self._committing.obstacle()
        if not self._is_alone:
            obstacle = "other statements ran in the transaction before"
        if obstacle is not None:
            self._give_back(error, obstacle)

    def _give_back(self, error: Exception, obstacle: str) -> NoReturn:
        """What cannot be put back: the unit of work around this runs again, or the caller does."""
        if is_in_unit():
            raise error
        lost = self._lost()
        self._roll_back()
        raise not_replayable(obstacle, lost) from error

    def _lost(self) -> list[str]:
        if self._is_alone:
            return self._work.names()
        return [*self._work.names(), *flushed(self._session, self._work)]

    def _pause(self, error: Exception, verdict: Verdict) -> float:
        """Seconds until the next attempt; raises the error itself once they are spent."""
        if self._attempts is None:
            self._attempts = self._how.attempts("commit_with_retry", started_at_ns=self._began)
        pause = self._attempts.after(error, verdict=verdict)
        if pause is None:
            self._verdict = None
            self._attempts.note(error)
            self._give_up(error)
        return pause

    def _give_up(self, error: Exception) -> NoReturn:
        add_note(error, f"turnwise: not committed: {named(self._lost())}")
        raise error

    def _put_back(self, error: Exception) -> None:
        self._roll_back()
        self._committing.forget()
        try:
            self._work.restore()
        except NotRestoredError as reason:
            self._roll_back()
            self._give_back(error, str(reason))
        except Exception as failure:  # noqa: BLE001 - a listener's
            self._roll_back()
            self._give_back(error, f"a listener has failed with {type(failure).__name__}")
        except BaseException:
            self._roll_back()  # Not half of it.
            raise

    def _roll_back(self) -> None:
        roll_back_or_drop(self._session)


def _unknown(why: str) -> CommitOutcomeUnknownError:
    return CommitOutcomeUnknownError(
        f"{why}: whether the work is in the database is not known, so read it before you repeat it"
    )


def not_replayable(reason: str, lost: Sequence[str]) -> CommitNotReplayableError:
    """The error for work that is rolled back and has to be done again."""
    error = CommitNotReplayableError(
        f"rolled back, and not to be repeated, because {reason}; to be done again: {named(lost)}"
    )
    error.reason, error.lost = reason, tuple(lost)
    return error


def named(lost: Sequence[str]) -> str:
    """The lost work in one line."""
    if not lost:
        return "the statements of the transaction"
    rest = f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
    return ", ".join(lost[:_SHOWN]) + rest


def is_in_unit() -> bool:
    """Whether a unit of work on the stack above runs again what fails in it."""
    repeating = sys.modules.get("turnwise._repeating")
    return repeating is not None and bool(repeating._is_inside_another(sys._getframe()))  # noqa: SLF001
