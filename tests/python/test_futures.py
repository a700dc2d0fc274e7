"""Futures of `submit`: their outcomes, callbacks and cancellation, beside threads and loops."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import os
import threading
import time

import pytest

from turnwise import BatchWriter, errors
from writer_support import (
    CREATE,
    INSERT,
    held_by_a_transaction,
    in_thread,
    locked_by_another_process,
    titles,
    together,
    until,
    wait_until,
)

RETURNING = "INSERT INTO topic (title) VALUES (?) RETURNING id, title"


@pytest.fixture
def writer(tmp_path):
    with BatchWriter(tmp_path / "topics.db") as writer:
        writer.execute(CREATE)
        yield writer


def test_each_future_has_its_own_outcome_and_they_share_transactions(writer):
    with locked_by_another_process(writer.path) as release:
        before = writer.stats()
        futures = [
            writer.submit(RETURNING, (None if number % 5 == 0 else f"t{number}",))
            for number in range(500)
        ]
        assert not any(future.done() for future in futures)
        release()
        for number, future in enumerate(futures):
            if number % 5 == 0:
                with pytest.raises(errors.ConstraintError):
                    future.result(10)
                assert isinstance(future.exception(), errors.ConstraintError)
            else:
                result = future.result(10)
                assert result.rows == [(result.lastrowid, f"t{number}")]
                assert future.exception() is None
            assert future.done()
            assert not future.cancelled()
    after = writer.stats()
    assert after.transactions - before.transactions == 1
    assert (after.committed - before.committed, after.failed - before.failed) == (400, 100)
    assert titles(writer.path) == {f"t{number}" for number in range(500) if number % 5}


def test_submitting_does_not_wait_for_the_lock(writer):
    with locked_by_another_process(writer.path):
        started = time.monotonic()
        futures = [writer.submit(INSERT, (f"t{n}",)) for n in range(100)]
        assert time.monotonic() - started < 1
        assert writer.stats().queue_rows == 100
        with pytest.raises(concurrent.futures.TimeoutError):
            futures[0].result(0.05)
    assert [future.result(10).rowcount for future in futures] == [1] * 100, (
        "to give up on a result takes nothing back"
    )


def test_the_tools_of_concurrent_futures_work(writer):
    with locked_by_another_process(writer.path) as release:
        futures = [writer.submit(INSERT, (f"t{n}",)) for n in range(20)]
        done, left = concurrent.futures.wait(futures, timeout=0.05)
        assert (len(done), len(left)) == (0, 20)
        release()
        done, left = concurrent.futures.wait(futures, timeout=10)
        assert (len(done), len(left)) == (20, 0)
    seen = list(concurrent.futures.as_completed(futures, timeout=10))
    assert sorted(map(id, seen)) == sorted(map(id, futures))


def test_a_callback_that_raises_harms_nobody_and_is_logged(writer, caplog):
    def stumble(future):
        raise RuntimeError(f"stumbled over {future.result().rowcount}")

    told = []
    with locked_by_another_process(writer.path) as release:
        futures = [writer.submit(INSERT, (f"t{n}",)) for n in range(30)]
        for future in futures[::3]:
            future.add_done_callback(stumble)
        for future in futures:
            future.add_done_callback(told.append)
        release()
        assert [future.result(10).rowcount for future in futures] == [1] * 30
    writer.flush()
    assert told == futures, "each once, in their order"
    records = [record for record in caplog.records if record.name == "concurrent.futures"]
    assert len(records) == 10
    assert {str(record.exc_info[1]) for record in records} == {"stumbled over 1"}
    assert asyncio.run(writer.aexecute(INSERT, ("next",))).rowcount == 1


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_a_callback_that_raises_beyond_exception_harms_nobody(writer, kind):
    def stop(future):
        raise kind

    with locked_by_another_process(writer.path):
        futures = [writer.submit(INSERT, (f"t{n}",)) for n in range(10)]
        futures[3].add_done_callback(stop)
    assert [future.result(10).rowcount for future in futures] == [1] * 10
    assert writer.submit(INSERT, ("next",)).result(10).rowcount == 1


def test_callbacks_may_write(writer):
    """In a chain: a callback runs in the delivery thread, which others wait for."""
    written = []

    def go_on(future):
        count = len(written)
        written.append(future.result().rowcount)
        if count % 2:
            writer.execute(INSERT, (f"executed {count}",))
        if count < 20:
            writer.submit(INSERT, (f"submitted {count}",)).add_done_callback(go_on)
        else:
            end.set()

    end = threading.Event()
    writer.submit(INSERT, ("first",)).add_done_callback(go_on)
    assert end.wait(20)
    writer.flush()
    assert written == [1] * 21
    assert len(titles(writer.path)) == 1 + 20 + 10


def test_a_callback_may_flush_and_close(tmp_path):
    path = tmp_path / "closing.db"
    writer = BatchWriter(path)
    writer.execute(CREATE)
    told = []

    def close(future):
        with contextlib.suppress(BaseException):
            writer.flush()
            writer.close()
            told.append(writer.closed)

    future = writer.submit(INSERT, ("first",))
    future.add_done_callback(close)
    assert future.result(10).rowcount == 1
    wait_until(lambda: told == [True])
    with pytest.raises(errors.WriterClosedError):
        writer.submit(INSERT, ("second",))
    assert titles(path) == {"first"}


def test_a_future_that_the_application_has_completed_disturbs_nobody(writer):
    with locked_by_another_process(writer.path):
        mine = writer.submit(INSERT, ("mine",))
        other = writer.submit(INSERT, ("other",))
        mine.set_result("my own")
    assert other.result(10).rowcount == 1
    assert mine.result() == "my own"
    assert titles(writer.path) == {"mine", "other"}


def test_a_future_nobody_keeps_is_written_all_the_same(writer):
    with locked_by_another_process(writer.path):
        for number in range(50):
            writer.submit(INSERT, (f"t{number}",))
        gc.collect()
    writer.flush()
    assert len(titles(writer.path)) == 50


def test_flush_and_close_return_after_the_callbacks(tmp_path):
    path = tmp_path / "flush.db"
    with BatchWriter(path) as writer:
        writer.execute(CREATE)
        told = []

        def slow(future):
            time.sleep(0.01)
            told.append(future)

        for end in (writer.flush, writer.close):
            told.clear()
            futures = [writer.submit(INSERT, (f"{end} {n}",)) for n in range(20)]
            for future in futures:
                future.add_done_callback(slow)
            end()
            assert told == futures


def test_the_outcomes_of_a_writer_that_is_gone_still_come(tmp_path):
    path = tmp_path / "gone.db"
    writer = BatchWriter(path)
    writer.execute(CREATE)
    with locked_by_another_process(path):
        futures = [writer.submit(INSERT, (f"t{n}",)) for n in range(10)]
        del writer
        gc.collect()
    assert [future.result(10).rowcount for future in futures] == [1] * 10
    assert len(titles(path)) == 10


def test_a_delivery_thread_ends_with_its_writer(tmp_path):
    def threads():
        found = set()
        for task in os.listdir("/proc/self/task"):
            with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/comm") as comm:
                if comm.read().startswith("turnwise-"):
                    found.add(task)
        return found

    gc.collect()
    # Those of earlier tests may end at any moment.
    before = threads()
    for number in range(5):
        with BatchWriter(tmp_path / f"{number}.db") as writer:
            writer.execute(CREATE)
            assert writer.submit(INSERT, ("t",)).result(10).rowcount == 1
            assert threads() - before
        del writer
    gc.collect()
    wait_until(lambda: not threads() - before)


def test_a_full_queue_blocks_the_submitter(tmp_path):
    with BatchWriter(tmp_path / "full.db", max_queue_rows=3) as writer:
        writer.execute(CREATE)
        with locked_by_another_process(writer.path) as release:
            futures = [writer.submit(INSERT, (f"t{n}",)) for n in range(3)]
            started = time.monotonic()
            with pytest.raises(errors.QueueFullError, match="3 of 3 rows"):
                writer.submit(INSERT, ("late",), timeout=0.2)
            assert 0.2 <= time.monotonic() - started < 3
            patient = in_thread(lambda: writer.submit(INSERT, ("patient",)).result(20))
            time.sleep(0.2)
            assert patient.is_alive()
            assert writer.stats().queue_rows == 3
            # Room comes by cancellation too.
            assert futures[1].cancel()
            wait_until(lambda: writer.stats().queue_rows == 3)
            assert patient.is_alive()
            release()
        assert patient().rowcount == 1
        writer.flush()
        assert titles(writer.path) == {"t0", "t2", "patient"}


def test_threads_that_cancel_the_same_future_agree(writer):
    with locked_by_another_process(writer.path):
        for number in range(20):
            future = writer.submit(INSERT, (f"t{number}",))
            told = together(8, lambda _: future.cancel())  # noqa: B023
            assert future.cancelled()
            assert True in told
    writer.flush()
    assert titles(writer.path) == set()


def test_a_wrapped_future_is_awaited_and_cancelled(writer):
    async def story(release):
        wanted = asyncio.wrap_future(writer.submit(INSERT, ("wanted",)))
        poisoned = asyncio.wrap_future(writer.submit(INSERT, (None,)))
        called_off = asyncio.wrap_future(writer.submit(INSERT, ("called off",)))
        called_off.cancel()
        with pytest.raises(asyncio.CancelledError):
            await called_off
        await until(lambda: writer.stats().queue_rows == 2)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(writer.submit(INSERT, ("late",))), 0.1)
        await until(lambda: writer.stats().queue_rows == 2)
        release()
        assert (await wanted).rowcount == 1
        with pytest.raises(errors.ConstraintError):
            await poisoned

    with held_by_a_transaction(writer) as release:
        asyncio.run(story(release))
    writer.flush()
    assert titles(writer.path) == {"wanted"}


def test_coroutines_futures_and_threads_write_side_by_side(writer):
    def work(number):
        if number % 3 == 0:
            rows = [writer.execute(RETURNING, (f"{number}.{n}",)).rows for n in range(20)]
        elif number % 3 == 1:
            futures = [writer.submit(RETURNING, (f"{number}.{n}",)) for n in range(20)]
            rows = [future.result(20).rows for future in futures]
        else:

            async def story():
                writes = [writer.aexecute(RETURNING, (f"{number}.{n}",)) for n in range(20)]
                return [result.rows for result in await asyncio.gather(*writes)]

            rows = asyncio.run(story())
        assert [title for [(_, title)] in rows] == [f"{number}.{n}" for n in range(20)]
        return rows

    outcomes = together(12, work)
    ids = {row_id for rows in outcomes for [(row_id, _)] in rows}
    assert len(ids) == 240
    assert len(titles(writer.path)) == 240
