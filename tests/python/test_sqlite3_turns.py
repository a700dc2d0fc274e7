"""When a connection of `turnwise.sqlite3` has the turn, and when it has given it back."""

from __future__ import annotations

import gc
import sqlite3 as stdlib
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest

from sqlite3_support import INSERT, make, traced, turn_held, turn_is_taken
from turnwise import sqlite3
from writer_support import in_thread, select, titles


@pytest.fixture
def path(tmp_path):
    return make(tmp_path / "app.db")


def leave_with(connection):
    with connection:
        pass


def leave_with_an_error(connection):
    with pytest.raises(ZeroDivisionError), connection:
        raise ZeroDivisionError


def use(sql):
    return lambda connection: connection.execute(sql)


ENDS = {
    "commit": (lambda connection: connection.commit(), True),
    "rollback": (lambda connection: connection.rollback(), False),
    "execute COMMIT": (use("-- done\n Commit"), True),
    "execute END": (use("/**/ END TRANSACTION"), True),
    "cursor COMMIT": (lambda connection: connection.cursor().execute("commit"), True),
    "execute ROLLBACK": (use("\t rollback"), False),
    "with": (leave_with, True),
    "with an error": (leave_with_an_error, False),
    "executescript": (lambda connection: connection.executescript("SELECT 1"), True),
    "isolation_level": (lambda connection: setattr(connection, "isolation_level", None), True),
    "close": (lambda connection: connection.close(), False),
    "initialised anew": (lambda connection: connection.__init__(":memory:"), False),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("level", ["", "DEFERRED", "IMMEDIATE", "EXCLUSIVE"])
def test_the_turn_lasts_from_the_first_write_to_the_end_of_the_transaction(path, level, end):
    connection = sqlite3.connect(path, isolation_level=level)
    seen = traced(connection)
    assert not turn_is_taken(path)
    connection.execute(INSERT, ("a",))
    assert turn_is_taken(path)
    assert connection.in_transaction
    assert connection.isolation_level == level
    assert seen[0] == ("BEGIN EXCLUSIVE" if level == "EXCLUSIVE" else "BEGIN IMMEDIATE")
    how, keeps = ENDS[end]
    how(connection)
    assert not turn_is_taken(path)
    assert titles(path) == ({"a"} if keeps else set())
    connection.close()


BEGINS = ["BEGIN IMMEDIATE", " begin /**/ exclusive", "-- x\nBEGIN IMMEDIATE TRANSACTION"]


@pytest.mark.parametrize("begin", BEGINS)
@pytest.mark.parametrize("level", ["", None])
def test_an_explicit_write_transaction_takes_the_turn_at_begin(path, level, begin):
    connection = sqlite3.connect(path, isolation_level=level)
    connection.cursor().execute(begin)
    assert turn_is_taken(path)
    with pytest.raises(stdlib.OperationalError, match="within a transaction"):
        connection.execute(begin)
    assert turn_is_taken(path)
    connection.execute("COMMIT")
    assert not turn_is_taken(path)
    connection.close()


@pytest.mark.parametrize("begin", ["BEGIN", "begin deferred", "SAVEPOINT a"])
def test_a_deferred_transaction_takes_the_turn_at_its_first_write(path, begin):
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(begin)
    assert connection.in_transaction
    assert not turn_is_taken(path)
    connection.execute("SELECT * FROM topic").fetchall()
    assert not turn_is_taken(path)
    connection.execute(INSERT, ("a",))
    assert turn_is_taken(path)
    connection.execute("SAVEPOINT b")
    connection.execute("ROLLBACK TO b")
    connection.execute("RELEASE b")
    assert turn_is_taken(path)
    connection.execute("RELEASE a" if begin == "SAVEPOINT a" else "COMMIT")
    assert not turn_is_taken(path)
    assert titles(path) == {"a"}
    connection.close()


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO topic VALUES ('a')",
        "WITH a AS (SELECT 1) INSERT INTO topic SELECT * FROM a",
        "CREATE TABLE other (x)",
        "CREATE TABLE IF NOT EXISTS other (x)",
        "PRAGMA user_version = 5",
        "PRAGMA journal_mode = DELETE",
        "VACUUM",
        "DROP TABLE topic",
    ],
)
@pytest.mark.parametrize("level", ["", None])
def test_a_write_without_a_transaction_has_the_turn_as_long_as_it_runs(path, level, sql):
    connection = sqlite3.connect(path, isolation_level=level, timeout=0.05)
    with turn_held(path):
        # The lock is free: only who asks for the turn is told who has it.
        blocker = stdlib.connect(path, isolation_level=None, check_same_thread=False)
        blocker.execute("BEGIN IMMEDIATE")
        with pytest.raises(stdlib.OperationalError, match="locked") as caught:
            connection.execute(sql)
        blocker.close()
        assert "LockTimeoutError" in repr(caught.value)
    connection.execute(sql)
    connection.commit()
    assert not turn_is_taken(path)
    connection.close()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM topic",
        "PRAGMA user_version",
        "PRAGMA journal_mode = WAL",
        "CREATE TABLE IF NOT EXISTS topic (x)",
        "DROP TABLE IF EXISTS missing",
        "CREATE TEMP TABLE mine (x)",
        "EXPLAIN INSERT INTO topic VALUES (1)",
        "BEGIN",
        "SAVEPOINT a",
        "ATTACH ':memory:' AS other",
        "PRAGMA wal_checkpoint",
    ],
)
def test_what_does_not_write_never_waits(path, sql):
    connection = sqlite3.connect(path, isolation_level=None, timeout=60)
    with turn_held(path):
        writer = stdlib.connect(path, isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")
        begin = time.monotonic()
        connection.execute(sql).fetchall()
        if sql.split()[0] in {"SELECT", "PRAGMA", "EXPLAIN", "DROP"}:
            connection.executescript(f"{sql}; {sql}")
        # After 2 seconds a turn that stands still is gone without.
        assert time.monotonic() - begin < 1.5
        writer.close()
    connection.close()


def test_many_rows_and_scripts_keep_the_turn_from_first_to_last(path):
    connection = sqlite3.connect(path, isolation_level=None)
    during = []

    def rows():
        for number in range(3):
            during.append(turn_is_taken(path))
            yield (str(number),)

    connection.executemany(INSERT, rows())
    connection.create_function("taken", 0, lambda: during.append(turn_is_taken(path)))
    connection.executescript(
        "INSERT INTO topic VALUES ('a'); SELECT taken(); INSERT INTO topic VALUES ('b')"
    )
    assert during == [True] * 4
    assert not turn_is_taken(path)
    connection.executescript("BEGIN; INSERT INTO topic VALUES ('c')")
    assert turn_is_taken(path)
    connection.executescript("SELECT 1")
    assert not turn_is_taken(path)
    connection.close()


def test_a_script_that_fails_gives_the_turn_back(path):
    connection = sqlite3.connect(path)
    with pytest.raises(stdlib.OperationalError):
        connection.executescript("INSERT INTO topic VALUES ('a'); nonsense")
    assert not turn_is_taken(path)
    with pytest.raises(stdlib.OperationalError):
        connection.executescript("BEGIN; INSERT INTO topic VALUES ('b'); nonsense")
    assert turn_is_taken(path)
    assert connection.in_transaction
    connection.rollback()
    assert not turn_is_taken(path)
    assert titles(path) == {"a"}
    connection.close()


@pytest.mark.parametrize(
    ("sql", "parameters", "error"),
    [
        (INSERT, (), stdlib.ProgrammingError),
        (INSERT, ("taken",), stdlib.IntegrityError),
        ("INSERT INTO topic VALUES (nothing(?))", ("a",), stdlib.OperationalError),
        ("UPDATE topic SET title = fails()", (), stdlib.OperationalError),
    ],
)
def test_a_first_statement_that_fails_keeps_the_lock_as_ever(path, sql, parameters, error):
    was_open, was_locked = left_by(stdlib, path, sql, parameters, error)
    assert was_locked is (error is not stdlib.ProgrammingError and was_open)
    assert left_by(sqlite3, path, sql, parameters, error) == (was_open, was_locked)
    assert not turn_is_taken(path)


def left_by(library, path, sql, parameters, error):
    """Whether a transaction is open, and the file locked, after a first statement that fails."""
    connection = library.connect(path)
    with connection:
        connection.execute("INSERT OR IGNORE INTO topic VALUES ('taken')")
    connection.create_function("fails", 0, lambda: 1 / 0)
    with pytest.raises(error):
        connection.execute(sql, parameters)
    open_and_locked = connection.in_transaction, is_locked(path)
    if library is sqlite3:
        assert turn_is_taken(path) is open_and_locked[1]
    # It can go on, whoever has written meanwhile.
    connection.execute("UPDATE topic SET title = 'taken'")
    connection.commit()
    connection.close()
    return open_and_locked


def is_locked(path):
    """Whether another connection cannot write."""
    other = stdlib.connect(path, timeout=0)
    try:
        other.execute("DELETE FROM topic WHERE title = 'nobody'")
        other.rollback()
    except stdlib.OperationalError:
        return True
    finally:
        other.close()
    return False


WORK_OF_OTHER_KINDS = {
    "a script": lambda connection: connection.executescript(
        "BEGIN; CREATE TABLE made (x); PRAGMA user_version = 7; SAVEPOINT here; nonsense"
    ),
    "rows that create": lambda connection: connection.executemany(
        INSERT, rows_that_create(connection)
    ),
}


def rows_that_create(connection):
    connection.execute("CREATE TABLE made (x)")
    connection.execute("PRAGMA user_version = 7")
    raise ZeroDivisionError
    yield ()


@pytest.mark.parametrize("work", WORK_OF_OTHER_KINDS)
def test_what_a_failed_call_has_done_stays(path, tmp_path, work):
    """What counts as no changed row, such as CREATE TABLE, is work too."""
    found = []
    for library, file in ((stdlib, make(tmp_path / "theirs.db")), (sqlite3, path)):
        connection = library.connect(file)
        with pytest.raises((ZeroDivisionError, stdlib.OperationalError)):
            WORK_OF_OTHER_KINDS[work](connection)
        was_open = connection.in_transaction
        connection.commit()
        tables = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table'"
        ).fetchall()
        found.append((was_open, tables, connection.execute("PRAGMA user_version").fetchone()))
        connection.close()
    assert found[0] == found[1]
    assert ("made",) in found[1][1]
    assert not turn_is_taken(path)


def test_a_later_statement_that_fails_keeps_turn_and_transaction(path):
    connection = sqlite3.connect(path)
    connection.execute(INSERT, ("a",))
    with pytest.raises(stdlib.IntegrityError):
        connection.execute(INSERT, ("a",))
    assert turn_is_taken(path)
    connection.commit()
    assert titles(path) == {"a"}
    connection.close()


def test_rows_kept_by_a_statement_that_fails_stay(path):
    connection = sqlite3.connect(path)
    with pytest.raises(stdlib.IntegrityError):
        connection.executemany(INSERT, [("a",), ("a",)])
    assert turn_is_taken(path)
    connection.commit()
    with pytest.raises(stdlib.IntegrityError):
        connection.execute("INSERT OR FAIL INTO topic VALUES ('b'), ('b')")
    assert turn_is_taken(path)
    connection.commit()
    assert titles(path) == {"a", "b"}
    connection.close()


def test_when_sqlite_rolls_back_by_itself_the_turn_is_given_back(path):
    connection = sqlite3.connect(path)
    connection.execute(INSERT, ("a",))
    with pytest.raises(stdlib.IntegrityError):
        connection.execute("INSERT OR ROLLBACK INTO topic VALUES ('a')")
    assert not connection.in_transaction
    assert not turn_is_taken(path)
    connection.execute(INSERT, ("b",))
    connection.set_progress_handler(lambda: 1, 1)
    with pytest.raises(stdlib.OperationalError, match="interrupted"):
        connection.execute("UPDATE topic SET title = title || 'x'")
    connection.set_progress_handler(None, 1)
    assert turn_is_taken(path) is connection.in_transaction
    connection.close()
    assert titles(path) == set()


def test_a_forgotten_connection_gives_its_turn_back(path):
    connection = sqlite3.connect(path)
    connection.execute(INSERT, ("a",))
    box = [connection]
    del connection
    forget(box)
    assert not turn_is_taken(path)
    assert titles(path) == set()


def test_a_connection_collected_in_another_thread_gives_its_turn_back(path):
    box = [in_thread(lambda: begun(path))()]
    assert turn_is_taken(path)
    forget(box)
    assert not turn_is_taken(path)


def forget(box):
    """Drop a connection; since Python 3.11 the standard library's are in a cycle."""
    says = pytest.warns(ResourceWarning) if sys.version_info >= (3, 13) else nullcontext()
    with says:
        box.clear()
        gc.collect()


def begun(path, **options):
    connection = sqlite3.connect(path, **options)
    connection.execute("INSERT OR IGNORE INTO topic VALUES ('a')")
    return connection


def test_a_transaction_may_end_in_another_thread(path):
    connection = in_thread(lambda: begun(path, check_same_thread=False))()
    assert turn_is_taken(path)
    connection.commit()
    assert not turn_is_taken(path)
    with connection:
        connection.execute(INSERT, ("b",))
    assert titles(path) == {"a", "b"}
    connection.close()


def test_who_began_a_shared_transaction_may_wait_for_its_end(path):
    """Thread A writes, thread B commits; meanwhile A writes on another connection."""
    with ThreadPoolExecutor(1) as thread_a:
        first = thread_a.submit(begun, path, check_same_thread=False).result(10)
        second = thread_a.submit(begun, path, check_same_thread=False)
        time.sleep(0.1)
        assert not second.done()
        first.commit()
        second.result(10).commit()
    assert not turn_is_taken(path)
    first.close()


def test_the_wrong_thread_changes_nothing(path):
    connection = begun(path)
    with pytest.raises(stdlib.ProgrammingError, match="thread"):
        in_thread(connection.commit)()
    with pytest.raises(stdlib.ProgrammingError, match="thread"):
        in_thread(lambda: connection.execute(INSERT, ("b",)))()
    assert turn_is_taken(path)
    connection.commit()
    with pytest.raises(stdlib.ProgrammingError, match="thread"):
        in_thread(lambda: connection.execute(INSERT, ("b",)))()
    assert not turn_is_taken(path)
    connection.close()


def test_rows_of_a_write_that_are_not_fetched_do_not_keep_turn_or_lock(path):
    connection = sqlite3.connect(path, isolation_level=None)

    class MyCursor(sqlite3.Cursor):
        def fetchone(self):
            return ("mine", super().fetchone())

    for factory in (sqlite3.Cursor, MyCursor):
        cursor = connection.cursor(factory)
        cursor.execute("DELETE FROM topic")
        cursor.execute("INSERT INTO topic VALUES ('a'), ('b'), ('c') RETURNING title")
        assert not turn_is_taken(path)
        other = stdlib.connect(path, timeout=0)
        with other:
            other.execute("UPDATE topic SET title = upper(title)")
        other.close()
        first = ("a",) if factory is sqlite3.Cursor else ("mine", ("a",))
        assert cursor.fetchone() == first
        assert isinstance(cursor, factory)
        assert [column[0] for column in cursor.description] == ["title"]
        assert next(cursor) == ("b",)
        assert cursor.fetchmany(5) == [("c",)]
        assert cursor.fetchall() == []
        assert cursor.execute("SELECT 1").fetchall() == [(1,)]
        assert type(cursor) is factory
    cursor.execute("DELETE FROM topic RETURNING title")
    cursor.close()
    with pytest.raises(stdlib.ProgrammingError):
        cursor.fetchone()
    connection.execute("INSERT INTO topic VALUES ('z') RETURNING title").close()
    assert titles(path) == {"z"}
    connection.close()


def test_rows_of_a_write_that_are_not_fetched_hold_up_the_transaction_as_ever(path):
    connection = sqlite3.connect(path, timeout=5)
    cursor = connection.execute("INSERT INTO topic VALUES ('a'), ('b') RETURNING title")
    with pytest.raises(stdlib.OperationalError, match="in progress"):
        connection.commit()
    assert turn_is_taken(path)
    cursor.fetchall()
    connection.commit()
    assert not turn_is_taken(path)
    connection.close()


if sys.version_info >= (3, 11):

    def test_a_blob_open_for_writing_has_the_turn_until_it_is_closed(path):
        connection = sqlite3.connect(path)
        with connection:
            connection.execute("CREATE TABLE file (content)")
            connection.execute("INSERT INTO file VALUES (zeroblob(4))")
        with turn_held(path), connection.blobopen("file", "content", 1, readonly=True) as blob:
            assert len(blob) == 4
        with connection.blobopen("file", "content", 1) as blob:
            assert isinstance(blob, stdlib.Blob)
            assert turn_is_taken(path)
            blob.write(b"ab")
            blob[2] = ord("c")
            connection.commit()
            assert (blob[0], len(blob), blob.tell()) == (ord("a"), 4, 2)
            assert turn_is_taken(path)
        assert not turn_is_taken(path)
        blob = connection.blobopen("file", "content", 1)
        del blob
        assert not turn_is_taken(path)
        connection.execute("UPDATE file SET content = content")
        with connection.blobopen("file", "content", 1) as blob:
            blob.write(b"x")
        assert turn_is_taken(path)
        connection.commit()
        assert not turn_is_taken(path)
        blob = connection.blobopen("file", "content", 1)
        connection.close()
        assert not turn_is_taken(path)
        assert select(path, "SELECT content FROM file") == [(b"xbc\0",)]


def test_a_backup_into_a_file_has_that_files_turn(path, tmp_path):
    target = sqlite3.connect(make(tmp_path / "copy.db"))
    during = []
    with begun(path) as source:
        pass
    with turn_held(path):
        source.backup(
            target, progress=lambda *_: during.append(turn_is_taken(tmp_path / "copy.db"))
        )
    assert during == [True]
    assert not turn_is_taken(tmp_path / "copy.db")
    assert target.execute("SELECT * FROM topic").fetchall() == [("a",)]
    source.close()
    target.close()


def test_a_dump_never_waits(path):
    with begun(path) as connection:
        pass
    with turn_held(path):
        assert any("INSERT" in line for line in connection.iterdump())
    connection.close()


def test_attached_databases_are_locked_only_when_they_are_written(path, tmp_path):
    other = make(tmp_path / "other.db")
    connection = sqlite3.connect(path, timeout=0)
    connection.execute("ATTACH ? AS other", (str(other),))
    blocker = stdlib.connect(other, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    connection.execute(INSERT, ("a",))
    assert turn_is_taken(path)
    with pytest.raises(stdlib.OperationalError, match="locked"):
        connection.execute("INSERT INTO other.topic VALUES ('b')")
    connection.commit()
    blocker.execute("ROLLBACK")
    connection.execute("DETACH other")
    seen = traced(connection)
    connection.execute(INSERT, ("c",))
    connection.commit()
    assert seen[0] == "BEGIN IMMEDIATE"
    assert titles(path) == {"a", "c"}
    connection.close()
    blocker.close()


if sys.version_info >= (3, 12):

    def test_autocommit_false_takes_the_turn_at_the_first_write(path):
        connection = sqlite3.connect(path, autocommit=False)
        assert connection.in_transaction
        for end in (connection.commit, connection.rollback, lambda: leave_with(connection)):
            assert not turn_is_taken(path)
            connection.execute("INSERT OR IGNORE INTO topic VALUES ('a')")
            assert turn_is_taken(path)
            end()
            assert connection.in_transaction
            assert not turn_is_taken(path)
        connection.execute("INSERT OR IGNORE INTO topic VALUES ('b')")
        connection.autocommit = True
        assert not turn_is_taken(path)
        connection.execute("BEGIN IMMEDIATE")
        connection.commit()
        assert turn_is_taken(path), "with autocommit=True the method does nothing"
        connection.autocommit = False
        assert turn_is_taken(path)
        connection.close()
        assert not turn_is_taken(path)
        assert titles(path) == {"a", "b"}
