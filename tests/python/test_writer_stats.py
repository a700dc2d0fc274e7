"""`stats()` tells what was done: inline, in groups, failed, taken back, accepted and not yet begun."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading

import pytest

from turnwise import BatchWriter, TurnwiseError, WriterStats, errors
from writer_support import (
    CREATE,
    INSERT,
    in_thread,
    locked_by_another_process,
    titles,
    together,
)


@pytest.fixture
def writer(tmp_path):
    with BatchWriter(tmp_path / "topics.db") as writer:
        writer.execute(CREATE)
        yield writer


def counters(writer):
    figures = dataclasses.asdict(writer.stats())
    return {name: count for name, count in figures.items() if isinstance(count, int)}


class Growth:
    """What a block adds to the counters."""

    def __init__(self, writer):
        self.writer = writer

    def __enter__(self):
        self.before = counters(self.writer)
        return self

    def __exit__(self, *error):
        after = counters(self.writer)
        self.added = {
            name: count - self.before[name]
            for name, count in after.items()
            if count != self.before[name]
        }


@contextlib.contextmanager
def held_up(writer):
    """A transaction, empty in the end, keeps everybody else in the queue."""
    inside, end = threading.Event(), threading.Event()

    def hold():
        with pytest.raises(ZeroDivisionError), writer.transaction():
            inside.set()
            end.wait(30)
            raise ZeroDivisionError

    holder = in_thread(hold)
    assert inside.wait(10)
    try:
        yield
    finally:
        end.set()
        holder()


def check_balance(writer):
    """Every write that was accepted is accounted for, once."""
    stats = writer.stats()
    assert stats.submitted == stats.committed + stats.failed + stats.cancelled
    assert (stats.queue_rows, stats.queue_bytes) == (0, 0)


def test_a_new_writer_has_done_nothing(tmp_path):
    with BatchWriter(tmp_path / "topics.db") as writer:
        stats = writer.stats()
        assert type(stats) is WriterStats
        assert set(counters(writer).values()) == {0}
        with pytest.raises(dataclasses.FrozenInstanceError):
            stats.submitted = 7
        assert all(type(count) is int for count in counters(writer).values())


def test_an_inline_write(writer):
    with Growth(writer) as growth:
        writer.execute(INSERT, ("a",))
        writer.executemany(INSERT, [("b",), ("c",), ("d",)])
    assert growth.added == {"submitted": 2, "committed": 2, "transactions": 2, "inline": 2}


def test_a_group(writer):
    with held_up(writer):
        with Growth(writer) as growth:
            futures = [writer.submit(INSERT, (f"{n}",)) for n in range(30)]
            assert (writer.stats().queue_rows, writer.stats().groups) == (30, 0)
        assert growth.added.pop("queue_bytes") > 30 * len(INSERT)
        assert growth.added == {"submitted": 30, "queue_rows": 30}
        growing = Growth(writer)
        growing.__enter__()
    assert [future.result(10).rowcount for future in futures] == [1] * 30
    growing.__exit__()
    growing.added.pop("queue_bytes")
    assert growing.added == {
        "committed": 30,
        "transactions": 1,
        "groups": 1,
        "max_group": 30,
        "queue_rows": -30,
    }


def test_a_failed_write(writer):
    writer.execute(INSERT, ("taken",))
    with Growth(writer) as growth, pytest.raises(errors.ConstraintError):
        writer.execute(INSERT, ("taken",))
    assert growth.added == {"submitted": 1, "failed": 1, "inline": 1}
    with held_up(writer):
        works = [writer.submit(INSERT, (title,)) for title in ("a", "taken", "b", "taken")]
        growing = Growth(writer)
        growing.__enter__()
    assert [work.exception(10) is None for work in works] == [True, False, True, False]
    growing.__exit__()
    added = {name: growing.added[name] for name in ("committed", "failed", "transactions")}
    assert added == {"committed": 2, "failed": 2, "transactions": 1}


def test_what_was_never_accepted_is_not_counted(writer):
    with Growth(writer) as growth:
        for call in (
            lambda: writer.execute(INSERT, (object(),)),
            lambda: writer.execute(INSERT, ("x",), timeout=-1),
            lambda: writer.submit(INSERT, (1 << 70,)),
            lambda: asyncio.run(writer.aexecute(INSERT, ({},))),
            lambda: writer.executemany(INSERT, [("x",)] * 100_001),
        ):
            with pytest.raises(TurnwiseError):
                call()
    assert growth.added == {}


def test_a_write_that_rolls_the_group_back(writer):
    writer.execute(INSERT, ("taken",))
    with held_up(writer):
        works = [writer.submit(INSERT, (f"{n}",)) for n in range(5)]
        works.append(writer.submit(INSERT.replace("INSERT", "INSERT OR ROLLBACK"), ("taken",)))
        growing = Growth(writer)
        growing.__enter__()
    assert [work.exception(10) is None for work in works] == [True] * 5 + [False]
    growing.__exit__()
    assert (growing.added["committed"], growing.added["failed"]) == (5, 1)
    assert growing.added["recoveries"] == 1
    assert growing.added["groups"] == 1


def test_what_was_taken_back(writer):
    with held_up(writer), Growth(writer) as growth:
        futures = [writer.submit(INSERT, (f"{n}",)) for n in range(4)]
        assert [future.cancel() for future in futures] == [True] * 4
        for number in range(3):
            with pytest.raises(errors.WriteTimeoutError):
                in_thread(lambda n=number: writer.execute(INSERT, (f"late {n}",), timeout=0.02))()
        late = writer.submit(INSERT, ("late future",), timeout=0.02)
        assert isinstance(late.exception(10), errors.WriteTimeoutError)
    assert growth.added == {"submitted": 8, "cancelled": 8}


def test_a_flush_or_close_that_gives_up_is_no_write(tmp_path):
    writer = BatchWriter(tmp_path / "topics.db")
    writer.execute(CREATE)
    with locked_by_another_process(writer.path):
        future = writer.submit(INSERT, ("patient",))
        for call in (writer.flush, writer.close):
            with pytest.raises(TimeoutError):
                call(0.05)
    assert future.result(30).rowcount == 1
    assert writer.stats().cancelled == 0
    assert (writer.stats().submitted, writer.stats().committed) == (2, 2)


def test_a_full_queue_accepts_nothing(tmp_path):
    with BatchWriter(tmp_path / "topics.db", max_queue_rows=2) as writer:
        writer.execute(CREATE)
        with locked_by_another_process(writer.path):
            futures = [writer.submit(INSERT, (f"{n}",)) for n in range(2)]
            with Growth(writer) as growth:
                with pytest.raises(errors.QueueFullError):
                    writer.execute(INSERT, ("refused",), timeout=0.02)
                with pytest.raises(errors.QueueFullError):
                    writer.submit(INSERT, ("refused",), timeout=0.02)
            # The writer thread goes on asking for the lock meanwhile.
            assert growth.added.keys() <= {"lock_retries", "outsiders"}
        assert [future.result(30).rowcount for future in futures] == [1, 1]
        check_balance(writer)


def test_a_lock_that_others_hold(writer):
    with locked_by_another_process(writer.path):
        before = writer.stats().lock_retries
        with pytest.raises(errors.LockTimeoutError):
            writer.execute(INSERT, ("late",), timeout=0.3)
        assert 2 < writer.stats().lock_retries - before < 500
    with Growth(writer) as growth:
        writer.execute(INSERT, ("free",))
    assert "lock_retries" not in growth.added


def test_a_transaction_counts_once(writer):
    with Growth(writer) as growth, writer.transaction() as tx:
        for number in range(5):
            tx.execute(INSERT, (f"{number}",))
    assert (growth.added["submitted"], growth.added["committed"]) == (1, 1)
    assert growth.added["transactions"] == 1


def test_the_counters_add_up_after_a_crowd(writer):
    """Interactive transactions that are rolled back aside: they are neither."""

    def work(number):
        for count in range(40):
            title = f"{number}.{count}"
            with contextlib.suppress(TurnwiseError):
                match count % 5:
                    case 0:
                        writer.execute(INSERT, (title,))
                    case 1:
                        writer.execute(INSERT, ("taken",))
                    case 2:
                        writer.submit(INSERT, (title,)).cancel()
                    case 3:
                        writer.execute(INSERT, (title,), timeout=0.0005)
                    case 4:
                        with writer.transaction() as tx:
                            tx.execute(INSERT, (title,))

    assert together(12, work) == [None] * 12
    writer.flush()
    check_balance(writer)
    stats = writer.stats()
    assert min(stats.committed, stats.failed, stats.cancelled, stats.groups) > 0
    # The table itself is a write, and each committed one left a row.
    assert stats.committed - 1 == len(titles(writer.path))
    assert stats.transactions <= stats.committed
