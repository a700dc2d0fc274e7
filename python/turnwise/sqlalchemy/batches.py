"""Many items in batches: each batch its own unit of work, and who fails, fails alone."""

from __future__ import annotations

import inspect
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from turnwise import errors
from turnwise.attempts import add_note, plan
from turnwise.classification import classify
from turnwise.sqlalchemy import brought, sessions
from turnwise.sqlalchemy.batch_report import REPORT, BatchFailure, BatchReport
from turnwise.sqlalchemy.lock_keys import BY_PRIMARY_KEY, sorted_by
from turnwise.sqlalchemy.mapped_items import check
from turnwise.units import check_factory, check_whole, refuse_coroutine, run

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from typing import Protocol

    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session
    from typing_extensions import Unpack

    from turnwise._native import Override, Verdict
    from turnwise.attempts import Settings
    from turnwise.sqlalchemy.lock_keys import LockKey

    class Progress(Protocol):
        """Called after each batch with the items that are done, and of how many."""

        def __call__(self, done: int, total: int | None, /) -> object:
            """Show it."""


T = TypeVar("T")

# What the database says of an item's own statements; every other verdict is on the circumstances.
_OF_THE_ITEM = frozenset({"unlisted", "constraint", "schema", "permanent", "symptom", "timeout"})
# The database has answered COMMIT, and not with success.
_NOT_COMMITTED = frozenset({"intact", "stale", "aborted", "rolled_back"})


@overload
def batch_commit_with_retry(
    items: Iterable[T],
    fn: Callable[[AsyncSession, T], Coroutine[Any, Any, object]],
    batch_size: int = 50,
    *,
    session_factory: Callable[[], AsyncSession],
    key: LockKey = ...,
    progress: Progress | None = None,
    verify: Callable[[Sequence[T]], object] | None = None,
    **settings: Unpack[Settings],
) -> Coroutine[Any, Any, BatchReport[T]]: ...
@overload
def batch_commit_with_retry(
    items: Iterable[T],
    fn: Callable[[Session, T], object],
    batch_size: int = 50,
    *,
    session_factory: Callable[[], Session],
    key: LockKey = ...,
    progress: Progress | None = None,
    verify: Callable[[Sequence[T]], object] | None = None,
    **settings: Unpack[Settings],
) -> BatchReport[T]: ...
def batch_commit_with_retry(
    items: Iterable[T],
    fn: Callable[[Any, T], Any],
    batch_size: int = 50,
    *,
    session_factory: Callable[[], Any],
    key: LockKey = BY_PRIMARY_KEY,
    progress: Progress | None = None,
    verify: Callable[[Sequence[T]], object] | None = None,
    **settings: Unpack[Settings],
) -> Any:
    """Call ``fn(session, item)`` for all items, in batches that are committed one by one.

    Each batch is a unit of work in a session of its own, and is run again as a whole where
    ``turnwise.run`` would: ``fn`` may get the same item again. An item that fails for itself is
    found by running ever smaller parts of its batch, and is reported; the others land. For an
    ``async def`` it returns a coroutine, and ``session_factory`` makes asynchronous sessions.

    - ``items``: mapped objects must not belong to a session, nor be changed ones that did.
    - ``key``: what ``fn`` locks for an item, so that two batches lock in the same order and cannot
      deadlock. By default the primary key of a mapped object, the entry ``id`` of a mapping, else
      the item itself; or a mapped class, whose primary key names attributes or entries of the
      items, or a function of the item. Iterators are sorted batch by batch, all else as a whole.
      ``None`` keeps the order.
    - ``progress(done, total)``: after each batch; ``total`` is ``None`` for an iterator.
    - ``verify(items)``: whether these are committed, asked when a connection was lost at COMMIT.
    - the other settings are those of ``turnwise.attempts.Settings``, for each batch anew.

    An error that is no item's own (a lost connection, a lock that was waited for too long, Ctrl-C,
    a cancellation) ends the run and is raised as it is, a lost answer to COMMIT as
    ``CommitOutcomeUnknownError``; ``BatchReport.of(error)`` is the report so far. Nothing that is
    in doubt is among its ``remaining`` items, and nothing is run again that may be committed.

    Raises:
        TypeError: ``fn`` or ``session_factory`` cannot be called so.
        UnsupportedUnitError: ``fn`` is a generator function, the items have no order, or one
            belongs to another session.
        InvalidSettingError: ``batch_size`` is no positive number.
    """
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise errors.UnsupportedUnitError("fn is a generator: it would not run by being called")
    check_whole("batch_size", batch_size, 1)
    check_factory(session_factory)
    _check_call(fn)
    work = _Work(items, fn, batch_size, key, progress, plan(settings).overrides)
    if inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(type(fn).__call__):
        return _run_async(work, session_factory, verify, settings)
    return _run_sync(work, session_factory, verify, settings)


def _check_call(fn: Callable[..., object]) -> None:
    """Refuse at once what would fail for every item."""
    if not callable(fn):
        raise TypeError(f"fn is a function of a session and an item, not {type(fn).__name__}")
    try:
        signature = inspect.signature(fn)
    except ValueError:
        return  # Written in C: it is called and seen.
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise TypeError(f"fn is called as fn(session, item): {error}") from None


def _run_sync(
    work: _Work[T],
    session_factory: Callable[[], Any],
    verify: Callable[[Sequence[T]], object] | None,
    settings: Settings,
) -> BatchReport[T]:
    with work:
        while work.next_batch():
            try:
                run(
                    work.unit,
                    session_factory=work.opening(session_factory),
                    verify=None if verify is None else work.asking(verify),
                    **settings,
                )
            except Exception as error:  # noqa: BLE001 - raised again unless an item is to blame
                work.failed(error)
            else:
                work.landed()
            work.show()
    return work.report


async def _run_async(
    work: _Work[T],
    session_factory: Callable[[], Any],
    verify: Callable[[Sequence[T]], object] | None,
    settings: Settings,
) -> BatchReport[T]:
    with work:
        while work.next_batch():
            try:
                await run(
                    work.async_unit,
                    session_factory=work.opening(session_factory),
                    verify=None if verify is None else work.asking(verify),
                    **settings,
                )
            except Exception as error:  # noqa: BLE001 - raised again unless an item is to blame
                work.failed(error)
            else:
                work.landed()
            shown = work.show()
            if inspect.isawaitable(shown):
                await shown
    return work.report


Piece = list[tuple[int, T]]


class _EndedError(errors.UnsupportedUnitError):
    """What an item's ``fn`` did to the transaction, for which the others are not to blame."""


class _Work(Generic[T]):
    """The items that wait, the batch that runs, and the report."""

    def __init__(
        self,
        items: Iterable[T],
        fn: Callable[[Any, T], Any],
        batch_size: int,
        key: LockKey,
        progress: Progress | None,
        overrides: Sequence[Override],
    ) -> None:
        self._overrides = overrides
        self.report: BatchReport[T] = BatchReport()
        self._fn, self._size, self._key, self._progress = fn, batch_size, key, progress
        self._waiting: deque[Piece[T]] = deque()
        self._current: Piece[T] | None = None
        self._at: int | None = None  # The item that fn has; None: the flush, or COMMIT.
        self._is_opening = False
        self._is_committing = False
        self._began_ns = 0
        self._transaction: object = None
        self._shown = 0
        self._total: int | None = None
        if isinstance(items, Iterator):
            self._source: Iterator[tuple[int, T]] = enumerate(items)
        else:
            known = list(enumerate(items))
            check(known)
            self._total = len(known)
            self._source = iter(sorted_by(key, known))
            self._key = None

    def __enter__(self) -> None:
        """Nothing yet."""

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Leave the report on what has ended the run."""
        if error is None:
            return
        # By index, for an interruption may find an item in two places.
        rest = dict(entry for piece in self._waiting for entry in piece)
        if self._total is not None:
            rest.update(self._source)
        report, current = self.report, dict(self._current or ())
        rest.update(current)
        # What fn has committed by itself may be any of the items.
        self._is_committing |= sessions.committed_at() > self._began_ns > 0
        if self._is_committing:
            report.in_doubt = list(current.values())
        settled = {failure.index for failure in report.failures}
        settled.update(current if self._is_committing else ())
        report.remaining = [rest[index] for index in sorted(rest) if index not in settled]
        setattr(error, REPORT, report)
        add_note(
            error,
            f"turnwise: {report.processed} items are committed, {report.failed} failed, "
            f"{len(report.in_doubt)} are in doubt, {len(report.remaining)} remain",
        )

    def next_batch(self) -> bool:
        """Whether there is one."""
        if not self._waiting:
            piece: Piece[T] = []
            self._waiting.append(piece)  # What was read stays known if the iterator fails.
            for entry in self._source:
                piece.append(entry)
                if len(piece) == self._size:
                    break
            if not piece:
                self._waiting.clear()
                return False
            if self._total is None:
                check(piece)
                piece[:] = sorted_by(self._key, piece)
        self._current, self._is_committing = self._waiting[0], False
        self._began_ns = time.monotonic_ns()
        self._waiting.popleft()
        return True

    def _begin(self) -> Piece[T]:
        current = self._current or []
        self.report.attempts += 1
        self._is_committing = self._is_opening = False
        self._began_ns = time.monotonic_ns()
        self._transaction = None
        return current

    def _check_transaction(self, session: Session) -> None:
        """Raise if fn has ended the transaction that holds the items before this one."""
        was, self._transaction = self._transaction, session.get_transaction()
        if was is not None and self._transaction is not was:
            raise _EndedError(
                "fn has committed or rolled back the transaction of its batch: use a savepoint "
                "(session.begin_nested()), or batch_size=1"
            )

    def opening(self, session_factory: Callable[[], Any]) -> Callable[[], Any]:
        """Make sessions, for whose failure no item is to blame."""

        def opened() -> Any:
            self._is_opening = True
            return session_factory()

        return opened

    def unit(self, session: Any) -> None:
        """Run the batch, up to COMMIT."""
        for index, item in self._begin():
            self._at = index
            refuse_coroutine(self._fn(session, item))
            self._check_transaction(session)
        self._at = None
        session.flush()
        self._is_committing = True

    async def async_unit(self, session: Any) -> None:
        """Run the batch, up to COMMIT."""
        for index, item in self._begin():
            self._at = index
            await self._fn(session, item)
            self._check_transaction(session.sync_session)
        self._at = None
        await session.flush()
        self._is_committing = True

    def asking(self, verify: Callable[[Sequence[T]], object]) -> Callable[[], object]:
        """Ask whether the batch that runs is committed."""
        return lambda: verify([item for _, item in self._current or ()])

    def landed(self) -> None:
        """Count the batch."""
        report, landed = self.report, self._current or []
        # No other order: an interruption in between must not leave it counted and in doubt.
        self._current, report.processed = None, report.processed + len(landed)
        report.batches += 1

    def failed(self, error: Exception) -> None:
        """Blame the item, or split the batch; raise what no item is to blame for."""
        obstacle = brought.put_back(self._began_ns)
        current = self._current or []
        verdict = classify(error, overrides=self._overrides)
        if isinstance(error, errors.TransactionPoisonedError):
            self._is_committing = False
        if self._is_committing and not _is_settled(verdict):
            raise error
        if sessions.committed_at() > self._began_ns:
            add_note(error, "turnwise: fn has committed; items of its batch may be in the database")
            raise error
        self._is_committing = isinstance(error, errors.CommitOutcomeUnknownError)
        if isinstance(error, errors.UnsupportedUnitError) and not isinstance(error, _EndedError):
            raise error
        if self._is_opening or verdict.retry != "none" or verdict.class_ not in _OF_THE_ITEM:
            raise error
        if obstacle is not None:
            add_note(error, f"turnwise: its batch is not run again: {obstacle}")
            raise error
        if len(current) == 1:
            ((index, item),) = current
            self.report.failures.append(BatchFailure(item, index, error, verdict))
            self._current = None
            return
        self._waiting.extendleft(reversed(_parts(current, self._at)))
        self._current = None

    def show(self) -> object:
        """Tell how far it is."""
        done = self.report.processed + self.report.failed
        if self._progress is None or done == self._shown:
            return None
        self._shown = done
        return self._progress(done, self._total)


def _is_settled(verdict: Verdict) -> bool:
    """Whether an error during COMMIT says that there is nothing of it.

    What is no database's error may come of a listener, once the database has committed.
    """
    is_foreign = verdict.rule == "default.foreign"
    return not is_foreign and not verdict.is_in_doubt and verdict.fate in _NOT_COMMITTED


def _parts(piece: Piece[T], suspect: int | None) -> list[Piece[T]]:
    """Smaller parts in the same order: around the item that fn had, else halves."""
    at = next((place for place, (index, _) in enumerate(piece) if index == suspect), None)
    if at is None:
        half = len(piece) // 2
        return [piece[:half], piece[half:]]
    return [part for part in (piece[:at], piece[at : at + 1], piece[at + 1 :]) if part]
