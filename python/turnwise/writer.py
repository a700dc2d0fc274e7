"""The batch writer: many small writes share one turn at the lock."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from turnwise import _process, errors, events  # noqa: F401 - see `_load_loops`
from turnwise._futures import WriteFuture
from turnwise._native import NativeWriter, RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Future
    from os import PathLike
    from types import TracebackType

    from typing_extensions import Self

    from turnwise._native import NativeTransaction, WriteResult

    Parameters = Sequence[object] | Mapping[str, object]
    """Values for ``?`` in order, or for ``:name`` by name."""


@dataclass(frozen=True)
class Histogram:
    """Durations, counted in buckets; what a Prometheus or OpenTelemetry exporter wants."""

    bounds: tuple[float, ...]
    """Upper bounds of the buckets in seconds, themselves included, each twice the one before."""
    counts: tuple[int, ...]
    """Durations in each bucket; one more than there are bounds, the last for what is above."""
    sum: float
    """All durations together, in seconds."""

    @property
    def count(self) -> int:
        """Durations in all."""
        return sum(self.counts)


@dataclass(frozen=True)
class WriterStats:
    """What the writer of a file has done since it was opened in this process.

    Writers that share a file share these counters.
    """

    submitted: int
    """Writes accepted, inline or into the queue."""
    committed: int
    """Writes committed."""
    failed: int
    """Writes that ended in an error; those that were cancelled are counted apart."""
    cancelled: int
    """Writes taken back before they had begun: cancelled or timed out."""
    transactions: int
    """Transactions committed."""
    inline: int
    """Writes that ran in their caller's thread."""
    groups: int
    """Groups committed by the writer thread."""
    max_group: int
    """Writes in the largest group."""
    lock_retries: int
    """Times that the database's lock was found taken."""
    recoveries: int
    """Groups run again without the write that had rolled them back."""
    checkpoints: int
    """Checkpoints run."""
    turn_waits: int
    """Turns that were not to be had at once: others had them."""
    turn_hand_offs: int
    """Turns that went to the next waiter of this process without being given back."""
    turn_fall_throughs: int
    """Times that somebody went on without a turn: it stood still, or no side file could be had."""
    outsiders: int
    """Times that a writer which knows nothing of turns held the lock in our turn."""
    queue_rows: int
    """Rows in the queue now."""
    queue_bytes: int
    """Bytes in the queue now, about."""
    write_time: Histogram
    """From accepting a write to its outcome."""
    lock_time: Histogram
    """How long the write lock was held, from BEGIN to the end of COMMIT."""


@dataclass(frozen=True)
class WriterSettings:
    """The settings in effect, as SQLite reports them, and the writer's own."""

    path: str
    """The resolved path of the database file."""
    sqlite_version: str
    """The version of the SQLite copy that writes."""
    private_copy: bool
    """Whether that copy keeps its locks from other copies in the process."""
    journal_mode: str
    foreign_keys: bool
    page_size: int
    """Bytes in a page."""
    durability: str
    max_batch: int
    """Rows that one transaction takes."""
    max_queue_rows: int
    max_queue_bytes: int
    hold_limit: float
    """Seconds that an interactive transaction may be held."""
    turn_lock: bool
    """Whether writers queue with other processes at the turn lock."""
    turn_lock_missing: str | None
    """Why they do not, where they should: a folder that cannot be written, for instance."""
    turn_timeout: float | None
    """Seconds that the turn may stand still before a writer goes on without it."""
    policy: RetryPolicy


class Transaction:
    """Several statements in one transaction, with the application's own code in between.

    Made by ``BatchWriter.transaction``. It owns the connection while it is open, so keep it short:
    at the hold limit it is rolled back.
    """

    def __init__(self, native: NativeTransaction) -> None:
        self._native = native

    def execute(self, sql: str, params: Parameters = ()) -> WriteResult:
        """Run one statement, which may read; its result is there at once.

        An error leaves nothing of the statement, and the transaction goes on.
        """
        return self._native.execute(sql, params)

    def executemany(self, sql: str, rows: Sequence[Parameters]) -> WriteResult:
        """Run one statement for every row: all rows or none."""
        return self._native.executemany(sql, rows)


class _TransactionContext:
    """Begins on entry; commits on exit, or rolls back after an exception."""

    def __init__(self, writer: BatchWriter, timeout: float | None, site: str) -> None:
        self._writer = writer
        self._timeout = timeout
        self._site = site
        self._native: NativeTransaction | None = None

    def __enter__(self) -> Transaction:
        task = _process.running_task()
        self._native = self._writer._begin(self._timeout, self._site, task)  # noqa: SLF001 - the other half
        return Transaction(self._native)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        native, self._native = self._native, None
        if native is None:
            return
        if kind is None:
            native.commit()
        else:
            native.rollback()


def _load_loops() -> None:
    """Import what a coroutine's write needs.

    Whatever a write may need is imported before there is one: a fork while another thread imports a
    module leaves the child with a half module whose lock nobody frees.
    """
    if "asyncio" in sys.modules:
        from turnwise import _loops  # noqa: F401 - loaded, not used


class BatchWriter(NativeWriter):
    """Writes one SQLite file for many threads, tasks and futures.

    Each caller gets its own result or its own error. When nobody waits, a write runs in the
    caller's thread; otherwise the writes of all callers share transactions. Writers on one file in
    one process share a connection; they must agree on ``journal_mode``, ``foreign_keys``,
    ``turn_lock``, ``max_batch``, ``max_queue_rows`` and ``max_queue_bytes``. After ``os.fork`` the
    child's first call opens a connection of its own.

    - ``path``: the database file; it is created unless it exists.
    - ``policy``: by its ``deadline`` how long a write waits, and by its delays how often the lock
      is asked for; of writers that share a file, the delays of the one that opened it count, and
      with ``jitter="adaptive"`` they follow how long the lock is really held.
    - ``max_batch``: rows that one transaction takes, 1 to 1,000,000; a larger unit goes alone.
    - ``max_queue_rows``, ``max_queue_bytes``: bounds of the queue; callers wait while it is full.
    - ``durability``: ``"full"`` is on disk before a write returns, and before others see it;
      ``"pipelined"`` is on disk before a write returns, but others may see it one sync earlier, and
      do not wait for that sync; ``"normal"`` survives a crash of the process, but in WAL mode a
      power cut may take the last commits.
    - ``journal_mode``: ``"wal"``, ``"delete"``, ``"truncate"`` or ``"persist"``.
    - ``foreign_keys``: whether foreign keys are enforced; off, as in SQLite itself.
    - ``hold_limit``: seconds that a ``transaction()`` may be held.
    - ``turn_lock``: whether the writer queues with other processes, at side files of the database.
    - ``turn_timeout``: seconds that the turn may stand still (its holder hangs) before the writer
      goes on without it; ``None`` for never.

    Parameters are int, float, str, bytes, bytearray, memoryview, bool (stored as 0 or 1) and None;
    date, time and datetime are stored as ``isoformat()`` text (datetime with a blank, as the
    standard library does), Enum members as their value.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        policy: RetryPolicy | None = None,
        max_batch: int = 1_000,
        max_queue_rows: int = 100_000,
        max_queue_bytes: int = 67_108_864,
        durability: Literal["full", "pipelined", "normal"] = "full",
        journal_mode: Literal["wal", "delete", "truncate", "persist"] = "wal",
        foreign_keys: bool = False,
        hold_limit: float = 5.0,
        turn_lock: bool = True,
        turn_timeout: float | None = 2.0,
    ) -> None:
        if journal_mode == "wal":
            _process.warn_of_wal_reset_bug()
        _process.drain_at_exit()
        _load_loops()

    def submit(
        self, sql: str, params: Parameters = (), *, timeout: float | None = None
    ) -> Future[WriteResult]:
        """Leave a write in the queue and return a future at once.

        Blocks only while the queue is full. ``cancel()`` succeeds unless the write has begun.
        """
        _process.drain_at_exit()
        future = WriteFuture()
        future.place = self._submit(future, None, sql, params, timeout)
        return future

    async def aexecute(
        self, sql: str, params: Parameters = (), *, timeout: float | None = None
    ) -> WriteResult:
        """Run one statement and return once it is committed. Never blocks the event loop.

        A cancelled write that has not begun is never applied; one that has begun is waited for, and
        the ``CancelledError`` then says in a note what became of it.
        """
        from turnwise import _loops

        _process.drain_at_exit()
        return await _loops.aexecute(self, sql, params, timeout)

    def transaction(self, *, timeout: float | None = None) -> _TransactionContext:
        """Begin a transaction of several statements: ``with writer.transaction() as tx:``.

        Commits at the end of the block, rolls back after an exception. Using the writer itself
        inside the block raises ``WriterReenteredError``.
        """
        return _TransactionContext(self, timeout, _process.call_site(1))

    def stats(self) -> WriterStats:
        """Return what the file's writer has done in this process."""
        figures: dict[str, Any] = {**self._stats()}
        figures |= {name: Histogram(*parts) for name, parts in self._histograms().items()}
        return WriterStats(**figures)

    @property
    def settings(self) -> WriterSettings:
        """The settings in effect."""
        return WriterSettings(**cast("dict[str, Any]", self._settings()))

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the writer, which drains it."""
        self.close()

    def __repr__(self) -> str:
        """Name the file."""
        state = "closed" if self.closed else "open"
        return f"<BatchWriter {self.path!r} {state}>"
