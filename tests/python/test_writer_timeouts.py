"""Time-outs and cancellation: what had not begun is never applied, what had begun tells its fate."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import sqlite3
import time

import pytest

from turnwise import BatchWriter, RetryPolicy, errors
from writer_support import (
    CREATE,
    INSERT,
    held_by_a_transaction,
    in_thread,
    locked_by_another_process,
    select,
    titles,
    together,
    wait_until,
)


@pytest.fixture
def writer(tmp_path):
    with BatchWriter(tmp_path / "topics.db") as writer:
        writer.execute(CREATE)
        yield writer


@contextlib.contextmanager
def blocked(writer, by):
    if by == "transaction":
        with held_by_a_transaction(writer):
            yield
    else:
        with locked_by_another_process(writer.path):
            yield


def due(by):
    return errors.WriteTimeoutError if by == "transaction" else errors.LockTimeoutError


BLOCKERS = pytest.mark.parametrize("by", ["transaction", "another process"])


@BLOCKERS
def test_a_write_that_times_out_is_never_applied(writer, by):
    with blocked(writer, by):
        for timeout in (0.0, 0.05, 0.3):
            started = time.monotonic()
            with pytest.raises(TimeoutError, match="not in the file") as caught:
                writer.execute(INSERT, (f"late {timeout}",), timeout=timeout)
            took = time.monotonic() - started
            assert type(caught.value) is due(by)
            assert timeout <= took < timeout + 2
        with pytest.raises(TimeoutError):
            writer.executemany(INSERT, [("late 1",), ("late 2",)], timeout=0.05)
        future = writer.submit(INSERT, ("late future",), timeout=0.05)
        assert type(future.exception(10)) is due(by)
        with pytest.raises(TimeoutError):
            asyncio.run(writer.aexecute(INSERT, ("late coroutine",), timeout=0.05))
        with pytest.raises(TimeoutError), writer.transaction(timeout=0.05) as tx:
            tx.execute(INSERT, ("late transaction",))
        patient = writer.submit(INSERT, ("patient",))
    assert patient.result(10).rowcount == 1
    writer.flush()
    assert titles(writer.path) == {"patient"}


def test_the_locked_database_is_reported_as_the_standard_library_does(writer):
    with locked_by_another_process(writer.path):
        with pytest.raises(sqlite3.OperationalError, match="database is locked") as caught:
            writer.execute(INSERT, ("late",), timeout=0.1)
        assert caught.value.sqlite_errorcode == 5
        assert caught.value.state == "exhausted"


def test_the_policys_deadline_is_the_default_time_out(tmp_path):
    policy = RetryPolicy(deadline=0.2, max_attempts=None, initial_delay=0.001, max_delay=0.01)
    with BatchWriter(tmp_path / "a.db", policy=policy) as writer:
        writer.execute(CREATE)
        with locked_by_another_process(writer.path):
            started = time.monotonic()
            with pytest.raises(errors.LockTimeoutError):
                writer.execute(INSERT, ("late",))
            assert isinstance(
                writer.submit(INSERT, ("late too",)).exception(10), errors.LockTimeoutError
            )
            with pytest.raises(errors.LockTimeoutError):
                asyncio.run(writer.aexecute(INSERT, ("late as well",)))
            assert 0.6 <= time.monotonic() - started < 5
        assert writer.execute(INSERT, ("next",)).rowcount == 1
    assert titles(tmp_path / "a.db") == {"next"}


@pytest.mark.parametrize("timeout", [-1, -0.001, float("nan"), float("inf"), 1e300])
def test_a_time_out_out_of_range_is_refused_everywhere(writer, timeout):
    calls = [
        lambda: writer.execute(INSERT, ("x",), timeout=timeout),
        lambda: writer.executemany(INSERT, [("x",)], timeout=timeout),
        lambda: writer.submit(INSERT, ("x",), timeout=timeout),
        lambda: asyncio.run(writer.aexecute(INSERT, ("x",), timeout=timeout)),
        lambda: writer.transaction(timeout=timeout).__enter__(),
        lambda: writer.flush(timeout),
        lambda: writer.close(timeout),
    ]
    for call in calls:
        with pytest.raises(errors.InvalidSettingError, match="^timeout="):
            call()
    assert not writer.closed
    assert titles(writer.path) == set()


def test_a_write_that_has_begun_is_waited_for_beyond_its_time_out(writer):
    """The time-out bounds the wait of a write that has not begun: no outcome is guessed."""
    slow = """INSERT INTO topic (title) WITH RECURSIVE n(v) AS
              (VALUES (1) UNION ALL SELECT v + 1 FROM n WHERE v < 6000000) SELECT 'slow ' || max(v) FROM n"""
    started = time.monotonic()
    assert writer.execute(slow, timeout=0.01).rowcount == 1
    assert time.monotonic() - started > 0.05, "the statement was not slow enough to prove anything"
    assert titles(writer.path) == {"slow 6000000"}


@BLOCKERS
def test_a_cancelled_future_is_never_applied(writer, by):
    with blocked(writer, by):
        futures = [writer.submit(INSERT, (f"f{n}",)) for n in range(10)]
        before = writer.stats().cancelled
        for future in futures[::2]:
            assert future.cancel()
            assert future.cancel(), "to cancel again is harmless"
            assert future.cancelled()
            with pytest.raises(concurrent.futures.CancelledError):
                future.result(0)
        assert writer.stats().cancelled == before + 5
        # Both know only futures that were told that they are cancelled.
        done = concurrent.futures.wait(futures[::2], timeout=5)
        assert len(done.done) == 5
        assert len(list(concurrent.futures.as_completed(futures[::2], timeout=5))) == 5
        told = []
        futures[0].add_done_callback(told.append)
        assert told == [futures[0]]
    for future in futures[1::2]:
        assert future.result(10).rowcount == 1
        assert not future.cancel(), "it is done"
        assert not future.cancelled()
    assert titles(writer.path) == {"f1", "f3", "f5", "f7", "f9"}


def test_to_cancel_a_write_that_has_begun_fails_and_its_outcome_comes(writer):
    """Cancel at every moment of a write's life: the future and the file agree each time."""
    cancelled = []

    def work(number):
        for count in range(60):
            title = f"{number}.{count}"
            future = writer.submit(INSERT, (title,))
            time.sleep(count % 6 * 0.0001)
            if future.cancel():
                cancelled.append(title)
            else:
                assert future.result(10).rowcount == 1

    assert together(8, work) == [None] * 8
    kept = titles(writer.path)
    assert kept.isdisjoint(cancelled)
    assert len(kept) + len(cancelled) == 8 * 60
    assert cancelled, "no cancellation came in time"
    assert kept, "no write came in time"


def test_time_outs_at_any_moment_agree_with_the_file(writer):
    """With time-outs as long as a write takes, each caller is told what the file says."""

    def work(number):
        told = {}
        for count in range(60):
            title = f"{number}.{count}"
            try:
                if count % 2:
                    writer.execute(INSERT, (title,), timeout=0.0003 * (count % 7))
                else:
                    writer.submit(INSERT, (title,), timeout=0.0003 * (count % 7)).result(10)
                told[title] = True
            except TimeoutError:
                told[title] = False
        return told

    outcomes = together(16, work)
    told = {title: landed for outcome in outcomes for title, landed in outcome.items()}
    assert titles(writer.path) == {title for title, landed in told.items() if landed}
    assert set(told.values()) == {True, False}


def test_one_that_gives_up_holds_nobody_else_up(writer):
    with locked_by_another_process(writer.path) as release:
        patient = in_thread(lambda: writer.execute(INSERT, ("patient",), timeout=30))
        wait_until(lambda: writer.stats().lock_retries > 3)
        hasty = together(
            8, lambda number: writer.execute(INSERT, (f"hasty {number}",), timeout=0.05)
        )
        assert all(isinstance(error, errors.LockTimeoutError) for error in hasty)
        assert patient.is_alive()
        release()
        assert patient().rowcount == 1
    assert titles(writer.path) == {"patient"}


def test_a_writer_waits_for_a_lock_without_burning_the_processor(writer):
    with locked_by_another_process(writer.path):
        future = writer.submit(INSERT, ("waits",))
        time.sleep(0.2)
        used, retries = time.process_time(), writer.stats().lock_retries
        time.sleep(1)
        assert time.process_time() - used < 0.3
        # Delays of up to 50 ms with full jitter: some 40 in a second.
        assert 5 < writer.stats().lock_retries - retries < 400
    assert future.result(10).rowcount == 1


def test_the_lock_is_asked_for_soon_after_it_is_free(writer):
    with locked_by_another_process(writer.path) as release:
        future = writer.submit(INSERT, ("waits",))
        time.sleep(0.5)
        release()
        started = time.monotonic()
        future.result(10)
        assert time.monotonic() - started < 0.5
    assert select(writer.path, "SELECT count(*) FROM topic") == [(1,)]


def test_a_locked_database_is_named_with_the_tries(writer):
    with locked_by_another_process(writer.path), pytest.raises(errors.LockTimeoutError) as caught:
        writer.execute(INSERT, ("late",), timeout=0.3)
    assert caught.value.attempts > 2
    assert f"lock of {writer.path} at each of {caught.value.attempts} tries" in str(caught.value)
