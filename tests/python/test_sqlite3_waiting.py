"""How writers of `turnwise.sqlite3` wait for each other, and for those that know nothing of turns."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3 as stdlib
import subprocess
import sys
import threading
import time

import pytest

from sqlite3_support import INSERT, make, turn_held, turn_is_taken
from turnwise import errors, sqlite3
from writer_support import (
    check_integrity,
    in_thread,
    interrupted_child,
    locked_by_another_process,
    select,
    titles,
    together,
    wait_until,
)

THREADS, WRITES = 58, 5


@pytest.fixture(params=["wal", "delete"])
def journal(request):
    return request.param


@pytest.fixture
def path(tmp_path, journal):
    return make(tmp_path / "app.db", mode=journal)


@contextlib.contextmanager
def busy_process(path):
    """Another process of ours is in a write transaction."""
    script = """
import sys
from turnwise import sqlite3
connection = sqlite3.connect(sys.argv[1])
connection.execute("INSERT INTO topic VALUES ('of the other')")
print("held", flush=True)
sys.stdin.readline()
connection.commit()
print("done", flush=True)
sys.stdin.readline()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def save(path, *titles, **options):
    """Write each title in a transaction of its own."""
    with contextlib.closing(sqlite3.connect(path, **options)) as connection:
        for title in titles:
            with connection:
                connection.execute(INSERT, (title,))


def test_the_story_in_one_process(tmp_path):
    """58 threads with 5 writes each: what `timeout` loses or is given up on, turns bring home."""

    def run(module, path):
        def work(number):
            refused = 0
            connection = module.connect(path, timeout=0.3 if module is stdlib else 60)
            for write in range(WRITES):
                try:
                    with connection:
                        connection.execute("SELECT count(*) FROM topic").fetchone()
                        connection.execute(INSERT, (f"{number} {write}",))
                        time.sleep(0.002)
                except stdlib.OperationalError:
                    refused += 1
            connection.close()
            return refused

        outcomes = together(THREADS, work)
        assert all(isinstance(outcome, int) for outcome in outcomes), outcomes
        return sum(outcomes), select(path, "SELECT count(*) FROM topic")[0][0]

    refused, rows = run(stdlib, make(tmp_path / "plain.db"))
    assert refused + rows == THREADS * WRITES
    assert refused > 0, "without turns some are locked out"
    path = make(tmp_path / "turns.db")
    assert run(sqlite3, path) == (0, THREADS * WRITES)
    assert titles(path) == {f"{n} {w}" for n in range(THREADS) for w in range(WRITES)}
    check_integrity(path)


CROWD = """
import sqlite3 as stdlib, sys, threading
from turnwise import sqlite3
path, process = sys.argv[1:]
failed = []

def work(thread):
    connection = sqlite3.connect(path, timeout=60)
    for write in range(20):
        try:
            with connection:
                connection.execute("INSERT INTO topic VALUES (?)", (f"{process} {thread} {write}",))
                connection.execute("UPDATE account SET sum = sum + 1")
        except stdlib.Error as error:
            failed.append(repr(error))
    connection.close()

threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(failed)
"""


def test_processes_and_threads_lose_nothing_and_double_nothing(path):
    with contextlib.closing(stdlib.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE account (sum)")
        connection.execute("INSERT INTO account VALUES (0)")
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", CROWD, str(path), str(number)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    told = [process.communicate(timeout=150)[0] for process in processes]
    assert told == ["[]\n"] * 4
    assert select(path, "SELECT sum FROM account") == [(320,)]
    assert titles(path) == {f"{p} {t} {w}" for p in range(4) for t in range(4) for w in range(20)}
    check_integrity(path)


def test_readers_wait_for_nobody(path):
    with contextlib.closing(sqlite3.connect(path)) as reader, busy_process(path):
        begin = time.monotonic()
        for _ in range(20):
            assert reader.execute("SELECT count(*) FROM topic").fetchone() == (0,)
            reader.execute("BEGIN")
            reader.execute("WITH a AS (SELECT 'INSERT') SELECT * FROM a").fetchall()
            reader.execute("COMMIT")
        assert time.monotonic() - begin < 2


def test_who_waits_too_long_is_told_who_has_the_turn(path):
    with contextlib.closing(sqlite3.connect(path, timeout=0.3)) as connection:
        with busy_process(path) as process:
            begin = time.monotonic()
            with pytest.raises(errors.LockTimeoutError, match="database is locked") as caught:
                connection.execute(INSERT, ("a",))
            assert 0.25 < time.monotonic() - begin < 5
            assert isinstance(caught.value, stdlib.OperationalError)
            assert str(process.pid) in str(caught.value)
            assert caught.value.sqlite_errorcode == 5
            assert not connection.in_transaction
            waiting = in_thread(lambda: save(path, "b", timeout=60))
            time.sleep(0.1)
            assert waiting.is_alive()
            process.stdin.write("\n")
            process.stdin.flush()
            waiting()
        connection.execute(INSERT, ("c",))
        connection.commit()
    assert titles(path) == {"of the other", "b", "c"}


def test_the_turn_of_a_killed_process_is_free(path):
    with busy_process(path) as process:
        waiting = in_thread(lambda: save(path, "a", timeout=60))
        time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        waiting()
    assert titles(path) == {"a"}


def test_no_time_at_all_is_no_wait(path):
    with contextlib.closing(sqlite3.connect(path, timeout=0)) as connection, busy_process(path):
        begin = time.monotonic()
        for sql in ("INSERT INTO topic VALUES ('a')", "BEGIN IMMEDIATE", "CREATE TABLE t (x)"):
            with pytest.raises(errors.LockTimeoutError):
                connection.execute(sql)
        assert time.monotonic() - begin < 2
    save(path, "a", timeout=0)


def test_a_turn_without_the_lock_holds_nobody_up_for_ever(path):
    """Whoever has the turn and hangs before BEGIN has no lock: SQLite would let us in."""
    with turn_held(path):
        save(path, "a", timeout=0)
        save(path, "b", timeout=0.2)
    assert titles(path) == {"a", "b"}


def test_the_time_out_bounds_both_waits_together(path):
    """The turn is had after 0.8 of 1.2 seconds; for the lock of an outsider 0.4 are left, not 1.2."""
    with contextlib.closing(sqlite3.connect(path, timeout=1.2)) as connection:
        with turn_held(path) as release, locked_by_another_process(path):
            threading.Timer(0.8, release).start()
            begin = time.monotonic()
            with pytest.raises(stdlib.OperationalError, match="locked"):
                connection.execute(INSERT, ("a",))
            assert 0.9 < time.monotonic() - begin < 1.8
        assert connection.execute("PRAGMA busy_timeout").fetchone() == (1200,)
        # The turn is left a gap for the outsider that was met.
        wait_until(lambda: not turn_is_taken(path))


@pytest.mark.parametrize(
    "sql", ["INSERT INTO topic VALUES ('a')", "CREATE TABLE IF NOT EXISTS more (x)"]
)
def test_looking_at_a_file_that_is_locked_takes_no_time_of_its_own(tmp_path, sql):
    """A new connection has to read the schema, which an exclusive lock keeps it from."""
    path = make(tmp_path / "app.db", mode="delete")
    other = stdlib.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with contextlib.closing(sqlite3.connect(path, timeout=1.0)) as connection:
        begin = time.monotonic()
        with pytest.raises(stdlib.OperationalError, match="locked"):
            connection.execute(sql)
        assert 0.9 < time.monotonic() - begin < 1.9
        assert connection.execute("PRAGMA busy_timeout").fetchone() == (1000,)
    other.close()


def test_rows_that_were_written_are_not_denied(path):
    """Where the turn was not to be had, SQLite's lock may come and go between two rows."""

    def rows():
        yield ("a",)
        lock.execute("BEGIN IMMEDIATE")
        yield ("b",)

    lock = stdlib.connect(path, isolation_level=None)
    connection = sqlite3.connect(path, isolation_level=None, timeout=0.1)
    with turn_held(path):
        with pytest.raises(errors.LockTimeoutError, match="the_test.py:1") as caught:
            connection.executemany(INSERT, rows())
        assert "nothing" not in str(caught.value)
        with pytest.raises(errors.LockTimeoutError, match="nothing was written"):
            connection.execute(INSERT, ("b",))
    lock.close()
    connection.close()
    assert titles(path) == {"a"}


def test_an_authorizer_that_forbids_pragmas_costs_no_turn(path):
    def allow(action, *_):
        return stdlib.SQLITE_DENY if action == stdlib.SQLITE_PRAGMA else stdlib.SQLITE_OK

    with contextlib.closing(sqlite3.connect(path, timeout=2)) as connection:
        with connection:
            connection.execute(INSERT, ("a",))
        connection.set_authorizer(allow)
        with turn_held(path) as release:
            threading.Timer(0.5, release).start()
            with connection:
                connection.execute(INSERT, ("b",))
        assert not turn_is_taken(path)
    assert titles(path) == {"a", "b"}


def test_who_has_the_turn_is_refused_at_once_where_another_thread_waits(path):
    shared = sqlite3.connect(path, timeout=60, check_same_thread=False)
    own = sqlite3.connect(path, timeout=60)
    own.execute(INSERT, ("a",))
    waits = in_thread(lambda: shared.execute(INSERT, ("b",)).rowcount)
    time.sleep(0.2)
    assert waits.is_alive()
    begin = time.monotonic()
    with pytest.raises(errors.TurnReenteredError):
        shared.execute(INSERT, ("c",))
    assert time.monotonic() - begin < 5
    own.commit()
    assert waits() == 1
    shared.commit()
    assert titles(path) == {"a", "b"}
    shared.close()
    own.close()


def test_the_time_out_follows_the_pragma(path):
    with contextlib.closing(sqlite3.connect(path, timeout=60)) as connection, busy_process(path):
        connection.execute("PRAGMA busy_timeout = 0")
        begin = time.monotonic()
        with pytest.raises(errors.LockTimeoutError):
            connection.execute(INSERT, ("a",))
        assert time.monotonic() - begin < 1.5
        connection.executescript("PRAGMA busy_timeout = 60000; PRAGMA busy_timeout = 10")
        begin = time.monotonic()
        with pytest.raises(errors.LockTimeoutError):
            connection.execute(INSERT, ("a",))
        assert time.monotonic() - begin < 1.5


def test_a_second_connection_of_the_thread_is_refused_at_once(path):
    first, second = sqlite3.connect(path, timeout=60), sqlite3.connect(path, timeout=60)
    first.execute(INSERT, ("a",))
    begin = time.monotonic()
    with pytest.raises(errors.TurnReenteredError) as caught:
        second.execute(INSERT, ("b",))
    assert time.monotonic() - begin < 5
    assert isinstance(caught.value, stdlib.OperationalError)
    assert str(caught.value).count(__file__) == 2, "both places"
    assert not second.in_transaction
    assert second.execute("SELECT * FROM topic").fetchall() == []
    first.commit()
    second.execute(INSERT, ("b",))
    second.commit()
    first.close()
    second.close()
    assert titles(path) == {"a", "b"}


def test_a_transaction_that_has_read_does_not_wait_in_vain(path):
    """It cannot write once another has: SQLite says so at once, as without turns."""
    connection = sqlite3.connect(path, timeout=60, isolation_level=None)
    connection.execute("BEGIN")
    connection.execute("SELECT * FROM topic").fetchall()
    with busy_process(path):
        begin = time.monotonic()
        with pytest.raises(stdlib.OperationalError, match="locked"):
            connection.execute(INSERT, ("a",))
        # After 2 seconds a turn that stands still is gone without.
        assert time.monotonic() - begin < 1.5
    assert connection.in_transaction
    connection.execute("ROLLBACK")
    connection.execute("BEGIN")
    connection.execute("SELECT * FROM topic").fetchall()
    connection.execute(INSERT, ("a",))
    assert turn_is_taken(path)
    connection.execute("COMMIT")
    connection.execute("BEGIN")
    connection.execute("SELECT * FROM topic").fetchall()
    if select(path, "PRAGMA journal_mode") == [("wal",)]:
        save(path, "b")
        with pytest.raises(stdlib.OperationalError):
            connection.execute(INSERT, ("c",))
        assert not turn_is_taken(path), "it can never write, and keeps nobody waiting"
    connection.close()


def test_a_transaction_that_has_not_read_waits(path):
    connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN")
    with busy_process(path) as process:
        writing = in_thread(lambda: connection.execute(INSERT, ("a",)))
        time.sleep(0.2)
        assert writing.is_alive()
        process.stdin.write("\n")
        process.stdin.flush()
        writing()
    assert turn_is_taken(path)
    connection.execute("COMMIT")
    connection.close()
    assert titles(path) == {"a", "of the other"}


def test_an_unfinished_select_of_ones_own_does_not_block_everybody(tmp_path):
    """With a rollback journal the holder's COMMIT waits for our SELECT, and we for the holder."""
    path = make(tmp_path / "app.db", mode="delete")
    save(path, *(f"{number}" for number in range(500)))
    connection = sqlite3.connect(path, timeout=60)
    rows = connection.execute("SELECT title FROM topic")
    assert rows.fetchone()
    with busy_process(path):
        begin = time.monotonic()
        with pytest.raises(stdlib.OperationalError, match="locked"):
            connection.execute(INSERT, ("a",))
        assert time.monotonic() - begin < 1.5
    assert rows.fetchone(), "the SELECT goes on"
    connection.close()


def test_commit_is_tried_again_while_the_transaction_is_open(tmp_path):
    path = make(tmp_path / "app.db", mode="delete")
    connection = sqlite3.connect(path, timeout=30)
    for commit in (connection.commit, lambda: connection.execute("COMMIT")):
        reader = stdlib.connect(path, isolation_level=None, check_same_thread=False)
        connection.execute("INSERT OR IGNORE INTO topic VALUES ('a')")
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM topic").fetchall()
        # As an extension may do: SQLite itself would give up at once.
        stdlib.Cursor(connection).execute("PRAGMA busy_timeout = 0")
        with pytest.raises(stdlib.OperationalError, match="locked"):
            stdlib.Connection.commit(connection)
        timer = threading.Timer(0.3, reader.close)
        timer.start()
        begin = time.monotonic()
        commit()
        assert time.monotonic() - begin > 0.2
        timer.join()
        assert not connection.in_transaction
        assert not turn_is_taken(path)
    connection.close()
    assert titles(path) == {"a"}


def test_a_commit_that_stays_locked_keeps_the_transaction_open(tmp_path):
    path = make(tmp_path / "app.db", mode="delete")
    with contextlib.closing(sqlite3.connect(path, timeout=0.2)) as connection:
        reader = stdlib.connect(path, isolation_level=None)
        connection.execute(INSERT, ("a",))
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM topic").fetchall()
        for commit in (connection.commit, lambda: connection.cursor().execute("COMMIT")):
            with pytest.raises(stdlib.OperationalError, match="locked"):
                commit()
            assert connection.in_transaction
            assert turn_is_taken(path)
        with pytest.raises(stdlib.OperationalError, match="locked"), connection:
            pass
        assert not connection.in_transaction, "as ever, `with` rolls back what it could not commit"
        assert not turn_is_taken(path)
        reader.close()
    assert titles(path) == set()


def test_threads_that_share_a_connection_share_its_turn(path):
    connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
    with busy_process(path) as process:
        writing = [
            in_thread(lambda title=title: connection.execute(INSERT, (title,))) for title in "abc"
        ]
        time.sleep(0.2)
        process.stdin.write("\n")
        process.stdin.flush()
        for write in writing:
            write()
    assert not turn_is_taken(path)
    connection.close()
    assert titles(path) == {"a", "b", "c", "of the other"}


def test_an_outsider_gets_in(path):
    """A writer that knows nothing of turns still has SQLite's lock to itself when it has it."""
    with locked_by_another_process(path) as release:
        waiting = in_thread(lambda: save(path, "a", timeout=60))
        time.sleep(0.2)
        assert waiting.is_alive()
        release()
        waiting()
    plain = stdlib.connect(path)
    with plain:
        plain.execute(INSERT, ("b",))
    plain.close()
    assert titles(path) == {"a", "b"}


def test_ctrl_c_ends_the_wait(path):
    script = """
import sys
from turnwise import sqlite3
connection = sqlite3.connect(sys.argv[1], timeout=60)
print("waiting", flush=True)
try:
    connection.execute("INSERT INTO topic VALUES ('never')")
except KeyboardInterrupt:
    print("interrupted", connection.in_transaction, flush=True)
"""
    with busy_process(path):
        told, took = interrupted_child(script, path)
    assert told == "interrupted False\n"
    assert took < 5


def test_a_child_of_fork_neither_frees_nor_keeps_the_turn(path):
    connection = sqlite3.connect(path, timeout=60)
    connection.execute(INSERT, ("a",))
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        outcome = {}
        try:
            save(path, "never", timeout=0.2)
        except stdlib.OperationalError as error:
            outcome["refused"] = type(error).__name__
        os.write(write_end, json.dumps(outcome).encode())
        os._exit(0)
    os.close(write_end)
    with open(read_end) as pipe:
        told = json.loads(pipe.read())
    os.waitpid(pid, 0)
    assert told == {"refused": "LockTimeoutError"}
    assert turn_is_taken(path)
    connection.commit()
    wait_until(lambda: not turn_is_taken(path))
    connection.close()
    assert titles(path) == {"a"}
