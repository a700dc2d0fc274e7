"""Coroutines: each gets its own outcome, the writes share transactions, and no loop is ever blocked."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

import pytest

from turnwise import BatchWriter, RetryPolicy, TurnwiseError, errors
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


@contextlib.asynccontextmanager
async def ticking():
    """A coroutine that notes the longest time in which the loop did nothing."""
    gaps = [0.0]

    async def tick():
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.005)
            now = time.monotonic()
            gaps.append(now - last)
            last = now

    task = asyncio.create_task(tick())
    try:
        yield gaps
    finally:
        task.cancel()
        await asyncio.wait([task])


def ran_freely(gaps, seconds):
    """Whether the ticker ticked all the time; a blocked loop shows as one gap of the whole wait."""
    return max(gaps) < seconds / 2 and len(gaps) > seconds / 0.1


def test_each_coroutine_gets_its_own_outcome_and_they_share_transactions(writer):
    async def one(number):
        if number % 4 == 3:
            with pytest.raises(errors.ConstraintError, match="NOT NULL"):
                await writer.aexecute(INSERT, (None,))
            return None
        return await writer.aexecute(RETURNING, (f"t{number}",))

    async def story():
        tasks = [asyncio.create_task(one(number)) for number in range(400)]
        await until(lambda: writer.stats().queue_rows == 400)
        release()
        return await asyncio.gather(*tasks)

    with locked_by_another_process(writer.path) as release:
        before = writer.stats()
        results = asyncio.run(story())
    kept = {}
    for number, result in enumerate(results):
        if result is not None:
            assert result.rows == [(result.lastrowid, f"t{number}")]
            kept[result.lastrowid] = f"t{number}"
    assert len(kept) == 300
    assert titles(writer.path) == set(kept.values())
    after = writer.stats()
    assert after.transactions - before.transactions == 1
    assert (after.committed - before.committed, after.failed - before.failed) == (300, 100)


def test_coroutines_that_write_again_and_again_share_transactions(writer):
    """Without anybody in the way: those who wrote together come back together."""

    async def one(number):
        for count in range(20):
            await writer.aexecute(INSERT, (f"{number}.{count}",))

    async def story():
        await asyncio.gather(*(one(number) for number in range(50)))

    before = writer.stats().transactions
    asyncio.run(story())
    assert len(titles(writer.path)) == 1000
    assert writer.stats().transactions - before <= 200, "20 rounds of 50 writes"


def test_a_group_completes_its_coroutines_in_one_call_to_each_loop(writer):
    """Each call to `call_soon_threadsafe` costs a system call, and wakes the loop."""

    def work(number):
        calls = []

        async def story():
            loop = asyncio.get_running_loop()
            call = loop.call_soon_threadsafe
            loop.call_soon_threadsafe = lambda *given, **more: (
                calls.append(threading.current_thread()),
                call(*given, **more),
            )[1]
            writes = [writer.aexecute(INSERT, (f"{number}.{n}",)) for n in range(100)]
            tasks = [asyncio.create_task(write) for write in writes]
            await asyncio.sleep(0)
            await asyncio.gather(*tasks)

        asyncio.run(story())
        return len(calls)

    with locked_by_another_process(writer.path) as release:
        before = writer.stats().groups
        outcome = in_thread(lambda: together(4, work))
        wait_until(lambda: writer.stats().queue_rows == 400)
        release()
        assert outcome() == [1, 1, 1, 1]
    assert writer.stats().groups - before == 1
    assert len(titles(writer.path)) == 400


def test_loops_in_many_threads_use_one_writer(writer):
    def work(number):
        async def one(coroutine):
            mine = []
            for count in range(10):
                title = f"{number}.{coroutine}.{count}"
                if count % 5 == 4:
                    with pytest.raises(errors.ConstraintError):
                        await writer.aexecute(INSERT, (mine[0][1],))
                    continue
                result = await writer.aexecute(RETURNING, (title,))
                assert result.rows == [(result.lastrowid, title)]
                mine += result.rows
            return mine

        async def story():
            loop = asyncio.get_running_loop()
            results = await asyncio.gather(*(one(coroutine) for coroutine in range(10)))
            assert asyncio.get_running_loop() is loop
            return [row for rows in results for row in rows]

        return asyncio.run(story())

    outcomes = together(6, work)
    rows = [row for outcome in outcomes for row in outcome]
    assert len({row_id for row_id, _ in rows}) == len(rows) == 6 * 10 * 8
    assert titles(writer.path) == {title for _, title in rows}


def test_an_idle_writer_runs_nothing_in_the_loops_thread(writer):
    async def story():
        for number in range(20):
            await writer.aexecute(INSERT, (f"t{number}",))

    before = writer.stats().inline
    asyncio.run(story())
    assert writer.stats().inline == before
    same = "UPDATE topic SET title = title"
    # The counter tells inline writes; the first may still meet the writer thread.
    wait_until(lambda: writer.execute(same) and writer.stats().inline > before)


def test_a_slow_statement_does_not_stop_the_loop(writer):
    slow = """INSERT INTO topic (title) WITH RECURSIVE n(v) AS
              (VALUES (1) UNION ALL SELECT v + 1 FROM n WHERE v < 8000000) SELECT 'slow' FROM n
              WHERE v = 8000000"""

    async def story():
        async with ticking() as gaps:
            started = time.monotonic()
            await writer.aexecute(slow)
            took = time.monotonic() - started
        assert took > 0.2, "the statement was not slow enough to prove anything"
        assert max(gaps) < took / 2
        return len(gaps)

    assert asyncio.run(story()) > 5
    assert titles(writer.path) == {"slow"}


@pytest.mark.parametrize("by", ["another process", "transaction"])
def test_the_loop_runs_on_while_a_write_waits_for_the_lock(writer, by):
    async def story(release):
        async with ticking() as gaps:
            writes = [asyncio.create_task(writer.aexecute(INSERT, (f"t{n}",))) for n in range(50)]
            await asyncio.sleep(1)
            assert not any(write.done() for write in writes)
            assert ran_freely(gaps, 1)
            await asyncio.to_thread(release)
            results = await asyncio.gather(*writes)
        assert [result.rowcount for result in results] == [1] * 50

    blocker = (
        held_by_a_transaction(writer)
        if by == "transaction"
        else locked_by_another_process(writer.path)
    )
    with blocker as release:
        asyncio.run(story(release))
    assert len(titles(writer.path)) == 50


@pytest.mark.parametrize("bound", [{"max_queue_rows": 4}, {"max_queue_bytes": 2000}])
def test_a_full_queue_holds_the_coroutine_up_and_not_the_loop(tmp_path, bound):
    async def story(writer, release):
        async with ticking() as gaps:
            writes = [
                asyncio.create_task(writer.aexecute(INSERT, (f"{n} {'x' * 400}",)))
                for n in range(60)
            ]
            await asyncio.sleep(1)
            assert 0 < writer.stats().queue_rows <= 4
            assert not any(write.done() for write in writes)
            assert ran_freely(gaps, 1)
            await asyncio.to_thread(release)
            results = await asyncio.gather(*writes)
        assert [result.rowcount for result in results] == [1] * 60

    with BatchWriter(tmp_path / "full.db", **bound) as writer:
        writer.execute(CREATE)
        with locked_by_another_process(writer.path) as release:
            asyncio.run(story(writer, release))
        assert len(titles(writer.path)) == 60
        assert writer.stats().max_group <= 60


def test_the_queue_stays_full_until_the_deadline(tmp_path):
    policy = RetryPolicy(deadline=0.4)

    async def story(writer):
        async with ticking() as gaps:
            for timeout in (None, 0.2, 0.0):
                started = time.monotonic()
                with pytest.raises(errors.QueueFullError, match="not in the file"):
                    await writer.aexecute(INSERT, (f"late {timeout}",), timeout=timeout)
                took = time.monotonic() - started
                due = 0.4 if timeout is None else timeout
                assert due - 0.01 <= took < due + 2
        assert max(gaps) < 0.3

    with BatchWriter(tmp_path / "full.db", policy=policy, max_queue_rows=2) as writer:
        writer.execute(CREATE)
        with locked_by_another_process(writer.path):
            kept = [writer.submit(INSERT, (f"kept {n}",), timeout=30) for n in range(2)]
            asyncio.run(story(writer))
        assert [future.result(10).rowcount for future in kept] == [1, 1]
        writer.flush()
        assert titles(writer.path) == {"kept 0", "kept 1"}


def test_time_spent_at_the_full_queue_counts(tmp_path):
    """One time-out bounds the wait for room and the wait for the lock together."""

    async def story(writer, future):
        started = time.monotonic()
        write = asyncio.create_task(writer.aexecute(INSERT, ("late",), timeout=1.0))
        await asyncio.sleep(0.6)
        assert future.cancel()
        with pytest.raises(errors.LockTimeoutError):
            await write
        assert 0.9 <= time.monotonic() - started < 1.5

    with BatchWriter(tmp_path / "full.db", max_queue_rows=1) as writer:
        writer.execute(CREATE)
        with locked_by_another_process(writer.path):
            asyncio.run(story(writer, writer.submit(INSERT, ("first",))))
        writer.flush()
        assert titles(writer.path) == set()


def test_closing_tells_those_that_wait_for_room(tmp_path):
    async def story(writer, release):
        inside = asyncio.create_task(writer.aexecute(INSERT, ("inside",)))
        await until(lambda: writer.stats().queue_rows == 1)
        outside = [asyncio.create_task(writer.aexecute(INSERT, (f"{n}",))) for n in range(5)]
        await asyncio.sleep(0.05)
        closing = asyncio.create_task(asyncio.to_thread(writer.close))
        await until(lambda: writer.closed)
        release()
        await closing
        assert (await inside).rowcount == 1
        return await asyncio.gather(*outside, return_exceptions=True)

    writer = BatchWriter(tmp_path / "closing.db", max_queue_rows=1)
    writer.execute(CREATE)
    with locked_by_another_process(writer.path) as release:
        outcomes = asyncio.run(story(writer, release))
    told = {f"{n}" for n, outcome in enumerate(outcomes) if not isinstance(outcome, TurnwiseError)}
    refused = [outcome for outcome in outcomes if isinstance(outcome, TurnwiseError)]
    assert {type(outcome) for outcome in refused} <= {errors.WriterClosedError}
    assert titles(tmp_path / "closing.db") == {"inside", *told}


def test_a_loop_that_is_closed_harms_nobody(writer):
    """Its write has nobody to tell; the delivery goes on for all others."""
    with held_by_a_transaction(writer) as release:
        dead = asyncio.new_event_loop()
        abandoned = dead.create_task(writer.aexecute(INSERT, ("abandoned",)))
        dead.run_until_complete(asyncio.sleep(0.01))
        dead.close()
        future = writer.submit(INSERT, ("submitted",))

        async def story():
            write = asyncio.create_task(writer.aexecute(INSERT, ("coroutine",)))
            await until(lambda: writer.stats().queue_rows == 3)
            release()
            return await write

        assert asyncio.run(story()).rowcount == 1
    assert future.result(10).rowcount == 1
    assert titles(writer.path) == {"abandoned", "submitted", "coroutine"}
    assert asyncio.run(writer.aexecute(INSERT, ("next",))).rowcount == 1
    assert not abandoned.done()
    abandoned._log_destroy_pending = False
    abandoned.get_coro().close()


def test_a_stopped_loop_gets_its_outcome_when_it_runs_again(writer):
    loop = asyncio.new_event_loop()
    with held_by_a_transaction(writer):
        write = loop.create_task(writer.aexecute(INSERT, ("patient",)))
        loop.run_until_complete(asyncio.sleep(0.01))
    writer.flush()
    assert not write.done()
    others = together(4, lambda number: writer.execute(INSERT, (f"other {number}",)).rowcount)
    assert others == [1] * 4, "nobody waits for a loop that does not run"
    assert loop.run_until_complete(write).rowcount == 1
    loop.close()
    assert len(titles(writer.path)) == 5
