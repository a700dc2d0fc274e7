"""Rows handed to parallel workers, each row to one of them."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from sqlalchemy.ext.asyncio import AsyncSession

from turnwise import errors
from turnwise.sqlalchemy import leases
from turnwise.sqlalchemy.claiming import Claiming, Handed
from turnwise.units import run

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
    from types import TracebackType

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import InstrumentedAttribute, Session
    from typing_extensions import Self, Unpack

    from turnwise.attempts import Settings

T = TypeVar("T")


@overload
def claim(
    model: type[T],
    *conditions: ColumnElement[bool],
    session_factory: Callable[[], Session],
    limit: int = 1,
    order_by: object = None,
    lease: InstrumentedAttribute[Any] | None = None,
    lease_for: float = 300.0,
    **settings: Unpack[Settings],
) -> Claims[T]: ...
@overload
def claim(
    model: type[T],
    *conditions: ColumnElement[bool],
    session_factory: Callable[[], AsyncSession],
    limit: int = 1,
    order_by: object = None,
    lease: InstrumentedAttribute[Any] | None = None,
    lease_for: float = 300.0,
    **settings: Unpack[Settings],
) -> AsyncClaims[T]: ...
def claim(
    model: type[T],
    *conditions: ColumnElement[bool],
    session_factory: Callable[[], Any],
    limit: int = 1,
    order_by: object = None,
    lease: InstrumentedAttribute[Any] | None = None,
    lease_for: float = 300.0,
    **settings: Unpack[Settings],
) -> Any:
    """Iterate over rows that no other worker has, until there are none.

    ``limit`` rows at a time are locked in a transaction of their own, as by
    ``get_for_update_skip_locked``, and handed out one by one. The transaction is committed when the
    row after them is asked for, and at the end of a ``with`` block around the loop. It is rolled
    back, and its rows are free again, when the block is left by an exception, when a loop without
    ``with`` is left early, and when the process dies. What the loop's body changes must make the
    conditions false, or the row is handed out again.

    With ``lease``, a column that may be null, rows are claimed by setting it ``lease_for`` seconds
    ahead and committing. They come detached, the body runs outside of a transaction, and ends with
    ``complete(row, ...)``. A row that is not completed is free again once its lease has run out. On
    SQLite, where a lock on rows is a lock on the file, this is what lets workers run in parallel.

    ``session_factory`` makes a new session each time; with asynchronous ones, use ``async for`` and
    ``async with``. The other settings are those of ``turnwise.attempts.Settings``: claiming is
    retried under them, and a batch whose COMMIT has failed for a deadlock is claimed again.

    Raises, from the loop:

    - ``UnsupportedServerError``: as ``get_for_update_skip_locked``.
    - ``CommitOutcomeUnknownError``: the connection was lost while a batch was committed.
    """
    if limit < 1:
        raise errors.InvalidSettingError("limit is a whole number from 1")
    given = leases.Lease(lease, lease_for) if lease is not None else None
    session = session_factory()  # Never used: without a statement it holds no connection.
    kind = AsyncClaims if isinstance(session, AsyncSession) else Claims
    return kind(Claiming(model, conditions, session_factory, limit, order_by, given, settings))


class Claims(Handed[T]):
    """An iterator over claimed rows, and a context manager that commits when it is left."""

    def __init__(self, claiming: Claiming[T]) -> None:
        super().__init__(claiming)
        self._rows = self._leased() if claiming.lease is not None else self._locked()

    @property
    def session(self) -> Session:
        """The session of the rows at hand, for what else is to be committed with them."""
        if self._session is None:
            raise errors.UnsupportedUnitError("no rows are locked now")
        session: Session = self._session
        return session

    def complete(
        self, row: T, change: Callable[[Session, T], object] | None = None, /, **values: object
    ) -> None:
        """Commit what has come of a leased row, and free it.

        Sets ``values`` as its attributes and calls ``change(session, row)`` with the row as it is
        stored, both in one unit of work, which ``turnwise.run`` repeats if need be.

        Raises:
            HoldLimitExceededError: The lease had run out, and another worker has claimed the row
                since. Nothing was written.
        """

        def unit(session: Session) -> None:
            stored = self._claiming.leasing.finish(session, row, values)
            if change is not None:
                change(session, stored)

        self._run(unit)
        leases.forget(row)

    def release(self, row: T) -> None:
        """Give a leased row back as it was. Raises as ``complete``."""
        self.complete(row)

    def renew(self, row: T) -> None:
        """Lease a row for another ``lease_for`` seconds from now. Raises as ``complete``."""
        leases.remember(row, self._run(lambda session: self._claiming.leasing.renew(session, row)))

    def _run(self, unit: Callable[[Session], object]) -> object:
        return run(unit, session_factory=self._claiming.session_factory, **self._claiming.settings)

    def _locked(self) -> Generator[T, None, None]:
        while True:
            session = self._session = self._claiming.session_factory()
            try:
                rows = self._claiming.locked(session)
                if not rows:
                    return
                try:
                    yield from rows
                except GeneratorExit:
                    self._abandoned(rows)
                    if self._commits:
                        self._commit(session)
                    raise
                session.commit()
                self._claiming.committed()
                continue
            except Exception as error:  # noqa: BLE001 - raised again unless it is to be retried
                pause = self._claiming.pause(error)
            finally:
                self._session = None
                session.close()
            time.sleep(pause)

    def _commit(self, session: Session) -> None:
        try:
            session.commit()
        except Exception as error:
            self._claiming.check_doubt(error)
            raise

    def _leased(self) -> Generator[T, None, None]:
        while rows := cast("list[T]", self._run(self._claiming.leased)):
            for at, row in enumerate(rows):
                try:
                    yield row
                except GeneratorExit:
                    for left in self._left(rows, at):
                        with contextlib.suppress(Exception):  # It is free when it has run out.
                            self.release(left)
                    raise

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        return next(self._rows)

    def __enter__(self) -> Self:
        self._commits = False
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._commits = error is None
        self._rows.close()


class AsyncClaims(Handed[T]):
    """The same for ``async for`` and ``async with``; its methods are coroutines."""

    def __init__(self, claiming: Claiming[T]) -> None:
        super().__init__(claiming)
        self._rows = self._leased() if claiming.lease is not None else self._locked()

    @property
    def session(self) -> AsyncSession:
        """The session of the rows at hand, for what else is to be committed with them."""
        if self._session is None:
            raise errors.UnsupportedUnitError("no rows are locked now")
        session: AsyncSession = self._session
        return session

    async def complete(
        self, row: T, change: Callable[[AsyncSession, T], object] | None = None, /, **values: object
    ) -> None:
        """As ``Claims.complete``; ``change`` may be a coroutine function."""

        async def unit(session: AsyncSession) -> None:
            stored = await session.run_sync(self._claiming.leasing.finish, row, values)
            done = change(session, stored) if change is not None else None
            if inspect.isawaitable(done):
                await done

        await self._run(unit)
        leases.forget(row)

    async def release(self, row: T) -> None:
        """Give a leased row back as it was. Raises as ``complete``."""
        await self.complete(row)

    async def renew(self, row: T) -> None:
        """Lease a row for another ``lease_for`` seconds from now. Raises as ``complete``."""

        async def unit(session: AsyncSession) -> object:
            return await session.run_sync(self._claiming.leasing.renew, row)

        leases.remember(row, await self._run(unit))

    async def _run(self, unit: Callable[[AsyncSession], Coroutine[Any, Any, object]]) -> object:
        factory, settings = self._claiming.session_factory, self._claiming.settings
        return await run(unit, session_factory=factory, **settings)

    async def _locked(self) -> AsyncGenerator[T, None]:
        while True:
            session = self._session = self._claiming.session_factory()
            try:
                rows = await session.run_sync(self._claiming.locked)
                if not rows:
                    return
                try:
                    for row in rows:
                        yield row
                except GeneratorExit:
                    self._abandoned(rows)
                    if self._commits:
                        await self._commit(session)
                    raise
                await session.commit()
                self._claiming.committed()
                continue
            except Exception as error:  # noqa: BLE001 - raised again unless it is to be retried
                pause = self._claiming.pause(error)
            finally:
                self._session = None
                await asyncio.shield(asyncio.ensure_future(session.close()))
            await asyncio.sleep(pause)

    async def _commit(self, session: AsyncSession) -> None:
        try:
            await session.commit()
        except Exception as error:
            self._claiming.check_doubt(error)
            raise

    async def _claim(self, session: AsyncSession) -> list[T]:
        return await session.run_sync(self._claiming.leased)

    async def _leased(self) -> AsyncGenerator[T, None]:
        while rows := cast("list[T]", await self._run(self._claim)):
            for at, row in enumerate(rows):
                try:
                    yield row
                except GeneratorExit:
                    for left in self._left(rows, at):
                        with contextlib.suppress(Exception):  # It is free when it has run out.
                            await self.release(left)
                    raise

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        return await anext(self._rows)

    async def __aenter__(self) -> Self:
        self._commits = False
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._commits = error is None
        await self._rows.aclose()
