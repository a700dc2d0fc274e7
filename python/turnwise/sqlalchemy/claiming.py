"""How one worker claims: what it selects, how often it tries, and what leaving early means.

The generators here refer to nothing that refers to them: a loop that is left drops the last
reference to its iterator, which rolls back at once, not when the garbage is collected.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from turnwise import errors
from turnwise.attempts import Attempts, plan
from turnwise.classification import classify
from turnwise.sqlalchemy import leases
from turnwise.sqlalchemy.committing import arequire_intact_session, require_intact_session
from turnwise.sqlalchemy.skip_locked import locked_rows
from turnwise.sqlalchemy.transactions import aclose, close
from turnwise.units import refuse_coroutine, run

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Sequence

    from sqlalchemy import ColumnElement
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from turnwise._native import Verdict
    from turnwise.attempts import Settings

T = TypeVar("T")
R = TypeVar("R")

_logger = logging.getLogger("turnwise")


class Claiming(Generic[T]):
    """What is claimed, the rows at hand, and the retries of a batch."""

    def __init__(
        self,
        model: type[T],
        conditions: Sequence[ColumnElement[bool]],
        session_factory: Callable[[], Any],
        limit: int,
        order_by: object,
        lease: leases.Lease | None,
        settings: Settings,
    ) -> None:
        self.session_factory, self.settings, self.lease = session_factory, settings, lease
        self._name = model.__name__
        self._selection = (model, conditions, limit, order_by)
        self._plan = plan(settings)
        self._attempts: Attempts | None = None
        self._began = 0
        self.commits: bool | None = None
        """What leaving early means; ``None``: there is no ``with``, so nobody knows."""
        self.session: Any = None
        """That of the rows at hand; ``None``: none are locked."""

    def locked(self, session: Session) -> list[T]:
        """Lock the next rows."""
        self._began = self._began or time.monotonic_ns()
        return locked_rows(session, *self._selection)

    def leased(self, session: Session) -> list[T]:
        """Lease the next rows."""
        return self.leasing.claim(session, *self._selection)

    @property
    def leasing(self) -> leases.Lease:
        """The lease column; raises without one."""
        if self.lease is None:
            raise errors.UnsupportedUnitError(
                "rows that are claimed without lease= are committed by the loop"
            )
        return self.lease

    def pause(self, error: Exception) -> float:
        """Seconds until a batch that has failed is claimed again; raises where it is not."""
        verdict = self.check_doubt(error)
        if self._attempts is None:
            name = f"claim {self._name}"
            self._attempts = self._plan.attempts(name, started_at_ns=self._began)
        pause = self._attempts.after(error, verdict=verdict)
        if pause is None:
            self._attempts.note(error)
            raise error
        return pause

    def check_doubt(self, error: Exception) -> Verdict:
        """What an error means; raises where it leaves a COMMIT in doubt."""
        verdict = classify(error, overrides=self._plan.overrides)
        if verdict.is_in_doubt:
            raise errors.CommitOutcomeUnknownError(
                f"the connection was lost when claimed rows of {self._name} were committed: it is "
                "unknown whether they are"
            ) from error
        return verdict

    def check_locked(self, transaction: object, session: Session) -> None:
        """Raise if the rows that were not handed out yet may be another's by now."""
        if session.get_transaction() is not transaction:
            raise errors.UnsupportedUnitError(
                f"the transaction that locks the claimed rows of {self._name} was ended in the "
                "loop: claim commits it; or give limit=1"
            )

    def committed(self) -> None:
        """Begin to count anew."""
        if self._attempts is not None:
            self._attempts.recovered()
        self._attempts, self._began = None, 0

    def left(self, rows: Sequence[T]) -> bool:
        """Whether to commit, now that the loop is left; says so where nobody has asked for that."""
        if self.commits is None:
            self._tell(rows)
        return bool(self.commits)

    def to_release(self, rows: Sequence[T], at: int) -> list[T]:
        """The leased rows to release, now that a ``with`` block is left at one of them.

        Without ``with`` this may be anywhere, with other transactions open: they run out instead.
        """
        if self.commits is None:
            return []
        # After a break the row at hand may be in work elsewhere.
        return [row for row in rows[at + self.commits :] if leases.is_leased(row)]

    def _tell(self, rows: Sequence[T]) -> None:
        _logger.warning(
            "turnwise: %d claimed rows of %s were given back, and what was changed with them was "
            "rolled back: the loop was left early; `with claim(...) as rows` commits after a break",
            *(len(rows), self._name),
        )


class SyncClaiming(Claiming[T]):
    """The same with sessions that block."""

    def run(self, unit: Callable[[Session], R]) -> R:
        """A unit of work in a session of its own."""
        return run(unit, session_factory=self.session_factory, **self.settings)

    def complete(
        self, row: T, change: Callable[[Session, T], object] | None, values: dict[str, object]
    ) -> None:
        """Commit what has come of a leased row, and free it."""

        def unit(session: Session) -> None:
            stored = self.leasing.finish(session, row, values)
            if change is not None:
                refuse_coroutine(change(session, stored))

        self.run(unit)
        leases.forget(row)

    def locked_rows(self) -> Generator[T, None, None]:
        """Rows that are locked while they are handed out."""
        while True:
            session = self.session = self.session_factory()
            try:
                rows = self.locked(session)
                if not rows:
                    return
                transaction = session.get_transaction()
                try:
                    for row in rows:
                        self.check_locked(transaction, session)
                        yield row
                except GeneratorExit:
                    if self.left(rows):
                        self._commit(session)
                    raise
                require_intact_session(session)
                session.commit()
                self.committed()
                continue
            except Exception as error:  # noqa: BLE001 - raised again unless it is to be retried
                pause = self.pause(error)
            finally:
                self.session = None
                close(session)
            time.sleep(pause)

    def _commit(self, session: Session) -> None:
        try:
            require_intact_session(session)
            session.commit()
        except Exception as error:
            self.check_doubt(error)
            raise

    def leased_rows(self) -> Generator[T, None, None]:
        """Rows that are leased, and detached."""
        while rows := self.run(self.leased):
            for at, row in enumerate(rows):
                try:
                    yield row
                except GeneratorExit:
                    for left in self.to_release(rows, at):
                        with contextlib.suppress(Exception):  # It is free when it has run out.
                            self.complete(left, None, {})
                    raise


class AsyncClaiming(Claiming[T]):
    """The same with sessions that are awaited."""

    async def run(self, unit: Callable[[AsyncSession], Coroutine[Any, Any, R]]) -> R:
        """A unit of work in a session of its own."""
        result: R = await run(unit, session_factory=self.session_factory, **self.settings)
        return result

    async def complete(
        self, row: T, change: Callable[[AsyncSession, T], object] | None, values: dict[str, object]
    ) -> None:
        """Commit what has come of a leased row, and free it."""

        async def unit(session: AsyncSession) -> None:
            stored = await session.run_sync(self.leasing.finish, row, values)
            done = change(session, stored) if change is not None else None
            if inspect.isawaitable(done):
                await done

        await self.run(unit)
        leases.forget(row)

    async def locked_rows(self) -> AsyncGenerator[T, None]:
        """Rows that are locked while they are handed out."""
        while True:
            session = self.session = self.session_factory()
            try:
                rows = await session.run_sync(self.locked)
                if not rows:
                    return
                transaction = session.sync_session.get_transaction()
                try:
                    for row in rows:
                        self.check_locked(transaction, session.sync_session)
                        yield row
                except GeneratorExit:
                    if self.left(rows):
                        await self._commit(session)
                    raise
                await arequire_intact_session(session)
                await session.commit()
                self.committed()
                continue
            except Exception as error:  # noqa: BLE001 - raised again unless it is to be retried
                pause = self.pause(error)
            finally:
                self.session = None
                await aclose(session)
            await asyncio.sleep(pause)

    async def _commit(self, session: AsyncSession) -> None:
        try:
            await arequire_intact_session(session)
            await session.commit()
        except Exception as error:
            self.check_doubt(error)
            raise

    async def _claim(self, session: AsyncSession) -> list[T]:
        return await session.run_sync(self.leased)

    async def leased_rows(self) -> AsyncGenerator[T, None]:
        """Rows that are leased, and detached."""
        while rows := await self.run(self._claim):
            for at, row in enumerate(rows):
                try:
                    yield row
                except GeneratorExit:
                    for left in self.to_release(rows, at):
                        with contextlib.suppress(Exception):  # It is free when it has run out.
                            await self.complete(left, None, {})
                    raise
