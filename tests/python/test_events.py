"""What hooks and logs are told, and what they must never be told."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
from itertools import pairwise

import pytest

import turnwise
from turnwise import BatchWriter, errors
from turnwise.testing import faults, rehearsal
from writer_support import child, select, together, wait_until

SECRET = "s3cret-parameter"


@pytest.fixture
def writer(tmp_path):
    with BatchWriter(tmp_path / "app.db") as writer:
        writer.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x TEXT UNIQUE CHECK (x != 'bad'))")
        yield writer


@pytest.fixture
def heard():
    events = []
    with turnwise.on_event(events.append):
        yield events


def kinds(events):
    return [(event.kind, event.attempt) for event in events]


def test_a_wait_for_the_lock_is_told_try_by_try(writer, heard):
    with faults(writer) as disk:
        disk.strike("begin", "busy", times=2)
        writer.execute("INSERT INTO t (x) VALUES ('a')")
    wait_until(lambda: len(heard) == 3)
    assert kinds(heard) == [("retry", 1), ("retry", 2), ("recovery", 3)]
    first = heard[0]
    assert (first.class_, first.code, first.path) == ("contention", 5, writer.path)
    assert 0 <= first.delay <= 0.05
    assert 20 < first.deadline_left <= 30
    assert (first.error, first.stop) == (None, None)


def test_a_failure_is_told_with_its_statement_and_nothing_else(writer, heard):
    sql = "INSERT INTO t (x) VALUES (?)"
    with pytest.raises(errors.ConstraintError):
        writer.execute(sql, ("bad",))
    wait_until(lambda: heard)
    (event,) = heard
    assert (event.kind, event.error, event.stop) == ("failure", "Constraint", "not_retryable")
    assert event.statement == f"{turnwise.fingerprint(sql):016x}"
    assert "bad" not in repr(event)


@pytest.mark.parametrize("name", ["kind", "class_", "code", "attempt", "anything"])
def test_an_event_is_frozen(writer, heard, name):
    with pytest.raises(errors.NoSuchTableError):
        writer.execute("INSERT INTO nowhere VALUES (1)")
    wait_until(lambda: heard)
    with pytest.raises(AttributeError):
        setattr(heard[0], name, 1)


def test_every_poisoned_write_of_a_group_is_told_once(writer, heard):
    def save(number):
        with contextlib.suppress(errors.ConstraintError):
            writer.execute("INSERT INTO t (x) VALUES (?)", ("bad" if number % 4 == 0 else number,))

    together(32, save)
    wait_until(lambda: len(heard) >= 8)
    time.sleep(0.1)
    assert [event.error for event in heard] == ["Constraint"] * 8


def test_a_time_out_and_a_cancelled_write(writer, heard):
    with writer.transaction():
        result = []

        def late():
            with pytest.raises(errors.WriteTimeoutError):
                writer.execute("INSERT INTO t (x) VALUES ('late')", timeout=0.02)
            result.append(writer.submit("INSERT INTO t (x) VALUES ('never')").cancel())

        thread = threading.Thread(target=late)
        thread.start()
        thread.join()
    assert result == [True]
    wait_until(lambda: heard)
    time.sleep(0.1)
    assert [(event.error, event.class_) for event in heard] == [("WriteTimeout", "timeout")]


def test_a_submitted_write_that_expires_is_told(writer, heard):
    with writer.transaction():
        box = []
        submit = lambda: box.append(writer.submit("INSERT INTO t (x) VALUES ('l')", timeout=0.02))  # noqa: E731
        thread = threading.Thread(target=submit)
        thread.start()
        thread.join()
        with pytest.raises(errors.WriteTimeoutError):
            box[0].result(10)
    wait_until(lambda: heard)
    assert [event.error for event in heard] == ["WriteTimeout"]


def test_a_hook_that_fails_harms_neither_the_write_nor_other_hooks(writer, heard, caplog):
    def broken(event):
        raise SystemExit("a broken hook") if event.attempt % 2 else RuntimeError("a broken hook")

    with turnwise.on_event(broken), faults(writer) as disk:
        disk.strike("begin", "busy", times=3)
        writer.execute("INSERT INTO t (x) VALUES ('a')")
        wait_until(lambda: len(heard) == 4)
        wait_until(lambda: sum(r.exc_info is not None for r in caplog.records) == 4)
    assert select(writer.path, "SELECT x FROM t") == [("a",)]


def test_a_slow_hook_delays_no_write_and_what_is_dropped_is_counted(writer, caplog):
    go_on = threading.Event()
    seen = []

    def slow(event):
        go_on.wait(60)
        seen.append(event)

    with turnwise.on_event(slow):
        for _ in range(12_000):
            with contextlib.suppress(errors.NoSuchTableError):
                writer.execute("INSERT INTO nowhere VALUES (1)")
        assert len(seen) == 0
        go_on.set()
        wait_until(lambda: "dropped" in caplog.text, 30)
    dropped = sum(int(r.args[0]) for r in caplog.records if "dropped" in r.message)
    assert len(seen) + dropped == 12_000
    assert len(seen) >= 10_000


def test_a_closed_subscription_hears_no_more(writer):
    events = []
    subscription = turnwise.on_event(events.append)
    subscription.close()
    subscription.close()
    with turnwise.on_event(lambda _: events.append("other")):
        with pytest.raises(errors.NoSuchTableError):
            writer.execute("INSERT INTO nowhere VALUES (1)")
        wait_until(lambda: events)
    assert events == ["other"]


def test_a_hook_must_be_callable():
    with pytest.raises(TypeError, match="a hook must be callable, not int"):
        turnwise.on_event(1)


def test_a_hook_may_write(tmp_path, writer):
    with BatchWriter(tmp_path / "audit.db") as audit:
        audit.execute("CREATE TABLE failure (class TEXT)")
        note = lambda event: audit.execute("INSERT INTO failure VALUES (?)", (event.class_,))  # noqa: E731
        with turnwise.on_event(note):
            for _ in range(5):
                with pytest.raises(errors.ConstraintError):
                    writer.execute("INSERT INTO t (x) VALUES ('bad')")
            wait_until(lambda: select(audit.path, "SELECT count(*) FROM failure") == [(5,)])


def test_the_log_has_one_line_for_each_event(writer, caplog):
    with caplog.at_level(logging.DEBUG, "turnwise.events"), faults(writer) as disk:
        disk.strike("begin", "busy", times=2)
        writer.execute("INSERT INTO t (x) VALUES ('a')")
        with pytest.raises(errors.ConstraintError):
            writer.execute("INSERT INTO t (x) VALUES ('a')")
        wait_until(lambda: len(caplog.records) == 4)
    levels = [record.levelname for record in caplog.records]
    assert levels == ["DEBUG", "DEBUG", "INFO", "WARNING"]
    retry, _, recovery, failure = (record.getMessage() for record in caplog.records)
    assert retry.startswith(f"retry: {writer.path}: contention, code 5, attempt 1 again in 0.0")
    assert recovery == f"recovery: {writer.path}: contention, code 5, attempt 3"
    assert failure.startswith(
        f"failure: {writer.path}: Constraint constraint, code 2067, attempt 1"
    )
    assert caplog.records[0].event.kind == "retry"


def test_an_application_without_logging_sees_nothing(tmp_path):
    script = """
import sys
from turnwise import BatchWriter, errors
writer = BatchWriter(sys.argv[1])
try:
    writer.execute("INSERT INTO nowhere VALUES (1)")
except errors.NoSuchTableError:
    pass
"""
    done = child(script, tmp_path / "app.db")
    assert done.stderr == ""


def test_the_end_of_the_process_waits_for_hooks(tmp_path):
    script = """
import sys, turnwise
from turnwise import BatchWriter
writer = BatchWriter(sys.argv[1])
turnwise.on_event(lambda event: print(event.kind, event.error, flush=True))
for _ in range(50):
    try:
        writer.execute("INSERT INTO nowhere VALUES (1)")
    except turnwise.TurnwiseError:
        pass
"""
    done = child(script, tmp_path / "app.db")
    assert done.stdout.splitlines() == ["failure NoSuchTable"] * 50


def test_a_child_of_fork_tells_its_own_events(writer, heard):
    with faults(writer) as disk:
        disk.strike("begin", "busy")
        writer.execute("INSERT INTO t (x) VALUES ('parent')")
    wait_until(lambda: len(heard) == 2)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            heard.clear()
            with contextlib.suppress(errors.NoSuchTableError):
                writer.execute("INSERT INTO nowhere VALUES (1)")
            wait_until(lambda: heard)
            os.write(write, repr([event.error for event in heard]).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as pipe:
        told = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0
    assert told == "['NoSuchTable']"


def test_no_output_holds_a_parameter(tmp_path, caplog, capfd):
    """Every way to fail that a parameter can take part in."""
    events = []
    said = []
    path = tmp_path / "app.db"
    with (
        caplog.at_level(logging.DEBUG),
        turnwise.on_event(events.append),
        BatchWriter(path, max_queue_bytes=100_000) as writer,
    ):
        writer.execute("CREATE TABLE t (x TEXT UNIQUE CHECK (length(x) < 50), n INTEGER) STRICT")
        writer.execute("CREATE TABLE u (x TEXT UNIQUE)")
        insert = "INSERT INTO t VALUES (?, ?)"
        attempts = [
            (insert, (SECRET, 1)),
            (insert, (SECRET, 1)),
            (insert, (SECRET * 10, 1)),
            (insert, (1, SECRET)),
            (insert, (SECRET,)),
            (insert, (SECRET, [SECRET])),
            (insert, (SECRET, 2**70)),
            (insert, (SECRET + "\udc00", 1)),
            ("INSERT INTO t VALUES (:a, :b)", {"a": SECRET, "c": 1}),
            ("INSERT INTO nowhere VALUES (?)", (SECRET,)),
            ("INSERT INTO t VALUES (?, nofunction(?))", (SECRET, SECRET)),
            ("INSERT OR ROLLBACK INTO u VALUES (?)", (SECRET,)),
            ("INSERT OR ROLLBACK INTO u VALUES (?)", (SECRET,)),
            (insert, (SECRET * 10_000, 1)),
            ("COMMIT", (SECRET,)),
        ]
        with faults(writer) as disk, rehearsal():
            for point, error in [("begin", "busy"), ("statement", "ioerr"), ("commit", "ioerr")]:
                disk.strike(point, error)
                attempts.append((insert, (SECRET, 7)))
            for sql, params in attempts:
                for write in (
                    writer.execute,
                    lambda sql, params: writer.executemany(sql, [params, params]),
                    lambda sql, params: writer.submit(sql, params).result(10),
                ):
                    try:
                        write(sql, params)
                    except Exception as error:
                        said.append(repr(error) + str(error))
            disk.strike("begin", "busy", times=50)
            with pytest.raises(errors.LockTimeoutError):
                writer.execute(insert, (SECRET, 9))
        said.append(repr(writer.stats()) + repr(writer.settings) + repr(writer))
        wait_until(lambda: any(event.error == "LockTimeout" for event in events))
    assert len(said) > 30
    assert len(events) > 30
    out, err = capfd.readouterr()
    everything = [*said, *map(repr, events), caplog.text, out, err]
    everything += [repr(vars(record)) for record in caplog.records]
    assert not [text for text in everything if SECRET in text]


def test_the_histograms_agree_with_the_counters(writer):
    for number in range(30):
        writer.execute("INSERT INTO t (x) VALUES (?)", (str(number),))
    with pytest.raises(errors.ConstraintError):
        writer.execute("INSERT INTO t (x) VALUES ('0')")
    stats = writer.stats()
    assert stats.write_time.count == stats.committed + stats.failed == 32
    assert stats.lock_time.count == stats.transactions == 31
    assert len(stats.write_time.counts) == len(stats.write_time.bounds) + 1
    assert stats.write_time.bounds[0] == 1024e-9
    assert all(b == 2 * a for a, b in pairwise(stats.lock_time.bounds))
    assert stats.write_time.sum >= stats.lock_time.sum > 0


def test_the_host_sqlite_is_not_watched(writer, heard):
    with (
        contextlib.closing(sqlite3.connect(writer.path)) as connection,
        pytest.raises(sqlite3.OperationalError),
    ):
        connection.execute("INSERT INTO nowhere VALUES (1)")
    time.sleep(0.1)
    assert heard == []
