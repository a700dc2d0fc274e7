"""The story, measured: many threads save topics one by one into one SQLite file, three ways.

Every side has its own file with the same schema, WAL and synchronous FULL. All threads are released
together. A save is an upsert that raises the topic's revision, so a save that lands twice is seen,
and no save is free (an identical upsert dirties no page, and its COMMIT flushes nothing).
"""

from __future__ import annotations

import math
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

SCHEMA = (
    "CREATE TABLE topic(id INTEGER PRIMARY KEY, title TEXT NOT NULL, revision INTEGER NOT NULL)"
)
SAVE = (
    "INSERT INTO topic(id, title, revision) VALUES(?, ?, 1) "
    "ON CONFLICT(id) DO UPDATE SET title = excluded.title, revision = revision + 1"
)

FIRST_DELAY = 0.1
BACKOFF_FACTOR = 2
JITTER = 0.1

Save = Callable[[int, str], None]


class SaveFailedError(Exception):
    """The side gave this save up, as its own rules say."""


class SideCutError(Exception):
    """The time limit passed before the save had an outcome."""


@dataclass
class Side:
    """What one side did. Times in seconds, waits in milliseconds."""

    name: str
    label: str
    about: str
    writes: int
    seconds: float = 0.0
    landed: int = 0
    acknowledged: int = 0
    errors: int = 0
    unfinished: int = 0
    twice: int = 0
    transactions: int = 0
    consistent: bool = False
    cut: bool = False
    wait_ms: dict[str, float] = field(default_factory=dict)
    first_error: str | None = None
    sqlite_version: str = ""

    @property
    def complete(self) -> bool:
        """Every save landed, once, and was acknowledged."""
        return self.landed == self.acknowledged == self.writes and self.consistent

    def as_json(self) -> dict[str, object]:
        """All fields."""
        return asdict(self)


class Threads:
    """Runs each worker's share of the saves, all released at once, and keeps their outcomes."""

    def __init__(
        self,
        workers: int,
        writes: int,
        time_limit: float,
        *,
        part: tuple[int, int] = (0, 1),
        release: Callable[[], object] = lambda: None,
    ) -> None:
        """Takes every `part[1]`-th worker, from `part[0]` on.

        `release` is called when they are ready, and returns when all parts may start.
        """
        number, parts = part
        self.workers = workers
        self.writes = writes
        self.shares = [range(worker, writes, workers) for worker in range(number, workers, parts)]
        self.time_limit = time_limit
        self._release = release
        self.stop = threading.Event()
        self.acknowledged: list[int] = []
        self.failed: list[str] = []
        self.waits: list[float] = []
        self.seconds = 0.0
        self._started = 0.0
        self._deadline = math.inf
        self._lock = threading.Lock()

    def plan(self) -> tuple[int, int, float]:
        """Workers, writes and time limit, of all parts together."""
        return self.workers, self.writes, self.time_limit

    def outcomes(self) -> tuple[list[int], list[str], list[float], float]:
        """What came of this part, for `add`."""
        return self.acknowledged, self.failed, self.waits, self.seconds

    def add(self, outcomes: tuple[list[int], list[str], list[float], float]) -> None:
        """Counts what another part did as this one's."""
        acknowledged, failed, waits, seconds = outcomes
        self.acknowledged += acknowledged
        self.failed += failed
        self.waits += waits
        self.seconds = max(self.seconds, seconds)

    def remaining(self) -> float:
        """Seconds to the time limit, at least 0."""
        return max(0.0, self._deadline - time.perf_counter())

    def run(self, connect: Callable[[int], tuple[Save, Callable[[], None]]]) -> None:
        """Gives each worker its own `connect(worker)`: a save function and what closes it.

        Returns when all have ended.

        Raises `RuntimeError` when the threads cannot be started, and whatever `connect` raised.
        """
        ready = threading.Barrier(len(self.shares) + 1, action=self._start)
        broken: list[Exception] = []

        def work(worker: int) -> None:
            try:
                save, close = connect(worker)
            except Exception as error:
                broken.append(error)
                ready.abort()
                return
            try:
                ready.wait()
                self._work(self.shares[worker], save)
            except threading.BrokenBarrierError:
                pass
            except Exception as error:
                broken.append(error)
                self.stop.set()
            finally:
                close()

        threads: list[threading.Thread] = []
        try:
            for worker in range(len(self.shares)):
                thread = threading.Thread(target=work, args=(worker,))
                thread.start()
                threads.append(thread)
            ready.wait()
            for thread in threads:
                thread.join(self.remaining())
        except threading.BrokenBarrierError:
            # A worker could not connect; what it met is raised below.
            pass
        finally:
            self.stop.set()
            ready.abort()
            for thread in threads:
                thread.join()
        if broken:
            raise broken[0]

    def _start(self) -> None:
        # Called by one thread before any is released, so that no save is outside the measured time.
        self._release()
        self._started = time.perf_counter()
        self._deadline = self._started + self.time_limit

    def _work(self, share: range, save: Save) -> None:
        for topic in share:
            if self.stop.is_set() or not self.remaining():
                return
            started = time.perf_counter()
            error = None
            try:
                save(topic, f"topic {topic} saved")
            except SideCutError:
                with self._lock:
                    self.seconds = max(self.seconds, time.perf_counter() - self._started)
                return
            except SaveFailedError as failed:
                error = str(failed)
            ended = time.perf_counter()
            wait = ended - started
            with self._lock:
                self.seconds = max(self.seconds, ended - self._started)
                self.waits.append(wait)
                if error is None:
                    self.acknowledged.append(topic)
                else:
                    self.failed.append(error)


def run_by_hand(
    path: str, side: Side, threads: Threads, *, tries: int, jitter: float, seed: int
) -> None:
    """Each save is its own transaction on its thread's own connection and tries again by itself."""
    side.sqlite_version = sqlite3.sqlite_version
    _create(path)

    def connect(worker: int) -> tuple[Save, Callable[[], None]]:
        # Setting the connection up takes locks too; only the saves go without a time-out.
        connection = sqlite3.connect(path, timeout=30, isolation_level=None)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA busy_timeout = 0")
        draw = random.Random(f"{seed} {side.name} {worker}")

        def save(topic: int, title: str) -> None:
            for attempt in range(tries):
                try:
                    connection.execute(SAVE, (topic, title))
                    return
                except sqlite3.OperationalError as error:
                    if "locked" not in str(error):
                        raise
                    if attempt + 1 == tries:
                        raise SaveFailedError(str(error)) from error
                    delay = FIRST_DELAY * BACKOFF_FACTOR**attempt + draw.uniform(0, jitter)
                    if threads.stop.wait(delay):
                        raise SideCutError from None

        return save, connection.close

    # The last connection to close checkpoints; while this one is open no thread is the last.
    keeper = sqlite3.connect(path, timeout=30)
    try:
        keeper.execute("SELECT count(*) FROM topic").fetchone()
        threads.run(connect)
    finally:
        keeper.close()
    side.transactions = len(threads.acknowledged)


def run_batched(path: str, side: Side, threads: Threads) -> None:
    """The same saves, each through `BatchWriter.execute`."""
    from turnwise import BatchWriter
    from turnwise.errors import TurnwiseError

    _create(path)
    with BatchWriter(path, durability="full", journal_mode="wal") as writer:

        def save(topic: int, title: str) -> None:
            try:
                writer.execute(SAVE, (topic, title), timeout=max(threads.remaining(), 0.001))
            except TurnwiseError as error:
                if error.kind == "WriteTimeout":
                    raise SideCutError from None
                raise SaveFailedError(str(error)) from error

        before = writer.stats().transactions
        threads.run(lambda worker: (save, lambda: None))
        side.transactions = writer.stats().transactions - before
        side.sqlite_version = writer.settings.sqlite_version


def finish(path: str, side: Side, threads: Threads) -> None:
    """Fills in what came of the saves; what landed is read from the file."""
    side.seconds = round(threads.seconds, 6)
    side.acknowledged = len(threads.acknowledged)
    side.errors = len(threads.failed)
    side.first_error = threads.failed[0] if threads.failed else None
    side.unfinished = side.writes - side.acknowledged - side.errors
    side.cut = side.unfinished > 0
    side.wait_ms = percentiles([wait * 1000 for wait in threads.waits])
    reader = sqlite3.connect(path, timeout=30)
    try:
        revisions = dict(reader.execute("SELECT id, revision FROM topic").fetchall())
    finally:
        reader.close()
    side.landed = len(revisions)
    side.twice = sum(revision > 1 for revision in revisions.values())
    side.consistent = sorted(threads.acknowledged) == sorted(revisions) and not side.twice


def percentiles(values: list[float]) -> dict[str, float]:
    """p50, p99 and max by nearest rank; empty for no values."""
    if not values:
        return {}
    ordered = sorted(values)

    def rank(share: float) -> float:
        return round(ordered[math.ceil(share * len(ordered)) - 1], 3)

    return {"p50": rank(0.5), "p99": rank(0.99), "max": rank(1.0)}


def _create(path: str) -> None:
    connection = sqlite3.connect(path)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        # Another process of the same side may have been first.
        connection.execute(SCHEMA.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS"))
        connection.commit()
    finally:
        connection.close()
