"""`with writer.transaction()`: all or nothing, its own reads, its own errors, and nobody else's way barred."""

from __future__ import annotations

import asyncio
import time

import pytest

from turnwise import BatchWriter, errors
from writer_support import (
    CREATE,
    INSERT,
    check_integrity,
    in_thread,
    read_elsewhere,
    select,
    titles,
    wait_until,
)

SHOW = "SELECT title FROM topic ORDER BY id"


@pytest.fixture
def writer(tmp_path):
    with BatchWriter(tmp_path / "topics.db") as writer:
        writer.execute(CREATE)
        yield writer


def test_it_commits_at_the_end_of_the_block(writer):
    before = writer.stats().transactions
    with writer.transaction() as tx:
        for number in range(10):
            tx.execute(INSERT, (f"t{number}",))
        assert titles(writer.path) == set(), "nothing is seen before the end"
        assert read_elsewhere(writer.path, "SELECT count(*) FROM topic") == [[["int", 0]]]
    assert len(titles(writer.path)) == 10
    assert read_elsewhere(writer.path, "SELECT count(*) FROM topic") == [[["int", 10]]]
    assert writer.stats().transactions - before == 1


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_it_rolls_back_after_an_exception(writer, kind):
    error = kind("mine")
    with pytest.raises(kind) as caught, writer.transaction() as tx:
        tx.execute(INSERT, ("gone",))
        raise error
    assert caught.value is error
    assert caught.value.__context__ is None
    writer.execute(INSERT, ("next",))
    assert titles(writer.path) == {"next"}


def test_each_statement_has_its_result_at_once(writer):
    with writer.transaction() as tx:
        first = tx.execute(INSERT, ("a",))
        assert (first.rowcount, first.lastrowid, first.rows) == (1, 1, [])
        assert tx.execute("SELECT id, title FROM topic").rows == [(1, "a")], "its own writes"
        second = tx.execute("INSERT INTO topic (title) VALUES (:t) RETURNING *", {"t": "b"})
        assert (second.rowcount, second.lastrowid, second.rows) == (1, 2, [(2, "b")])
        changed = tx.execute("UPDATE topic SET title = title || '!' RETURNING title")
        assert (changed.rowcount, changed.lastrowid) == (2, None)
        assert changed.rows == [("a!",), ("b!",)]
        many = tx.executemany(INSERT, [("c",), ("d",), ("e",)])
        assert (many.rowcount, many.lastrowid) == (3, 5)
        assert tx.execute("DELETE FROM topic WHERE id > ?", (3,)).rowcount == 2
        assert tx.execute("SELECT 1").rowcount == -1
        tx.execute("CREATE TABLE more (x)")
        assert tx.execute("INSERT INTO more SELECT id FROM topic").rowcount == 3
    assert titles(writer.path) == {"a!", "b!", "c"}
    assert select(writer.path, "SELECT count(*) FROM more") == [(3,)]


FAILURES = [
    (INSERT, ("taken",), errors.ConstraintError),
    ("INSERT OR FAIL INTO topic (title) VALUES ('x'), ('taken')", (), errors.ConstraintError),
    (
        "/* why */ WITH v(t) AS (VALUES ('x'), ('taken')) INSERT OR FAIL INTO topic (title) SELECT t FROM v",
        (),
        errors.ConstraintError,
    ),
    ("UPDATE OR FAIL topic SET title = 'x'", (), errors.ConstraintError),
    ("INSERT INTO spring (x) VALUES (1), (2), (3)", (), errors.ConstraintError),
    ("INSERT INTO nowhere VALUES (1)", (), errors.NoSuchTableError),
    ("INSERT INTO topic (nothing) VALUES (1)", (), errors.StatementError),
    ("INSRET", (), errors.StatementError),
    (INSERT, (), errors.ParameterMismatchError),
    (INSERT, {"name": 1}, errors.ParameterMismatchError),
    (INSERT, (object(),), errors.UnsupportedParameterError),
    (INSERT, (2**63,), errors.ParameterOutOfRangeError),
    ("", (), errors.NotOneStatementError),
    ("DELETE FROM topic; DELETE FROM topic", (), errors.NotOneStatementError),
]


@pytest.mark.parametrize(("sql", "params", "due"), FAILURES)
def test_a_failed_statement_leaves_nothing_and_the_transaction_goes_on(writer, sql, params, due):
    writer.execute("CREATE TABLE spring (x)")
    writer.execute(
        """CREATE TRIGGER trap AFTER INSERT ON spring WHEN NEW.x = 3
           BEGIN SELECT RAISE(FAIL, 'trapped'); END"""
    )
    with writer.transaction() as tx:
        tx.executemany(INSERT, [("taken",), ("before",)])
        for _ in range(2):
            with pytest.raises(due):
                tx.execute(sql, params)
            assert tx.execute(SHOW).rows == [("taken",), ("before",)]
            assert tx.execute("SELECT * FROM spring").rows == []
        tx.execute(INSERT, ("after",))
    assert titles(writer.path) == {"taken", "before", "after"}
    check_integrity(writer.path)


def test_executemany_is_all_or_none(writer):
    with writer.transaction() as tx:
        tx.execute(INSERT, ("taken",))
        with pytest.raises(errors.ConstraintError, match="row 700"):
            tx.executemany(INSERT, [(f"t{n}" if n != 700 else "taken",) for n in range(1000)])
        with pytest.raises(errors.UnsupportedParameterError):
            tx.executemany(INSERT, [("x",), (object(),)])
        assert tx.execute("SELECT title FROM topic").rows == [("taken",)]
        assert tx.executemany(INSERT, [(f"t{n}",) for n in range(1000)]).rowcount == 1000
    assert len(titles(writer.path)) == 1001


USES = [
    lambda writer: writer.execute(INSERT, ("own",)),
    lambda writer: writer.executemany(INSERT, [("own",)]),
    lambda writer: writer.submit(INSERT, ("own",)),
    lambda writer: asyncio.run(writer.aexecute(INSERT, ("own",))),
    lambda writer: writer.flush(),
    lambda writer: writer.close(),
    lambda writer: writer.transaction().__enter__(),
    lambda writer: BatchWriter(writer.path).execute(INSERT, ("own",)),
]


@pytest.mark.parametrize("use", USES)
def test_the_writer_itself_refuses_at_once_inside_the_block(writer, use):
    with writer.transaction() as tx:
        tx.execute(INSERT, ("inside",))
        others = [
            in_thread(lambda n=n: writer.execute(INSERT, (f"other {n}",)).rowcount)
            for n in range(4)
        ]
        wait_until(lambda: writer.stats().queue_rows == 4)
        started = time.monotonic()
        with pytest.raises(errors.WriterReenteredError, match="this thread holds a transaction"):
            use(writer)
        assert time.monotonic() - started < 2
        tx.execute(INSERT, ("still",))
        assert all(other.is_alive() for other in others)
        assert tx.execute(SHOW).rows == [("inside",), ("still",)]
    assert [other() for other in others] == [1] * 4
    assert titles(writer.path) == {"inside", "still", *(f"other {n}" for n in range(4))}
    assert not writer.closed
    assert writer.execute(INSERT, ("afterwards",)).rowcount == 1


def test_the_refusal_raised_out_of_the_block_rolls_it_back(writer):
    with pytest.raises(errors.WriterReenteredError), writer.transaction() as tx:
        tx.execute(INSERT, ("gone",))
        with writer.transaction() as inner:
            inner.execute(INSERT, ("gone too",))
    assert writer.execute(INSERT, ("next",)).rowcount == 1
    assert titles(writer.path) == {"next"}


def test_other_files_are_free_inside_the_block(writer, tmp_path):
    with BatchWriter(tmp_path / "other.db") as other:
        other.execute(CREATE)
        with writer.transaction() as tx, other.transaction() as second:
            tx.execute(INSERT, ("one",))
            second.execute(INSERT, ("two",))
        with writer.transaction() as tx:
            assert other.execute(INSERT, ("three",)).rowcount == 1
            tx.execute(INSERT, ("four",))
        assert titles(other.path) == {"two", "three"}
    assert titles(writer.path) == {"one", "four"}


@pytest.mark.parametrize("ways", ["threads", "futures", "coroutines"])
def test_the_writes_of_others_wait_and_land(writer, ways):
    with writer.transaction() as tx:
        tx.execute(INSERT, ("inside",))
        if ways == "threads":
            waiting = [in_thread(lambda n=n: writer.execute(INSERT, (f"{n}",))) for n in range(5)]
        elif ways == "futures":
            submit = in_thread(lambda: [writer.submit(INSERT, (f"{n}",)) for n in range(5)])
            waiting = [future.result for future in submit()]
        else:

            async def story():
                return await asyncio.gather(*(writer.aexecute(INSERT, (f"{n}",)) for n in range(5)))

            waiting = [in_thread(lambda: asyncio.run(story()))]
        wait_until(lambda: writer.stats().queue_rows == 5)
        time.sleep(0.1)
        assert writer.stats().queue_rows == 5
        assert tx.execute("SELECT count(*) FROM topic").rows == [(1,)]
    for result in waiting:
        result(10)
    assert titles(writer.path) == {"inside", "0", "1", "2", "3", "4"}


FORBIDDEN = [
    "COMMIT",
    "END",
    "BEGIN",
    "BEGIN IMMEDIATE",
    "ROLLBACK",
    "/* x */ ; rollback",
    "ATTACH ':memory:' AS other",
    "DETACH main",
    "PRAGMA journal_mode = delete",
    "PRAGMA foreign_keys = on",
    "PRAGMA synchronous = off",
    "PRAGMA main.locking_mode = exclusive",
    "PRAGMA wal_checkpoint",
    "PRAGMA wal_checkpoint(truncate)",
    "PRAGMA writable_schema(1)",
    "CREATE TEMP TABLE topic (x)",
]


@pytest.mark.parametrize("sql", FORBIDDEN)
def test_statements_that_would_end_or_change_the_transaction_are_refused(writer, sql):
    with writer.transaction() as tx:
        tx.execute(INSERT, ("before",))
        for call in (lambda: tx.execute(sql), lambda: tx.executemany(sql, [()])):
            with pytest.raises(errors.StatementNotAllowedError):
                call()
        assert titles(writer.path) == set(), "it is open still"
        tx.execute(INSERT, ("after",))
    assert titles(writer.path) == {"before", "after"}


def test_savepoints_belong_to_the_block_and_to_nobody_else(writer):
    with writer.transaction() as tx:
        tx.execute(INSERT, ("kept",))
        tx.execute("SAVEPOINT mine")
        tx.execute(INSERT, ("gone",))
        tx.execute("ROLLBACK TO mine")
        tx.execute("RELEASE mine")
        tx.execute("SAVEPOINT open_at_the_end")
        tx.execute(INSERT, ("kept too",))
    assert titles(writer.path) == {"kept", "kept too"}
    for sql in ("SAVEPOINT mine", "ROLLBACK TO mine", "RELEASE mine"):
        for use in (writer.execute, lambda sql: writer.submit(sql).result(10)):
            with pytest.raises(errors.StatementNotAllowedError):
                use(sql)


@pytest.mark.parametrize("how", ["INSERT OR ROLLBACK INTO topic (title) VALUES ('taken')", "trap"])
def test_a_transaction_that_sqlite_has_rolled_back_says_so(writer, how):
    """Nothing that follows may be written outside of it, and the block must not end in peace."""
    writer.execute(
        """CREATE TRIGGER trap BEFORE INSERT ON topic WHEN NEW.title = 'trap'
           BEGIN SELECT RAISE(ROLLBACK, 'trapped'); END"""
    )
    writer.execute(INSERT, ("taken",))
    with (
        pytest.raises(errors.RolledBackError, match="nothing of it is in"),
        writer.transaction() as tx,
    ):
        tx.execute(INSERT, ("gone",))
        with pytest.raises(errors.ConstraintError):
            tx.execute(INSERT, ("trap",)) if how == "trap" else tx.execute(how)
        with pytest.raises(errors.RolledBackError):
            tx.execute(INSERT, ("gone as well",))
        with pytest.raises(errors.RolledBackError):
            tx.executemany(INSERT, [("gone as well",)])
        # The end of the block finds no transaction, and says so.
    assert writer.execute(INSERT, ("next",)).rowcount == 1
    assert titles(writer.path) == {"taken", "next"}


def test_a_deferred_foreign_key_is_checked_at_the_end(tmp_path):
    with BatchWriter(tmp_path / "keys.db", foreign_keys=True) as writer:
        writer.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
        writer.execute(
            "CREATE TABLE child (p REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)"
        )
        with writer.transaction() as tx:
            tx.execute("INSERT INTO child VALUES (1)")
            tx.execute("INSERT INTO parent VALUES (1)")
        before = writer.stats()
        with pytest.raises(errors.ConstraintError, match="FOREIGN KEY"), writer.transaction() as tx:
            tx.execute("INSERT INTO child VALUES (2)")
            waiting = in_thread(lambda: writer.execute("INSERT INTO parent VALUES (7)").rowcount)
            wait_until(lambda: writer.stats().queue_rows == 1)
        assert waiting() == 1
        after = writer.stats()
        assert (after.failed - before.failed, after.committed - before.committed) == (1, 1)
        with pytest.raises(errors.TransactionClosedError):
            tx.execute("SELECT 1")
        assert select(writer.path, "SELECT p FROM child") == [(1,)]
        assert select(writer.path, "SELECT id FROM parent") == [(1,), (7,)]
