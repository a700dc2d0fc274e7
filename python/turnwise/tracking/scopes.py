"""Sessions for work that no request holds open: in background tasks, threads and jobs."""

from __future__ import annotations

import inspect
import sys
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Any, overload

from turnwise.classification import classify
from turnwise.errors import TransactionNotOwnedError, UnsupportedUnitError
from turnwise.sqlalchemy import sessions
from turnwise.units import check_factory

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextlib import AbstractContextManager
    from types import TracebackType
    from typing import Literal

    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    Outcome = Literal["open", "committed", "rolled_back", "unknown"]


@overload
def session_scope(factory: Callable[[], AsyncSession]) -> AsyncSessionScope: ...
@overload
def session_scope(factory: Callable[[], Session]) -> SessionScope: ...
def session_scope(factory: Callable[[], Any]) -> Any:
    """Have a session of one's own: commit at the end, roll back after any error, close always.

    ``with session_scope(SessionLocal) as session:``, or ``async with`` where ``factory`` makes
    asynchronous sessions. ``factory`` is called on entry and must make a new session. Errors
    include cancellation and the end of a generator. The scope's ``outcome`` says afterwards
    what became of the transaction; an error of COMMIT is raised, and nothing is retried:
    ``turnwise.run`` does that.

    Raises:
        TypeError: ``factory`` is no function: a session, for example.
        TransactionNotOwnedError: ``factory`` gave a session that is in use.
        UnsupportedUnitError: ``with`` on asynchronous sessions, or ``async with`` on others.
    """
    check_factory(factory)
    return _Either(factory)


class _Scope:
    """One session, from its making to its end."""

    outcome: Outcome
    """``"open"`` until the block has ended. ``"unknown"``: the connection was lost, or the task was
    stopped, during COMMIT."""

    def __init__(self, factory: Callable[[], Any]) -> None:
        self.outcome = "open"
        self._factory = factory
        self._session: Any = None

    def _open(self, *, is_async: bool) -> Any:
        if self._session is not None:
            raise TransactionNotOwnedError("a session_scope is entered once: make another one")
        session = self._factory()
        if inspect.iscoroutinefunction(getattr(session, "commit", None)) is not is_async:
            raise UnsupportedUnitError(
                "the factory makes sessions that block: write `with`, and call it off the loop"
                if is_async
                else "the factory makes asynchronous sessions: write `async with`"
            )
        _require_new(session)
        self._session = session
        return session

    def _failed(self, error: BaseException) -> None:
        """Note what a COMMIT that was not answered by success has come to."""
        is_error = isinstance(error, Exception)
        is_known = is_error and not classify(error, phase="commit").is_in_doubt
        self.outcome = "rolled_back" if is_known else "unknown"


class SessionScope(_Scope):
    """What ``session_scope`` returns for sessions that block."""

    def __enter__(self) -> Session:
        session: Session = self._open(is_async=False)
        return session

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None and self._may_commit():
                self._commit()
            else:
                self.outcome = "rolled_back"
                sessions.roll_back_or_drop(self._session)
        finally:
            self._close()

    def _may_commit(self) -> bool:
        return True

    def _commit(self) -> None:
        try:
            self._session.commit()
        except BaseException as error:
            self._failed(error)
            sessions.roll_back_or_drop(self._session)
            raise
        self.outcome = "committed"

    def _close(self) -> None:
        try:
            self._session.close()
        except Exception:  # noqa: BLE001 - neither hides an error nor undoes a COMMIT
            self._session.invalidate()


class AsyncSessionScope(_Scope):
    """What ``session_scope`` returns for asynchronous sessions."""

    async def __aenter__(self) -> AsyncSession:
        session: AsyncSession = self._open(is_async=True)
        return session

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        import asyncio

        if asyncio._get_running_loop() is None:  # noqa: SLF001 - a coroutine that outlives its loop
            self.outcome = "rolled_back"
            with suppress(Exception):
                self._session.sync_session.invalidate()
            return
        await to_the_end(self._aend(is_done=kind is None))

    async def _aend(self, *, is_done: bool) -> None:
        try:
            if is_done:
                await self._acommit()
            else:
                self.outcome = "rolled_back"
                await self._aroll_back()
        finally:
            await self._aclose()

    async def _acommit(self) -> None:
        try:
            await self._session.commit()
        except BaseException as error:
            self._failed(error)
            await self._aroll_back()
            raise
        self.outcome = "committed"

    async def _aroll_back(self) -> None:
        try:
            await self._session.rollback()
        except BaseException as error:
            await self._adrop()
            if not isinstance(error, Exception):
                raise

    async def _aclose(self) -> None:
        try:
            await self._session.close()
        except BaseException as error:
            await self._adrop()
            if not isinstance(error, Exception):
                raise

    async def _adrop(self) -> None:
        await self._session.invalidate()


class _Either(SessionScope, AsyncSessionScope):
    """Whichever of the two it is entered as."""


async def to_the_end(ending: Coroutine[Any, Any, None]) -> None:
    """Await something that cancellation must not interrupt, and be cancelled afterwards."""
    import asyncio

    task = asyncio.ensure_future(ending)
    cancelled: asyncio.CancelledError | None = None
    with undisturbed():
        while not task.done():
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError as error:
                if task.done():
                    break
                cancelled = error
            except BaseException:  # noqa: BLE001 - read from the task below
                break
    if cancelled is None or (not task.cancelled() and task.exception() is not None):
        task.result()
    if cancelled is not None:
        raise cancelled


def undisturbed() -> AbstractContextManager[object]:
    """Have anyio wait, which otherwise cancels again at every turn of the loop."""
    anyio = sys.modules.get("anyio")
    return nullcontext() if anyio is None else anyio.CancelScope(shield=True)


def _require_new(session: Any) -> None:
    """Refuse a session that somebody uses: it would be committed and closed under their feet."""
    is_open = getattr(session, "in_transaction", False)
    if is_open() if callable(is_open) else is_open:
        why = "is in a transaction"
    elif any(True for _ in session):
        why = "holds objects"
    else:
        return
    raise TransactionNotOwnedError(
        f"the factory gave a session that somebody uses: it {why}. Pass what makes a new one, "
        "such as a sessionmaker; that of a scoped_session is its `session_factory`"
    )


__all__ = ["AsyncSessionScope", "SessionScope", "session_scope", "to_the_end", "undisturbed"]
