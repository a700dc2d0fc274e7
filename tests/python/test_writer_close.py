"""The end of a writer: it drains, refuses what comes later, and says of each write what became of it."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
import time

import pytest

from turnwise import BatchWriter, errors
from writer_support import (
    CREATE,
    INSERT,
    check_integrity,
    database_files,
    in_thread,
    locked_by_another_process,
    titles,
    together,
    wait_until,
)


@pytest.fixture
def writer(tmp_path):
    writer = BatchWriter(tmp_path / "topics.db")
    writer.execute(CREATE)
    yield writer
    writer.close()


CALLS = {
    "execute": lambda writer: writer.execute(INSERT, ("late",)),
    "executemany": lambda writer: writer.executemany(INSERT, [("late",)]),
    "submit": lambda writer: writer.submit(INSERT, ("late",)),
    "aexecute": lambda writer: asyncio.run(writer.aexecute(INSERT, ("late",))),
    "transaction": lambda writer: writer.transaction().__enter__(),
    "flush": lambda writer: writer.flush(),
    "settings": lambda writer: writer.settings,
}


def test_close_drains(writer):
    futures = [writer.submit(INSERT, (str(n),)) for n in range(2_000)]
    writer.close()
    assert all(future.done() for future in futures)
    assert [future.result().rowcount for future in futures] == [1] * 2_000
    assert titles(writer.path) == {str(n) for n in range(2_000)}


def test_close_waits_for_the_lock(writer):
    with locked_by_another_process(writer.path) as release:
        futures = [writer.submit(INSERT, (str(n),)) for n in range(20)]
        closed = in_thread(writer.close)
        time.sleep(0.2)
        assert closed.is_alive()
        release()
        closed()
    assert [future.result(0).rowcount for future in futures] == [1] * 20
    assert titles(writer.path) == {str(n) for n in range(20)}


@pytest.mark.parametrize("call", CALLS)
def test_a_closed_writer_refuses(writer, call):
    writer.execute(INSERT, ("early",))
    assert not writer.closed
    writer.close()
    assert writer.closed
    with pytest.raises(errors.WriterClosedError, match="open a new BatchWriter") as caught:
        CALLS[call](writer)
    assert isinstance(caught.value, sqlite3.ProgrammingError)
    assert caught.value.kind == "WriterClosed"
    assert titles(writer.path) == {"early"}


def test_a_closed_writer_still_tells_what_it_was(writer):
    path = writer.path
    writer.execute(INSERT, ("early",))
    writer.close()
    writer.close()
    assert writer.path == path
    assert writer.stats().committed == 2
    assert repr(writer) == f"<BatchWriter {path!r} closed>"


def test_close_lets_go_of_the_file(writer, tmp_path):
    writer.execute(INSERT, ("early",))
    writer.close()
    assert database_files(tmp_path) == ["topics.db"], "the log is folded in"
    assert titles(writer.path) == {"early"}
    with BatchWriter(writer.path, journal_mode="delete") as again:
        assert again.execute(INSERT, ("later",)).rowcount == 1
    assert titles(writer.path) == {"early", "later"}


def test_many_threads_may_close(writer):
    futures = [writer.submit(INSERT, (str(n),)) for n in range(500)]
    assert together(16, lambda number: writer.close()) == [None] * 16
    assert writer.closed
    assert [future.result(30).rowcount for future in futures] == [1] * 500
    assert len(titles(writer.path)) == 500


def test_close_gives_up_at_its_time_out_and_what_is_queued_goes_on_being_tried(writer):
    with locked_by_another_process(writer.path) as release:
        futures = [writer.submit(INSERT, (str(n),)) for n in range(20)]
        started = time.monotonic()
        with pytest.raises(errors.WriteTimeoutError) as caught:
            writer.close(0.3)
        assert 0.3 <= time.monotonic() - started < 5
        # What it waited for may well land.
        assert "not in the file" not in str(caught.value)
        assert writer.closed
        with pytest.raises(errors.WriterClosedError):
            writer.execute(INSERT, ("late",))
        assert not any(future.done() for future in futures)
        release()
        assert [future.result(30).rowcount for future in futures] == [1] * 20
    assert titles(writer.path) == {str(n) for n in range(20)}


def test_what_a_closed_writer_could_not_write_is_told(writer):
    with locked_by_another_process(writer.path):
        futures = [writer.submit(INSERT, (str(n),), timeout=1) for n in range(5)]
        with pytest.raises(TimeoutError):
            writer.close(0.1)
        assert [type(future.exception(30)) for future in futures] == [errors.LockTimeoutError] * 5
    assert titles(writer.path) == set()


def test_the_block_closes_and_drains_also_after_an_exception(tmp_path):
    path = tmp_path / "topics.db"
    with BatchWriter(path) as writer:
        writer.execute(CREATE)
        futures = [writer.submit(INSERT, (str(n),)) for n in range(100)]
    assert writer.closed
    assert all(future.done() for future in futures)
    with pytest.raises(ZeroDivisionError), BatchWriter(path) as writer:
        writer.submit(INSERT, ("before the exception",))
        raise ZeroDivisionError
    assert writer.closed
    assert titles(path) == {str(n) for n in range(100)} | {"before the exception"}


@pytest.mark.parametrize("locked", [False, True])
def test_a_writer_that_is_dropped_lands_what_it_accepted(tmp_path, locked):
    path = tmp_path / "topics.db"
    writer = BatchWriter(path)
    writer.execute(CREATE)
    if locked:
        with locked_by_another_process(path):
            futures = [writer.submit(INSERT, (str(n),)) for n in range(300)]
            del writer
            gc.collect()
    else:
        futures = [writer.submit(INSERT, (str(n),)) for n in range(300)]
        del writer
        gc.collect()
    assert [future.result(30).rowcount for future in futures] == [1] * 300
    # The connection is closed with it: nothing of the log is left.
    wait_until(lambda: database_files(tmp_path) == ["topics.db"])
    assert titles(path) == {str(n) for n in range(300)}
    check_integrity(path)


@pytest.mark.parametrize("round_", range(5))
def test_a_write_while_the_writer_closes_has_landed_or_was_refused(tmp_path, round_):
    path = tmp_path / "topics.db"
    writer = BatchWriter(path, max_queue_rows=8, max_batch=4)
    writer.execute(CREATE)
    begun = threading.Semaphore(0)

    def write(number):
        told = {}
        for count in range(100_000):
            title = f"{number}.{count}"
            try:
                match number % 4:
                    case 0:
                        writer.execute(INSERT, (title,))
                    case 1:
                        writer.submit(INSERT, (title,)).result(30)
                    case 2:
                        writer.executemany(INSERT, [(title,)])
                    case 3:
                        with writer.transaction() as tx:
                            tx.execute(INSERT, (title,))
                told[title] = True
            except errors.WriterClosedError:
                told[title] = False
                return told
            if count == 3:
                begun.release()
        raise AssertionError("it was never closed")

    writing = [in_thread(lambda number=number: write(number)) for number in range(16)]
    for _ in writing:
        assert begun.acquire(timeout=30)
    time.sleep(round_ * 0.003)
    closing = [in_thread(writer.close) for _ in range(2)]
    told = {}
    for result in writing:
        told.update(result())
    for result in closing:
        result()
    assert list(told.values()).count(False) == 16
    wait_until(lambda: database_files(tmp_path) == ["topics.db"])
    assert titles(path) == {title for title, landed in told.items() if landed}
    check_integrity(path)
