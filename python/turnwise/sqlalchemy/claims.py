"""Rows handed to parallel workers, each row to one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from sqlalchemy.ext.asyncio import AsyncSession

from turnwise import errors
from turnwise.sqlalchemy import leases
from turnwise.sqlalchemy.claiming import AsyncClaiming, Claiming, SyncClaiming
from turnwise.sqlalchemy.skip_locked import mapper_of
from turnwise.units import check_factory, check_whole

if TYPE_CHECKING:
    from collections.abc import Callable
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
    ``with`` is left early (which is logged), and when the process dies. What the loop's body
    changes must make the conditions false, or the row is handed out again.

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
    check_whole("limit", limit, 1)
    mapper_of(model)
    check_factory(session_factory)
    given = leases.Lease(lease, lease_for) if lease is not None else None
    what = (model, conditions, session_factory, limit, order_by, given, settings)
    # This session is never used: without a statement it holds no connection.
    if isinstance(session_factory(), AsyncSession):
        return AsyncClaims(AsyncClaiming(*what))
    return Claims(SyncClaiming(*what))


class Claims(Generic[T]):
    """An iterator over claimed rows, and a context manager that commits when it is left."""

    def __init__(self, claiming: SyncClaiming[T]) -> None:
        self._claiming = claiming
        self._rows = claiming.locked_rows() if claiming.lease is None else claiming.leased_rows()

    @property
    def session(self) -> Session:
        """The session of the rows at hand, for what else is to be committed with them."""
        session: Session = _at_hand(self._claiming)
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
        self._claiming.complete(row, change, values)

    def release(self, row: T) -> None:
        """Give a leased row back as it was. Raises as ``complete``."""
        self._claiming.complete(row, None, {})

    def renew(self, row: T) -> None:
        """Lease a row for another ``lease_for`` seconds from now. Raises as ``complete``."""
        leasing = self._claiming.leasing
        leases.remember(row, self._claiming.run(lambda session: leasing.renew(session, row)))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        return next(self._rows)

    def __enter__(self) -> Self:
        self._claiming.commits = False
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._claiming.commits = error is None
        self._rows.close()


class AsyncClaims(Generic[T]):
    """The same for ``async for`` and ``async with``; its methods are coroutines."""

    def __init__(self, claiming: AsyncClaiming[T]) -> None:
        self._claiming = claiming
        self._rows = claiming.locked_rows() if claiming.lease is None else claiming.leased_rows()

    @property
    def session(self) -> AsyncSession:
        """The session of the rows at hand, for what else is to be committed with them."""
        session: AsyncSession = _at_hand(self._claiming)
        return session

    async def complete(
        self, row: T, change: Callable[[AsyncSession, T], object] | None = None, /, **values: object
    ) -> None:
        """As ``Claims.complete``; ``change`` may be a coroutine function."""
        await self._claiming.complete(row, change, values)

    async def release(self, row: T) -> None:
        """Give a leased row back as it was. Raises as ``complete``."""
        await self._claiming.complete(row, None, {})

    async def renew(self, row: T) -> None:
        """Lease a row for another ``lease_for`` seconds from now. Raises as ``complete``."""

        async def unit(session: AsyncSession) -> object:
            return await session.run_sync(self._claiming.leasing.renew, row)

        leases.remember(row, await self._claiming.run(unit))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        return await anext(self._rows)

    async def __aenter__(self) -> Self:
        self._claiming.commits = False
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._claiming.commits = error is None
        await self._rows.aclose()


def _at_hand(claiming: Claiming[Any]) -> Any:
    if claiming.session is None:
        raise errors.UnsupportedUnitError("no rows are locked now")
    return claiming.session
