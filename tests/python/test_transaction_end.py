"""How a `transaction()` ends besides its block: hold limit, time-out, threads, garbage, other processes."""

from __future__ import annotations

import gc
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from turnwise import BatchWriter, errors
from writer_support import (
    CREATE,
    INSERT,
    check_integrity,
    in_thread,
    locked_by_another_process,
    select,
    titles,
    together,
    wait_until,
)

ENDLESS = "WITH RECURSIVE n(v) AS (VALUES (1) UNION ALL SELECT v + 1 FROM n) SELECT max(v) FROM n"


@pytest.fixture
def writer(tmp_path):
    with BatchWriter(tmp_path / "topics.db") as writer:
        writer.execute(CREATE)
        yield writer


@pytest.fixture
def hasty(tmp_path):
    """A writer that lets nobody hold it for long."""
    with BatchWriter(tmp_path / "hasty.db", hold_limit=0.8) as writer:
        writer.execute(CREATE)
        yield writer


def test_the_hold_limit_is_five_seconds_unless_set(writer, hasty):
    assert writer.settings.hold_limit == 5
    assert hasty.settings.hold_limit == 0.8


@pytest.mark.parametrize("use", ["execute", "executemany", "end"])
def test_at_the_hold_limit_it_is_rolled_back_and_others_go_on(hasty, use):
    with pytest.raises(errors.HoldLimitExceededError, match="hold"), hasty.transaction() as tx:
        tx.execute(INSERT, ("gone",))
        others = [
            in_thread(lambda n=n: hasty.execute(INSERT, (f"other {n}",)).rowcount) for n in range(4)
        ]
        future = in_thread(lambda: hasty.submit(INSERT, ("future",)))()
        # They land while this block is still open.
        assert [other() for other in others] == [1] * 4
        assert future.result(10).rowcount == 1
        if use == "execute":
            tx.execute(INSERT, ("gone too",))
        elif use == "executemany":
            tx.executemany(INSERT, [("gone too",)])
    assert titles(hasty.path) == {"future", *(f"other {n}" for n in range(4))}
    with hasty.transaction() as tx:
        tx.execute(INSERT, ("next",))
    assert "next" in titles(hasty.path)


def test_within_the_hold_limit_nobody_is_rolled_back(writer):
    with writer.transaction() as tx:
        tx.execute(INSERT, ("kept",))
        other = in_thread(lambda: writer.execute(INSERT, ("other",)))
        time.sleep(1)
        assert other.is_alive()
        tx.execute(INSERT, ("kept too",))
    other()
    assert titles(writer.path) == {"kept", "kept too", "other"}


def test_the_hold_limit_holds_when_nobody_waits(hasty):
    """The lock is free for other processes as well."""
    with pytest.raises(errors.HoldLimitExceededError), hasty.transaction() as tx:
        tx.execute(INSERT, ("gone",))
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            elsewhere(hasty.path, 0)
        elsewhere(hasty.path, 10)
        tx.execute(INSERT, ("gone too",))
    assert titles(hasty.path) == {"elsewhere"}


def elsewhere(path, timeout):
    """Write with the standard library."""
    connection = sqlite3.connect(path, timeout=timeout)
    try:
        with connection:
            connection.execute(INSERT, ("elsewhere",))
    finally:
        connection.close()


def test_an_endless_statement_is_interrupted_at_the_hold_limit(hasty):
    started = time.monotonic()
    with pytest.raises(errors.TurnwiseError) as caught, hasty.transaction() as tx:
        tx.execute(INSERT, ("gone",))
        other = in_thread(lambda: hasty.execute(INSERT, ("other",)).rowcount)
        tx.execute(ENDLESS)
    assert isinstance(caught.value, (errors.InterruptedError, errors.HoldLimitExceededError))
    assert 0.7 < time.monotonic() - started < 10
    assert other() == 1
    assert titles(hasty.path) == {"other"}


def test_the_error_after_an_interrupted_statement_names_the_hold_limit(hasty):
    with pytest.raises(errors.HoldLimitExceededError), hasty.transaction() as tx:
        with pytest.raises(errors.TurnwiseError):
            tx.execute(ENDLESS)
        wait_until(lambda: hasty.stats().queue_rows == 0)
        in_thread(lambda: hasty.execute(INSERT, ("other",)))()
        tx.execute(INSERT, ("gone",))
    assert titles(hasty.path) == {"other"}


def test_an_exception_after_the_hold_limit_is_the_applications_own(hasty):
    with pytest.raises(ValueError, match="mine"), hasty.transaction() as tx:
        tx.execute(INSERT, ("gone",))
        in_thread(lambda: hasty.execute(INSERT, ("other",)))()
        raise ValueError("mine")
    assert titles(hasty.path) == {"other"}


def test_the_one_whose_time_is_up_cannot_reach_the_next_one(hasty):
    """Neither its statements nor its end touch the transaction that has the connection now."""
    late = hasty.transaction()
    tx = late.__enter__()
    tx.execute(INSERT, ("gone",))
    begun, end = threading.Event(), threading.Event()

    def hold():
        with hasty.transaction() as second:
            second.execute(INSERT, ("kept",))
            begun.set()
            assert end.wait(10)
            second.execute(INSERT, ("kept too",))

    second = in_thread(hold)
    assert begun.wait(10)
    with pytest.raises(errors.HoldLimitExceededError):
        tx.execute("DELETE FROM topic")
    late.__exit__(ValueError, ValueError(), None)
    end.set()
    second()
    assert titles(hasty.path) == {"kept", "kept too"}


def test_after_its_end_it_refuses(writer):
    with writer.transaction() as tx:
        tx.execute(INSERT, ("kept",))
    with pytest.raises(ValueError, match="mine"), writer.transaction() as other:
        raise ValueError("mine")
    for ended in (tx, other):
        with pytest.raises(errors.TransactionClosedError, match="has ended"):
            ended.execute(INSERT, ("late",))
        with pytest.raises(errors.TransactionClosedError):
            ended.executemany(INSERT, [("late",)])
        with pytest.raises(errors.TransactionClosedError):
            ended.execute("SELECT 1")
    assert titles(writer.path) == {"kept"}


def test_a_context_may_be_entered_again(writer):
    context = writer.transaction()
    for title in ("one", "two"):
        with context as tx:
            tx.execute(INSERT, (title,))
    assert titles(writer.path) == {"one", "two"}


@pytest.mark.parametrize("threads", [2, 8])
def test_transactions_of_threads_take_turns(writer, threads):
    """Each reads, thinks, and writes what it has read: a lost update would show."""
    writer.execute("CREATE TABLE account (balance INTEGER)")
    writer.execute("INSERT INTO account VALUES (0)")
    inside = []

    def work(number):
        for _ in range(20):
            with writer.transaction() as tx:
                inside.append(number)
                [(balance,)] = tx.execute("SELECT balance FROM account").rows
                time.sleep(0.0005)
                tx.execute("UPDATE account SET balance = ?", (balance + 1,))
                assert inside == [number]
                inside.clear()
            writer.execute(INSERT, (f"{number}.{balance}",))

    assert together(threads, work) == [None] * threads
    assert select(writer.path, "SELECT balance FROM account") == [(20 * threads,)]
    assert len(titles(writer.path)) == 20 * threads
    check_integrity(writer.path)


def test_another_thread_may_work_in_it_and_end_it(writer):
    context = writer.transaction()
    tx = context.__enter__()
    in_thread(lambda: tx.execute(INSERT, ("from another thread",)))()
    assert together(8, lambda number: tx.executemany(INSERT, [(f"{number}",)]).rowcount) == [1] * 8
    in_thread(lambda: context.__exit__(None, None, None))()
    assert writer.execute(INSERT, ("after",)).rowcount == 1, "the thread that began it is free"
    assert titles(writer.path) == {"from another thread", "after", *"01234567"}


def test_the_thread_that_began_it_is_the_one_that_is_refused(writer):
    box = []
    in_thread(lambda: box.append(writer.transaction()) or box.append(box[0].__enter__()))()
    context, tx = box
    # This thread does not hold it: it waits like everybody else.
    with pytest.raises(errors.WriteTimeoutError):
        writer.execute(INSERT, ("late",), timeout=0.05)
    tx.execute(INSERT, ("kept",))
    context.__exit__(None, None, None)
    assert titles(writer.path) == {"kept"}


def test_a_thread_that_dies_in_it_bars_the_way_up_to_the_hold_limit(hasty):
    kept = []

    def dies():
        kept.append(hasty.transaction())
        kept.append(kept[0].__enter__())
        kept[1].execute(INSERT, ("gone",))

    in_thread(dies)()
    assert hasty.execute(INSERT, ("next",), timeout=10).rowcount == 1
    with pytest.raises(errors.HoldLimitExceededError):
        kept[0].__exit__(None, None, None)
    assert titles(hasty.path) == {"next"}


def test_one_left_to_the_garbage_collector_is_rolled_back(writer):
    def forget():
        tx = writer.transaction().__enter__()
        tx.execute(INSERT, ("gone",))

    started = time.monotonic()
    in_thread(forget)()
    gc.collect()
    assert writer.execute(INSERT, ("next",)).rowcount == 1
    forget()
    gc.collect()
    assert writer.execute(INSERT, ("one more",)).rowcount == 1
    assert time.monotonic() - started < 4, "the hold limit freed it"
    assert titles(writer.path) == {"next", "one more"}


@pytest.mark.parametrize("timeout", [0.0, 0.3])
def test_entering_waits_up_to_its_time_out(writer, timeout):
    with locked_by_another_process(writer.path):
        started = time.monotonic()
        with (
            pytest.raises(errors.LockTimeoutError, match="not in the file"),
            writer.transaction(timeout=timeout),
        ):
            raise AssertionError("it was entered")
        assert timeout <= time.monotonic() - started < timeout + 2
    with writer.transaction(timeout=timeout) as tx:
        tx.execute(INSERT, ("next",))
    assert titles(writer.path) == {"next"}


def test_entering_waits_for_the_lock_and_then_goes_on(writer):
    with locked_by_another_process(writer.path) as release:

        def work():
            with writer.transaction() as tx:
                return tx.execute(INSERT, ("patient",)).rowcount

        patient = in_thread(work)
        wait_until(lambda: writer.stats().lock_retries > 3)
        assert patient.is_alive()
        release()
        assert patient() == 1
    assert titles(writer.path) == {"patient"}


def test_the_waiting_does_not_count_as_holding(hasty):
    with locked_by_another_process(hasty.path) as release:

        def work():
            with hasty.transaction() as tx:
                return tx.execute(INSERT, ("patient",)).rowcount

        patient = in_thread(work)
        time.sleep(1.2)
        release()
        assert patient() == 1


def test_other_connections_see_nothing_and_cannot_write_before_its_end(writer):
    reader = sqlite3.connect(writer.path, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM topic").fetchall() == [(0,)]
    with writer.transaction() as tx:
        tx.execute(INSERT, ("inside",))
        assert titles(writer.path) == set()
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            elsewhere(writer.path, 0.05)
    assert reader.execute("SELECT count(*) FROM topic").fetchall() == [(0,)], "its own snapshot"
    reader.execute("COMMIT")
    assert reader.execute("SELECT count(*) FROM topic").fetchall() == [(1,)]
    reader.close()
    elsewhere(writer.path, 5)
    assert titles(writer.path) == {"inside", "elsewhere"}


def test_what_it_has_read_nobody_changes(writer):
    """It holds the write lock from its first moment: no other process comes between."""
    with writer.transaction() as tx:
        assert tx.execute("SELECT count(*) FROM topic").rows == [(0,)]
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            elsewhere(writer.path, 0)
        tx.execute(INSERT, ("first",))
    assert titles(writer.path) == {"first"}


@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_a_process_killed_inside_it_leaves_nothing_and_no_lock(tmp_path, journal_mode):
    script = f"""
import sys
from turnwise import BatchWriter
writer = BatchWriter(sys.argv[1], journal_mode={journal_mode!r})
writer.execute({CREATE!r})
with writer.transaction() as tx:
    tx.execute({INSERT!r}, ("kept",))
context = writer.transaction()
tx = context.__enter__()
tx.executemany({INSERT!r}, [(f"gone {{n}}",) for n in range(50_000)])
print("inside", flush=True)
sys.stdin.read()
"""
    path = tmp_path / "killed.db"
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "inside\n"
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()
    with BatchWriter(path, journal_mode=journal_mode) as writer:
        assert writer.execute(INSERT, ("next",), timeout=5).rowcount == 1
    assert titles(path) == {"kept", "next"}
    check_integrity(path)


def test_closing_in_another_thread_waits_for_the_block(writer):
    with writer.transaction() as tx:
        tx.execute(INSERT, ("kept",))
        closing = in_thread(writer.close)
        wait_until(lambda: writer.closed)
        tx.execute(INSERT, ("kept too",))
        assert closing.is_alive()
    closing()
    assert titles(writer.path) == {"kept", "kept too"}
    with pytest.raises(errors.WriterClosedError), writer.transaction():
        raise AssertionError("it was entered")
