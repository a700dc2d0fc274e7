"""What has become of the items of a run in batches."""

from __future__ import annotations

from asyncio import CancelledError
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from turnwise._native import Verdict

T = TypeVar("T")

REPORT = "_turnwise_batch_report"
"""The attribute of an error that holds the report of the run that it has ended."""


@dataclass(frozen=True)
class BatchFailure(Generic[T]):
    """An item that failed for itself: nothing of it was written."""

    item: T
    index: int
    """Its place among the items as they were given, from 0."""
    error: Exception
    verdict: Verdict


@dataclass
class BatchReport(Generic[T]):
    """What has become of the items. Unpacks to ``(processed, failed)``."""

    processed: int = 0
    """Items that are committed."""
    failures: list[BatchFailure[T]] = field(default_factory=list)
    in_doubt: list[T] = field(default_factory=list)
    """Items whose COMMIT was not answered: look for them in the database before you repeat them."""
    remaining: list[T] = field(default_factory=list)
    """Items that did not land and can be given again; of an iterator, those that it has given."""
    batches: int = 0
    """Transactions that were committed."""
    attempts: int = 0
    """Transactions that were begun."""

    @property
    def failed(self) -> int:
        """The number of ``failures``."""
        return len(self.failures)

    def __iter__(self) -> Iterator[int]:
        """Unpack to ``(processed, failed)``."""
        return iter((self.processed, self.failed))

    @staticmethod
    def of(error: BaseException) -> BatchReport[Any] | None:
        """The report of the run that an error has ended; ``None`` if it has ended none."""
        report: BatchReport[Any] | None = getattr(error, REPORT, None)
        above = error.__context__
        # Where a cancelled task is awaited, Python 3.10 raises another error in place of its own.
        if report is None and isinstance(error, CancelledError) and above is not None:
            return BatchReport.of(above)
        return report
