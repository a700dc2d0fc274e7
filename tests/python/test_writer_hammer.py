"""64 threads, good and poisoned writes mixed: each caller gets its own outcome, the file the good rows."""

from __future__ import annotations

import concurrent.futures
import random
import sqlite3
import threading
from collections import Counter

import pytest

from turnwise import BatchWriter, TurnwiseError, errors
from writer_support import check_integrity, in_thread, read_elsewhere, select, together

THREADS = 64
WRITES = 24

SCHEMA = [
    """CREATE TABLE topic (id INTEGER PRIMARY KEY, title TEXT NOT NULL UNIQUE,
       size INTEGER NOT NULL DEFAULT 0 CHECK (size >= 0))""",
    "CREATE TABLE parent (id INTEGER PRIMARY KEY)",
    "CREATE TABLE strict_child (title TEXT, parent REFERENCES parent (id))",
    """CREATE TABLE lazy_child (title TEXT,
       parent REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)""",
    "CREATE TABLE trap (title TEXT)",
    "CREATE TRIGGER spring BEFORE INSERT ON trap BEGIN SELECT RAISE(ROLLBACK, 'trapped'); END",
    "INSERT INTO topic (title) VALUES ('taken')",
    "INSERT INTO parent VALUES (1)",
]

# What is wrong, the statement, its values for a title of the caller's own, and the error that is due.
POISONS = [
    ("unique", "INSERT INTO topic (title) VALUES (?)", lambda t: ("taken",), 2067),
    ("not null", "INSERT INTO topic (title) VALUES (?)", lambda t: (None,), 1299),
    ("check", "INSERT INTO topic (title, size) VALUES (?, -1)", lambda t: (t,), 275),
    ("foreign key", "INSERT INTO strict_child VALUES (?, 99)", lambda t: (t,), 787),
    ("deferred key", "INSERT INTO lazy_child VALUES (?, 99)", lambda t: (t,), 787),
    ("rollback", "INSERT OR ROLLBACK INTO topic (title) VALUES (?)", lambda t: ("taken",), 2067),
    ("trigger", "INSERT INTO trap VALUES (?)", lambda t: (t,), 1811),
    ("no table", "INSERT INTO nowhere VALUES (?)", lambda t: (t,), errors.NoSuchTableError),
    ("no column", "INSERT INTO topic (nothing) VALUES (?)", lambda t: (t,), errors.StatementError),
    (
        "too few",
        "INSERT INTO topic (title) VALUES (?)",
        lambda t: (),
        errors.ParameterMismatchError,
    ),
    (
        "many",
        "INSERT INTO topic (title) VALUES (?)",
        lambda t: (t, t),
        errors.ParameterMismatchError,
    ),
    (
        "name",
        "INSERT INTO topic (title) VALUES (:a)",
        lambda t: {"b": t},
        errors.ParameterMismatchError,
    ),
    ("commit", "COMMIT", lambda t: (), errors.StatementNotAllowedError),
    ("two", "DELETE FROM parent; DELETE FROM topic", lambda t: (), errors.NotOneStatementError),
    (
        "type",
        "INSERT INTO topic (title) VALUES (?)",
        lambda t: (object(),),
        errors.UnsupportedParameterError,
    ),
    (
        "variables",
        f"INSERT INTO topic (title) VALUES (?), {', '.join(['(?)'] * 33_000)}",
        lambda t: (t,),
        errors.StatementError,
    ),
]
INSERT = "INSERT INTO topic (title) VALUES (?)"


def is_due(error, due):
    if isinstance(due, int):
        return isinstance(error, errors.ConstraintError) and error.sqlite_errorcode == due
    return type(error) is due


class Caller:
    """One thread: writes at random, and keeps the book of what has to be in the file."""

    def __init__(self, writer, number, seed):
        self.writer = writer
        self.number = number
        self.random = random.Random(seed * 1000 + number)
        self.good = []
        self.lazy = []
        self.ways = Counter()

    def run(self):
        for count in range(WRITES):
            title = f"{self.number}.{count}"
            way = self.random.choice(
                [
                    "good write",
                    "good write",
                    "many",
                    "bad many",
                    "rollback many",
                    "transaction",
                    "undone",
                    "returning",
                    "deferred",
                    "future",
                    "poison",
                    "poison",
                    "poison",
                    "poison future",
                ]
            )
            self.ways[way] += 1
            getattr(self, way.replace(" ", "_"))(title)
        return self

    def good_result(self, result, title):
        assert (result.rowcount, result.rows) == (1, [])
        self.good.append((result.lastrowid, title))

    def good_write(self, title):
        self.good_result(self.writer.execute(INSERT, (title,)), title)

    def future(self, title):
        futures = [self.writer.submit(INSERT, (f"{title}.{n}",)) for n in range(3)]
        for number, future in enumerate(futures):
            self.good_result(future.result(60), f"{title}.{number}")

    def returning(self, title):
        result = self.writer.execute(INSERT + " RETURNING id, title", (title,))
        assert result.rows == [(result.lastrowid, title)]
        self.good.append((result.lastrowid, title))

    def deferred(self, title):
        self.writer.execute("INSERT INTO lazy_child VALUES (?, 1)", (title,))
        self.lazy.append(title)

    def many(self, title):
        result = self.writer.executemany(INSERT, [(f"{title}.{n}",) for n in range(4)])
        assert result.rowcount == 4
        self.good += [(result.lastrowid - 3 + n, f"{title}.{n}") for n in range(4)]

    def bad_many(self, title):
        rows = [(f"{title}.{n}",) for n in range(4)]
        rows[self.random.randrange(1, 4)] = ("taken",)
        with pytest.raises(errors.ConstraintError, match="^row [123]: UNIQUE"):
            self.writer.executemany(INSERT, rows)

    def rollback_many(self, title):
        rows = [(f"{title}.1",), ("taken",), (f"{title}.2",)]
        with pytest.raises(errors.ConstraintError, match="^row 1: UNIQUE"):
            self.writer.executemany(INSERT.replace("INSERT", "INSERT OR ROLLBACK"), rows)

    def transaction(self, title):
        with self.writer.transaction() as tx:
            self.good_result(tx.execute(INSERT, (title,)), title)
            with pytest.raises(errors.ConstraintError):
                tx.execute(INSERT, ("taken",))

    def undone(self, title):
        with pytest.raises(ZeroDivisionError), self.writer.transaction() as tx:
            tx.execute(INSERT, (title,))
            raise ZeroDivisionError

    def poison(self, title):
        name, sql, values, due = self.random.choice(POISONS)
        with pytest.raises(TurnwiseError) as caught:
            self.writer.execute(sql, values(title))
        assert is_due(caught.value, due), (name, repr(caught.value))

    def poison_future(self, title):
        name, sql, values, due = self.random.choice(POISONS[:10])
        error = self.writer.submit(sql, values(title)).exception(60)
        assert is_due(error, due), (name, repr(error))


@pytest.mark.parametrize("journal_mode", ["wal", "delete"])
def test_every_caller_gets_its_own_outcome_and_the_file_holds_the_good_rows(
    tmp_path, soak, journal_mode
):
    for round_ in range(50 if soak else 4):
        seed = random.SystemRandom().randrange(1 << 32)
        print(f"seed {seed}")
        path = tmp_path / f"{round_}.db"
        writer = BatchWriter(path, foreign_keys=True, journal_mode=journal_mode)
        for sql in SCHEMA:
            writer.execute(sql)
        callers = [Caller(writer, number, seed) for number in range(THREADS)]
        outcomes = together(THREADS, lambda number, callers=callers: callers[number].run())
        assert [outcome for outcome in outcomes if isinstance(outcome, BaseException)] == []
        stats = writer.stats()
        writer.close()

        good = [row for caller in callers for row in caller.good]
        assert len({number for number, _ in good}) == len(good), "two callers were told of one row"
        in_file = select(path, "SELECT id, title FROM topic WHERE title <> 'taken'")
        assert sorted(in_file) == sorted(good)
        lazy = sorted(title for caller in callers for title in caller.lazy)
        assert [
            title for (title,) in select(path, "SELECT title FROM lazy_child ORDER BY 1")
        ] == lazy
        assert select(path, "SELECT title FROM trap UNION SELECT title FROM strict_child") == []
        check_integrity(path)
        assert select(path, "PRAGMA foreign_key_check") == []
        # Without groups that poison could spoil nothing would have been proven.
        assert stats.max_group > 4
        assert stats.recoveries > 0
        assert sum((caller.ways for caller in callers), Counter()).keys() >= {"poison", "undone"}


def group(writer, works):
    """Have one transaction take all the writes: they queue up behind a transaction that is open."""
    inside, end = threading.Event(), threading.Event()

    def hold():
        with writer.transaction():
            inside.set()
            end.wait(30)

    holder = in_thread(hold)
    assert inside.wait(10)
    futures = [writer.submit(sql, values) for sql, values in works]
    before = writer.stats()
    end.set()
    holder()
    concurrent.futures.wait(futures, 60)
    return futures, before, writer.stats()


def test_a_group_without_poison_is_one_transaction(tmp_path):
    with BatchWriter(tmp_path / "a.db") as writer:
        writer.execute(SCHEMA[0])
        futures, before, after = group(writer, [(INSERT, (f"t{n}",)) for n in range(100)])
        assert [future.result().lastrowid for future in futures] == list(range(1, 101))
        # The one that held them up is the other.
        assert after.transactions - before.transactions == 2
        assert after.max_group == 100


def test_each_of_many_that_roll_the_group_back_fails_alone(tmp_path):
    path = tmp_path / "a.db"
    with BatchWriter(path, foreign_keys=True) as writer:
        for sql in SCHEMA:
            writer.execute(sql)
        spoilers = [POISONS[5], POISONS[6], POISONS[4]]
        works, dues = [], []
        for number in range(60):
            if number % 4 == 0:
                _, sql, values, due = spoilers[number // 4 % 3]
                works.append((sql, values(f"t{number}")))
                dues.append(due)
            else:
                works.append((INSERT, (f"t{number}",)))
                dues.append(None)
        futures, _, _ = group(writer, works)
        for future, due in zip(futures, dues, strict=True):
            error = future.exception()
            assert error is None if due is None else is_due(error, due), repr(error)
    expected = {f"t{number}" for number in range(60) if number % 4}
    assert {title for (title,) in select(path, "SELECT title FROM topic")} == expected | {"taken"}


def test_a_row_that_leans_on_a_failed_one_fails_for_itself(tmp_path):
    path = tmp_path / "a.db"
    with BatchWriter(path, foreign_keys=True) as writer:
        for sql in SCHEMA:
            writer.execute(sql)
        lean = "INSERT INTO strict_child VALUES (?, ?)"
        works = [
            ("INSERT OR ROLLBACK INTO parent VALUES (1)", ()),
            ("INSERT INTO parent VALUES (2)", ()),
            (lean, ("ok", 2)),
            ("INSERT INTO parent VALUES (2)", ()),
            (lean, ("no", 3)),
            ("INSERT INTO parent VALUES (3)", ()),
        ]
        futures, _, _ = group(writer, works)
        failed = [future.exception() is not None for future in futures]
        assert failed == [True, False, False, True, True, False]
    assert select(path, "SELECT title FROM strict_child") == [("ok",)]


def test_the_oracle_agrees_with_the_standard_library(tmp_path):
    """The codes that the hammer expects are those that SQLite gives to a lone caller."""
    connection = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    for sql in ["PRAGMA foreign_keys=ON", *SCHEMA]:
        connection.execute(sql)
    for name, sql, values, due in POISONS:
        if isinstance(due, int):
            connection.execute("BEGIN")
            with pytest.raises(sqlite3.IntegrityError) as caught:
                connection.execute(sql, values("t"))
                connection.execute("COMMIT")
            if hasattr(caught.value, "sqlite_errorcode"):
                assert caught.value.sqlite_errorcode == due, name
            if connection.in_transaction:
                connection.execute("ROLLBACK")
    connection.close()
    assert read_elsewhere(tmp_path / "a.db", "SELECT count(*) FROM topic") == [[["int", 1]]]
