"""The queue: bounded by rows and bytes, full for a while, fair, flushed."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time

import pytest

from turnwise import BatchWriter, RetryPolicy, errors
from writer_support import (
    CREATE,
    INSERT,
    in_thread,
    locked_by_another_process,
    select,
    titles,
    together,
    wait_until,
)

ROWS = 5


@pytest.fixture
def open_writer(tmp_path):
    """Open a writer on an empty table, with settings; it is closed at the end."""
    opened = []

    def open_it(**settings):
        writer = BatchWriter(tmp_path / "topics.db", **settings)
        opened.append(writer)
        writer.execute(CREATE)
        return writer

    yield open_it
    for writer in opened:
        writer.close()


WAYS = {
    "execute": lambda writer, title, timeout: writer.execute(INSERT, (title,), timeout=timeout),
    "executemany": lambda writer, title, timeout: writer.executemany(
        INSERT, [(title,)], timeout=timeout
    ),
    "submit": lambda writer, title, timeout: writer.submit(
        INSERT, (title,), timeout=timeout
    ).result(30),
    "aexecute": lambda writer, title, timeout: asyncio.run(
        writer.aexecute(INSERT, (title,), timeout=timeout)
    ),
}
EACH_WAY = pytest.mark.parametrize("way", WAYS)


def fill_rows(writer):
    futures = [writer.submit(INSERT, (f"accepted {n}",)) for n in range(ROWS)]
    assert writer.stats().queue_rows == ROWS
    return futures


@EACH_WAY
def test_a_full_queue_keeps_callers_waiting_up_to_their_time_out(open_writer, way):
    writer = open_writer(max_queue_rows=ROWS)
    with locked_by_another_process(writer.path):
        accepted = fill_rows(writer)
        for timeout in (0.0, 0.3):
            started = time.monotonic()
            with pytest.raises(errors.QueueFullError, match="full until the deadline") as caught:
                WAYS[way](writer, "refused", timeout)
            assert timeout <= time.monotonic() - started < timeout + 5
            assert isinstance(caught.value, TimeoutError)
            assert (caught.value.kind, caught.value.state) == ("QueueFull", "transient")
            assert "is not in the file" in str(caught.value)
        assert writer.stats().queue_rows == ROWS, "something was dropped"
    assert [future.result(30).rowcount for future in accepted] == [1] * ROWS
    assert titles(writer.path) == {f"accepted {n}" for n in range(ROWS)}
    assert WAYS[way](writer, "next", 30).rowcount == 1


@EACH_WAY
def test_the_policys_deadline_bounds_the_wait_for_room(open_writer, way):
    policy = RetryPolicy(deadline=0.3, max_attempts=None, initial_delay=0.001, max_delay=0.01)
    writer = open_writer(max_queue_rows=ROWS, policy=policy)
    with locked_by_another_process(writer.path):
        accepted = [writer.submit(INSERT, (str(n),), timeout=60) for n in range(ROWS)]
        started = time.monotonic()
        with pytest.raises(errors.QueueFullError):
            WAYS[way](writer, "refused", None)
        assert 0.3 <= time.monotonic() - started < 5
    assert [future.result(30).rowcount for future in accepted] == [1] * ROWS


@EACH_WAY
def test_whoever_waits_for_room_gets_it(open_writer, way):
    writer = open_writer(max_queue_rows=ROWS)
    with locked_by_another_process(writer.path) as release:
        fill_rows(writer)
        waiting = [
            in_thread(lambda n=n: WAYS[way](writer, f"waited {n}", 60)) for n in range(3 * ROWS)
        ]
        time.sleep(0.3)
        assert all(result.is_alive() for result in waiting)
        assert writer.stats().queue_rows == ROWS
        release()
        assert [result().rowcount for result in waiting] == [1] * (3 * ROWS)
    assert titles(writer.path) == {f"accepted {n}" for n in range(ROWS)} | {
        f"waited {n}" for n in range(3 * ROWS)
    }


@EACH_WAY
def test_the_queue_is_bounded_by_bytes_too(open_writer, way):
    writer = open_writer(max_queue_bytes=10_000)
    with locked_by_another_process(writer.path) as release:
        accepted = [writer.submit(INSERT, (f"{n}" * 3_000,)) for n in range(3)]
        assert 9_000 <= writer.stats().queue_bytes <= 10_000
        with pytest.raises(errors.QueueFullError):
            WAYS[way](writer, "x" * 3_000, 0.1)
        waiting = in_thread(lambda: WAYS[way](writer, "y" * 3_000, 60))
        time.sleep(0.2)
        assert waiting.is_alive()
        release()
        assert waiting().rowcount == 1
    assert [future.result(30).rowcount for future in accepted] == [1] * 3
    assert titles(writer.path) == {"0" * 3_000, "1" * 3_000, "2" * 3_000, "y" * 3_000}


def test_a_full_queue_names_its_bounds(open_writer):
    writer = open_writer(max_queue_rows=ROWS)
    with locked_by_another_process(writer.path):
        fill_rows(writer)
        with pytest.raises(errors.QueueFullError, match=r"5 of 5 rows, \d+ of 67108864 bytes"):
            writer.execute(INSERT, ("refused",), timeout=0)


def test_a_full_queue_does_not_block_the_event_loop(open_writer):
    writer = open_writer(max_queue_rows=ROWS)

    async def scene(release):
        gaps = []

        async def tick():
            while True:
                before = time.monotonic()
                await asyncio.sleep(0.01)
                gaps.append(time.monotonic() - before)

        ticker = asyncio.create_task(tick())
        waiting = [
            asyncio.create_task(writer.aexecute(INSERT, (f"waited {n}",), timeout=60))
            for n in range(20)
        ]
        cancelled = asyncio.create_task(writer.aexecute(INSERT, ("cancelled",), timeout=60))
        await asyncio.sleep(0.5)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert not any(task.done() for task in waiting)
        assert len(gaps) > 5, "the loop stood still"
        assert max(gaps) < 5, "the loop stood still"
        release()
        results = await asyncio.wait_for(asyncio.gather(*waiting), 30)
        ticker.cancel()
        return results

    with locked_by_another_process(writer.path) as release:
        fill_rows(writer)
        results = asyncio.run(scene(release))
    assert [result.rowcount for result in results] == [1] * 20
    assert titles(writer.path) == {f"accepted {n}" for n in range(ROWS)} | {
        f"waited {n}" for n in range(20)
    }


@pytest.mark.parametrize("way", ["executemany", "execute", "submit", "aexecute"])
@pytest.mark.parametrize("locked", [False, True])
def test_a_unit_larger_than_the_queue_is_refused_at_once(open_writer, way, locked):
    writer = open_writer(max_queue_rows=ROWS, max_queue_bytes=10_000)
    large = "x" * 20_000

    def check():
        with pytest.raises(
            errors.UnitTooLargeError, match="10000 in all.*max_queue_bytes"
        ) as caught:
            WAYS[way](writer, large, 60)
        assert isinstance(caught.value, ValueError)
        assert caught.value.kind == "UnitTooLarge"
        with pytest.raises(errors.UnitTooLargeError, match="6 rows.* 5 in all.*max_queue_rows"):
            writer.executemany(INSERT, [(f"row {n}",) for n in range(ROWS + 1)])

    started = time.monotonic()
    if locked:
        with locked_by_another_process(writer.path):
            accepted = writer.submit(INSERT, ("beside",))
            check()
        assert accepted.result(30).rowcount == 1
    else:
        check()
        writer.execute(INSERT, ("beside",))
    assert time.monotonic() - started < 20
    assert titles(writer.path) == {"beside"}
    assert writer.executemany(INSERT, [(f"row {n}",) for n in range(ROWS)]).rowcount == ROWS


def test_a_unit_larger_than_a_batch_is_alone_in_its_transaction(open_writer):
    writer = open_writer(max_batch=10)
    with locked_by_another_process(writer.path) as release:
        works = [writer.submit(INSERT, (f"before {n}",)) for n in range(3)]
        rows = [(f"large {n}",) for n in range(25)]
        large = in_thread(lambda: writer.executemany(INSERT, rows))
        wait_until(lambda: writer.stats().queue_rows == 28)
        works += [writer.submit(INSERT, (f"after {n}",)) for n in range(4)]
        before = writer.stats()
        release()
        assert large().rowcount == 25
        assert [work.result(30).rowcount for work in works] == [1] * 7
    writer.flush()
    after = writer.stats()
    assert after.transactions - before.transactions == 3
    assert after.max_group == 4
    # In the order of arrival.
    assert [title.split()[0] for (title,) in select(writer.path, "SELECT title FROM topic")] == [
        *["before"] * 3,
        *["large"] * 25,
        *["after"] * 4,
    ]


def test_no_group_takes_more_rows_than_a_batch(open_writer):
    writer = open_writer(max_batch=7)
    with locked_by_another_process(writer.path) as release:
        futures = [writer.submit(INSERT, (str(n),)) for n in range(70)]
        before = writer.stats().transactions
        release()
        assert [future.result(30).rowcount for future in futures] == [1] * 70
    assert writer.stats().transactions - before == 10
    assert writer.stats().max_group == 7


def test_small_writes_do_not_starve_a_large_one(open_writer):
    """There is room for a small one and not for the large one, which was first: nobody overtakes it."""
    writer = open_writer(max_queue_rows=10, max_batch=2)

    def is_held_back():
        try:
            writer.execute(INSERT, ("hasty",), timeout=0)
        except errors.QueueFullError:
            return True
        except (errors.LockTimeoutError, errors.WriteTimeoutError):
            return False
        raise AssertionError("the database is locked")

    with locked_by_another_process(writer.path) as release:
        first = [writer.submit(INSERT, (f"first {n}",)) for n in range(9)]
        assert not is_held_back()
        rows = [(f"large {n}",) for n in range(10)]
        large = in_thread(lambda: writer.executemany(INSERT, rows, timeout=60))
        wait_until(is_held_back)
        small = [
            in_thread(lambda n=n, way=way: WAYS[way](writer, f"small {way} {n}", 60))
            for way in WAYS
            for n in range(5)
        ]
        time.sleep(0.3)
        assert writer.stats().queue_rows == 9
        release()
        assert large().rowcount == 10
        assert [result().rowcount for result in small] == [1] * 20
    assert [future.result(0).rowcount for future in first] == [1] * 9
    landed = [title.split()[0] for (title,) in select(writer.path, "SELECT title FROM topic")]
    assert landed == ["first"] * 9 + ["large"] * 10 + ["small"] * 20


def test_a_crowd_before_a_full_queue_loses_nothing(open_writer):
    writer = open_writer(max_queue_rows=3, max_queue_bytes=2_000, max_batch=2)

    def work(number):
        told = set()
        for count in range(30):
            title = f"{number}.{count}"
            try:
                WAYS[("execute", "executemany", "submit")[count % 3]](
                    writer, title, (60, 60, 0.002)[number % 3]
                )
            except TimeoutError:
                continue
            told.add(title)
        return told

    outcomes = together(24, work)
    assert titles(writer.path) == set().union(*outcomes)
    assert all(len(outcomes[number]) == 30 for number in range(24) if number % 3 < 2)
    assert (writer.stats().queue_rows, writer.stats().queue_bytes) == (0, 0)


def test_a_flush_returns_when_all_that_was_accepted_is_done(open_writer):
    writer = open_writer()
    writer.flush()
    with locked_by_another_process(writer.path) as release:
        futures = [writer.submit(INSERT, (str(n),)) for n in range(50)]
        futures.append(writer.submit("INSERT INTO nowhere VALUES (1)"))
        flushed = in_thread(writer.flush)
        time.sleep(0.2)
        assert flushed.is_alive()
        release()
        flushed()
        assert [future.done() for future in futures] == [True] * 51
    assert isinstance(futures[-1].exception(), errors.NoSuchTableError)
    assert len(titles(writer.path)) == 50


def test_a_flush_does_not_wait_for_what_comes_later(open_writer):
    writer = open_writer()
    stop = threading.Event()

    def stream():
        count = itertools.count()
        while not stop.is_set():
            writer.submit(INSERT, (str(next(count)),)).result(30)

    streaming = in_thread(lambda: [stream()])
    try:
        started = time.monotonic()
        for _ in range(20):
            writer.flush(20)
        assert time.monotonic() - started < 20
        assert streaming.is_alive()
    finally:
        stop.set()
    streaming()


def test_a_flush_gives_up_at_its_time_out_and_the_writes_go_on(open_writer):
    writer = open_writer()
    with locked_by_another_process(writer.path) as release:
        future = writer.submit(INSERT, ("patient",))
        for timeout in (0.0, 0.3):
            started = time.monotonic()
            with pytest.raises(errors.WriteTimeoutError) as caught:
                writer.flush(timeout)
            assert timeout <= time.monotonic() - started < timeout + 5
            # What it waited for may well land.
            assert "not in the file" not in str(caught.value)
        assert not future.done()
        release()
        assert future.result(30).rowcount == 1
        writer.flush(30)
    assert titles(writer.path) == {"patient"}
