"""Coroutines called off: what had not begun is never applied, what had begun tells its fate."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from turnwise import BatchWriter, errors
from writer_support import (
    CREATE,
    INSERT,
    in_thread,
    locked_by_another_process,
    select,
    titles,
    until,
)

SLOW = """INSERT INTO topic (title) WITH RECURSIVE n(v) AS
          (VALUES (1) UNION ALL SELECT v + 1 FROM n WHERE v < 3000000)
          SELECT nullif(?, '') FROM n WHERE v = 3000000"""
"""Takes a good part of a second; its own error, if any, comes at the end."""


@pytest.fixture
def writer(tmp_path):
    with BatchWriter(tmp_path / "topics.db") as writer:
        writer.execute(CREATE)
        yield writer


async def begun(writer, *writes):
    """Start the writes, and wait until the writer thread has taken the last one from the queue.

    Those before it may have ended by then: others come late to their group.
    """
    before = writer.stats().submitted
    tasks = [asyncio.create_task(write) for write in writes]
    await until(lambda: writer.stats().submitted == before + len(writes))
    await until(lambda: writer.stats().queue_rows == 0)
    return tasks


def notes(error):
    """The notes of an error; before Python 3.11 arguments of it or of what a task's awaiter sees behind it."""
    if hasattr(error, "add_note"):
        return getattr(error, "__notes__", [])
    found = []
    while error is not None:
        found += [note for note in error.args if note not in found]
        error = error.__context__
    return found


def test_a_cancelled_write_that_has_not_begun_is_never_applied(writer):
    async def story(release):
        writes = [asyncio.create_task(writer.aexecute(INSERT, (f"t{n}",))) for n in range(20)]
        await until(lambda: writer.stats().queue_rows == 20)
        before = writer.stats().cancelled
        started = time.monotonic()
        for write in writes[::2]:
            assert write.cancel("not wanted any more")
        for write in writes[::2]:
            with pytest.raises(asyncio.CancelledError) as caught:
                await write
            assert any("had not begun; it is not in the file" in n for n in notes(caught.value))
            assert "not wanted any more" in (*caught.value.args, *notes(caught.value))
        assert time.monotonic() - started < 5, "it waited for the lock"
        assert writer.stats().cancelled - before == 10
        assert writer.stats().queue_rows == 10
        await asyncio.to_thread(release)
        results = await asyncio.gather(*writes[1::2])
        assert [result.rowcount for result in results] == [1] * 10

    with locked_by_another_process(writer.path) as release:
        asyncio.run(story(release))
    writer.flush()
    assert titles(writer.path) == {f"t{n}" for n in range(1, 20, 2)}


@pytest.mark.parametrize("title", ["slow", ""])
def test_a_cancelled_write_that_has_begun_is_waited_for_and_tells_its_fate(writer, title):
    async def story():
        [write] = await begun(writer, writer.aexecute(SLOW, (title,)))
        cancelled = time.monotonic()
        for _ in range(3):
            write.cancel()
            await asyncio.sleep(0.001)
            assert not write.done()
        with pytest.raises(asyncio.CancelledError) as caught:
            await write
        assert time.monotonic() - cancelled > 0.05, "not slow enough to prove anything"
        assert write.cancelled()
        return notes(caught.value)

    told = asyncio.run(story())
    if title:
        assert told == ["the cancelled write had begun, and was committed"]
        assert titles(writer.path) == {"slow"}
    else:
        [note] = told
        assert note.startswith("the cancelled write had begun, and failed: ")
        assert "NOT NULL" in note
        assert titles(writer.path) == set()
    assert writer.stats().cancelled == 0


def test_one_cancelled_coroutine_takes_nobody_of_its_group_along(writer):
    async def story():
        quick, other, slow = await begun(
            writer,
            writer.aexecute(INSERT, ("quick",)),
            writer.aexecute(INSERT, (None,)),
            writer.aexecute(SLOW, ("slow",)),
        )
        slow.cancel()
        assert (await quick).rowcount == 1
        with pytest.raises(errors.ConstraintError):
            await other
        with pytest.raises(asyncio.CancelledError):
            await slow

    asyncio.run(story())
    assert titles(writer.path) == {"slow", "quick"}


def test_a_task_cancelled_before_its_first_step_writes_nothing(writer):
    async def cancels_itself():
        asyncio.current_task().cancel()
        await writer.aexecute(INSERT, ("itself",))

    async def story():
        write = asyncio.create_task(writer.aexecute(INSERT, ("unborn",)))
        write.cancel()
        with pytest.raises(asyncio.CancelledError):
            await write
        with locked_by_another_process(writer.path), pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(cancels_itself())

    asyncio.run(story())
    writer.flush()
    assert titles(writer.path) == set()


def test_cancelling_a_wait_for_room_writes_nothing(tmp_path):
    async def story(writer, release):
        first = asyncio.create_task(writer.aexecute(INSERT, ("first",)))
        await until(lambda: writer.stats().queue_rows == 1)
        waiting = [asyncio.create_task(writer.aexecute(INSERT, (f"w{n}",))) for n in range(6)]
        await asyncio.sleep(0.1)
        for write in waiting[::2]:
            write.cancel()
        done, _ = await asyncio.wait(waiting[::2], timeout=5)
        assert len(done) == 3
        for write in done:
            with pytest.raises(asyncio.CancelledError) as caught:
                await write
            assert notes(caught.value) == [
                "the cancelled write had not begun; it is not in the file"
            ]
        await asyncio.to_thread(release)
        results = await asyncio.gather(first, *waiting[1::2])
        assert [result.rowcount for result in results] == [1] * 4

    with BatchWriter(tmp_path / "full.db", max_queue_rows=1) as writer:
        writer.execute(CREATE)
        with locked_by_another_process(writer.path) as release:
            asyncio.run(story(writer, release))
        writer.flush()
        assert titles(writer.path) == {"first", "w1", "w3", "w5"}


def test_a_cancellation_that_meets_the_news_of_room_counts(tmp_path):
    """Both in one round of the loop: `asyncio.wait_for` before Python 3.12 would lose the cancellation."""

    async def story(writer):
        first = writer.submit(INSERT, ("first",))
        write = asyncio.create_task(writer.aexecute(INSERT, ("cancelled",)))
        await asyncio.sleep(0.05)
        assert first.cancel()
        # The loop stands still until the delivery thread has posted the news to it.
        time.sleep(0.3)  # noqa: ASYNC251
        await asyncio.sleep(0)
        write.cancel()
        with pytest.raises(asyncio.CancelledError):
            await write

    with BatchWriter(tmp_path / "full.db", max_queue_rows=1) as writer:
        writer.execute(CREATE)
        with locked_by_another_process(writer.path):
            asyncio.run(story(writer))
        writer.flush()
        assert titles(writer.path) == set()


def test_wait_for_gives_up_on_a_write_that_has_not_begun(writer):
    async def story(release):
        started = time.monotonic()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(writer.aexecute(INSERT, ("late",)), 0.2)
        assert 0.15 <= time.monotonic() - started < 3
        assert writer.stats().queue_rows == 0
        patient = asyncio.create_task(asyncio.wait_for(writer.aexecute(INSERT, ("patient",)), 30))
        await until(lambda: writer.stats().queue_rows == 1)
        await asyncio.to_thread(release)
        assert (await patient).rowcount == 1

    with locked_by_another_process(writer.path) as release:
        asyncio.run(story(release))
    writer.flush()
    assert titles(writer.path) == {"patient"}


def test_wait_for_waits_for_a_write_that_has_begun(writer):
    async def story():
        [write] = await begun(writer, asyncio.wait_for(writer.aexecute(SLOW, ("slow",)), 0.03))
        try:
            result = await write
        except asyncio.TimeoutError as error:
            return error.__cause__
        return result

    ended = asyncio.run(story())
    assert titles(writer.path) == {"slow"}, "it ended before the write had"
    if isinstance(ended, asyncio.CancelledError):
        assert notes(ended) == ["the cancelled write had begun, and was committed"]
    else:
        assert ended.rowcount == 1


def test_a_cancelled_group_of_tasks_ends_only_after_its_writes(writer):
    """What a task group or a shutdown does: cancel all, then wait for all."""

    async def story():
        tasks = await begun(
            writer, writer.aexecute(INSERT, ("before",)), writer.aexecute(SLOW, ("slow",))
        )
        queued = [asyncio.create_task(writer.aexecute(SLOW, (f"q{n}",))) for n in range(3)]
        await asyncio.sleep(0)
        for task in [*tasks, *queued]:
            task.cancel()
        await asyncio.wait([*tasks, *queued], timeout=30)
        assert all(task.cancelled() for task in [tasks[1], *queued])
        return titles(writer.path)

    at_end = asyncio.run(story())
    assert {"before", "slow"} <= at_end
    writer.flush()
    assert titles(writer.path) == at_end, "a write landed after its task had ended"


def test_a_loop_that_ends_with_writes_under_way_cancels_them(writer):
    """`asyncio.run` cancels what is left over, and waits for what has begun."""

    async def story():
        left = await begun(writer, writer.aexecute(SLOW, ("slow",)))
        left.append(asyncio.create_task(writer.aexecute(SLOW, ("never",))))
        await asyncio.sleep(0)
        return left

    started = time.monotonic()
    slow, never = asyncio.run(story())
    assert time.monotonic() - started < 20
    assert slow.cancelled()
    assert never.cancelled()
    writer.flush()
    assert "slow" in titles(writer.path)
    # Late arrivals ride along, so it may have begun with the other.
    assert writer.stats().cancelled == ("never" not in titles(writer.path))


def test_cancelled_at_any_moment_each_task_agrees_with_the_file(writer):
    draw = random.Random(7)

    async def one(title, told):
        try:
            await writer.aexecute(INSERT, (title,))
            told[title] = True
        except asyncio.CancelledError as error:
            [note] = [note for note in notes(error) if "the cancelled write" in note]
            told[title] = "was committed" in note
            raise

    async def story(told):
        for _ in range(40):
            writes = []
            for _ in range(12):
                title = f"t{len(told)}"
                told[title] = False
                writes.append(asyncio.create_task(one(title, told)))
            await asyncio.sleep(draw.uniform(0, 0.004))
            for write in draw.sample(writes, 6):
                write.cancel()
            await asyncio.wait(writes, timeout=30)
            assert all(write.done() for write in writes)

    told = {}
    neighbour = in_thread(
        lambda: [writer.execute(INSERT, (f"neighbour {n}",)).rowcount for n in range(200)]
    )
    asyncio.run(story(told))
    assert neighbour() == [1] * 200
    writer.flush()
    landed = {title for title in titles(writer.path) if not title.startswith("neighbour")}
    assert landed == {title for title, committed in told.items() if committed}
    assert set(told.values()) == {True, False}


def test_time_outs_at_any_moment_agree_with_the_file(writer):
    async def one(number, told):
        for count in range(20):
            title = f"{number}.{count}"
            try:
                await writer.aexecute(INSERT, (title,), timeout=0.0004 * (count % 7))
                told[title] = True
            except TimeoutError:
                told[title] = False

    async def story(told):
        await asyncio.gather(*(one(number, told) for number in range(20)))

    told = {}
    asyncio.run(story(told))
    assert titles(writer.path) == {title for title, landed in told.items() if landed}
    assert set(told.values()) == {True, False}


def test_errors_of_cancelled_writes_are_not_reported_as_lost(writer, caplog):
    """asyncio logs exceptions that nobody fetched; ours is in the note."""

    async def story():
        [write] = await begun(writer, writer.aexecute(SLOW, ("",)))
        write.cancel()
        await asyncio.wait([write])

    asyncio.run(story())
    assert [record for record in caplog.records if record.name == "asyncio"] == []
    assert select(writer.path, "SELECT count(*) FROM topic") == [(0,)]
