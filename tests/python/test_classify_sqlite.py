"""The rules against a real SQLite: provoke the error, judge it, do what the verdict says."""

from __future__ import annotations

import sqlite3
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from turnwise import _native

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="sqlite3 tells no extended code before Python 3.11"
)


class Database:
    """Connections with no driver magic: no implicit BEGIN, no busy timeout."""

    def __init__(self, path: Path, journal: str) -> None:
        self.path, self.journal = path, journal
        self.connections: list[sqlite3.Connection] = []
        setup = self.connect()
        assert setup.execute(f"PRAGMA journal_mode={journal}").fetchone() == (journal,)
        setup.execute("CREATE TABLE topic (id INTEGER PRIMARY KEY, title TEXT UNIQUE NOT NULL)")
        setup.execute("CREATE TABLE post (topic REFERENCES topic DEFERRABLE INITIALLY DEFERRED)")
        setup.execute("INSERT INTO topic VALUES (1, 'first')")

    def connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=0, isolation_level=None, check_same_thread=False
        )
        self.connections.append(connection)
        return connection

    def fail(self, connection, sql, **conditions):
        """The verdict of a statement that must fail."""
        was = connection.in_transaction
        with pytest.raises(sqlite3.Error) as caught:
            connection.execute(sql).fetchall()
        known = {
            "in_transaction": connection.in_transaction,
            "was_in_transaction": was,
            "journal": self.journal,
            "message": str(caught.value),
            **conditions,
        }
        verdict = _native.classify_code("sqlite", caught.value.sqlite_errorcode, **known)
        by_text = _native.classify_code("sqlite", None, **known)
        if by_text.class_ != "unlisted":
            assert (by_text.fate, by_text.retry) == (verdict.fate, verdict.retry)
            assert by_text.constraint == verdict.constraint
        return verdict

    def titles(self) -> list[str]:
        rows = self.connect().execute("SELECT title FROM topic ORDER BY id")
        return [title for (title,) in rows]


@pytest.fixture(params=["wal", "delete"])
def database(request, tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "topics.db", request.param)
    yield database
    for connection in database.connections:
        connection.close()


@pytest.fixture
def wal(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "topics.db", "wal")
    yield database
    for connection in database.connections:
        connection.close()


@pytest.fixture
def rollback_journal(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "topics.db", "delete")
    yield database
    for connection in database.connections:
        connection.close()


def outcome(verdict):
    return verdict.rule, verdict.fate, verdict.scope, verdict.retry


def test_busy_at_begin_is_waited_for(database: Database) -> None:
    holder, waiter = database.connect(), database.connect()
    holder.execute("BEGIN IMMEDIATE")
    verdict = database.fail(waiter, "BEGIN IMMEDIATE", phase="begin")
    assert outcome(verdict) == ("sqlite.busy.begin", "none", "statement", "wait")
    holder.execute("ROLLBACK")
    waiter.execute("BEGIN IMMEDIATE")


def test_busy_at_commit_leaves_commit_to_be_repeated(rollback_journal: Database) -> None:
    reader, writer = rollback_journal.connect(), rollback_journal.connect()
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM topic").fetchall()
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("INSERT INTO topic VALUES (2, 'second')")
    verdict = rollback_journal.fail(writer, "COMMIT", phase="commit")
    assert outcome(verdict) == ("sqlite.busy.commit", "intact", "commit", "wait")
    reader.execute("COMMIT")
    writer.execute("COMMIT")
    assert rollback_journal.titles() == ["first", "second"]


def test_the_first_write_of_a_transaction_is_repeated_alone(database: Database) -> None:
    holder, waiter = database.connect(), database.connect()
    holder.execute("BEGIN IMMEDIATE")
    waiter.execute("BEGIN")
    verdict = database.fail(waiter, "INSERT INTO topic VALUES (2, 'second')")
    assert outcome(verdict) == ("sqlite.busy.statement", "intact", "statement", "wait")
    holder.execute("ROLLBACK")
    waiter.execute("INSERT INTO topic VALUES (2, 'second')")
    waiter.execute("COMMIT")
    assert database.titles() == ["first", "second"]


def test_a_write_outside_a_transaction_is_repeated_alone(database: Database) -> None:
    holder, waiter = database.connect(), database.connect()
    holder.execute("BEGIN IMMEDIATE")
    verdict = database.fail(waiter, "INSERT INTO topic VALUES (2, 'second')")
    assert outcome(verdict) == ("sqlite.busy.statement", "none", "statement", "wait")
    holder.execute("ROLLBACK")
    waiter.execute("INSERT INTO topic VALUES (2, 'second')")
    assert database.titles() == ["first", "second"]


def test_an_old_snapshot_never_writes_again(wal: Database) -> None:
    other, reader = wal.connect(), wal.connect()
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM topic").fetchall()
    other.execute("BEGIN IMMEDIATE")
    write = "INSERT INTO topic VALUES (3, 'third')"
    verdict = wal.fail(reader, write, has_read=True)
    assert outcome(verdict) == ("sqlite.busy.write_after_read", "stale", "transaction", "redo")
    other.execute("INSERT INTO topic VALUES (2, 'second')")
    other.execute("COMMIT")
    for _ in range(3):
        verdict = wal.fail(reader, write, has_read=True)
        assert outcome(verdict) == ("sqlite.busy_snapshot", "stale", "transaction", "redo")
    reader.execute("ROLLBACK")
    reader.execute("BEGIN IMMEDIATE")
    reader.execute(write)
    reader.execute("COMMIT")
    assert wal.titles() == ["first", "second", "third"]


def test_waiting_readers_starve_a_commit(rollback_journal: Database) -> None:
    """Why a write after a read is not waited for in a rollback journal either."""
    one, other = rollback_journal.connect(), rollback_journal.connect()
    for connection in (one, other):
        connection.execute("BEGIN")
        connection.execute("SELECT * FROM topic").fetchall()
    one.execute("INSERT INTO topic VALUES (2, 'second')")
    verdict = rollback_journal.fail(other, "DELETE FROM topic", has_read=True)
    assert outcome(verdict) == ("sqlite.busy.write_after_read", "stale", "transaction", "redo")
    assert rollback_journal.fail(one, "COMMIT", phase="commit").scope == "commit"
    other.execute("ROLLBACK")
    one.execute("COMMIT")
    assert rollback_journal.titles() == ["first", "second"]


@pytest.mark.parametrize(
    ("sql", "fate", "titles"),
    [
        # Many rows and a UNIQUE: SQLite keeps a statement journal, which undoes them alone.
        ("VALUES (3, 'third'), (4, hex(zeroblob(100000)))", "intact", ["first", "second"]),
        # One row needs none, so nothing but the whole transaction can be undone.
        ("VALUES (3, hex(zeroblob(100000)))", "rolled_back", ["first"]),
    ],
)
def test_a_full_database_may_end_the_transaction(
    database: Database, sql: str, fate: str, titles: list[str]
) -> None:
    writer = database.connect()
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("INSERT INTO topic VALUES (2, 'second')")
    (pages,) = writer.execute("PRAGMA page_count").fetchone()
    writer.execute(f"PRAGMA max_page_count={pages}")
    verdict = database.fail(writer, f"INSERT INTO topic {sql}")
    assert outcome(verdict) == ("sqlite.full", fate, "never", "none")
    if writer.in_transaction:
        writer.execute("COMMIT")
    assert database.titles() == titles


@pytest.mark.parametrize(
    ("sql", "kind", "column"),
    [
        ("INSERT INTO topic VALUES (1, 'other')", "unique", "id"),
        ("INSERT INTO topic VALUES (2, 'first')", "unique", "title"),
        ("INSERT INTO topic VALUES (2, NULL)", "not_null", "title"),
    ],
)
def test_a_constraint_undoes_its_statement_only(
    database: Database, sql: str, kind: str, column: str
) -> None:
    constraint = _native.Constraint(kind, table="topic", columns=[column])
    writer = database.connect()
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("INSERT INTO topic VALUES (3, 'third')")
    verdict = database.fail(writer, sql)
    assert (verdict.constraint, verdict.fate, verdict.scope) == (constraint, "intact", "never")
    verdict = database.fail(writer, sql.replace("INSERT", "INSERT OR ROLLBACK"))
    assert verdict.constraint == constraint
    assert (verdict.fate, verdict.scope) == ("rolled_back", "never")
    assert database.titles() == ["first"]


def test_a_deferred_foreign_key_can_be_mended_at_commit(database: Database) -> None:
    writer = database.connect()
    writer.execute("PRAGMA foreign_keys=ON")
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("INSERT INTO post VALUES (2)")
    verdict = database.fail(writer, "COMMIT", phase="commit")
    assert (verdict.constraint, verdict.fate) == (_native.Constraint("foreign_key"), "intact")
    writer.execute("INSERT INTO topic VALUES (2, 'second')")
    writer.execute("COMMIT")
    assert database.titles() == ["first", "second"]


def test_an_interrupt_ends_the_transaction_of_a_write(database: Database) -> None:
    numbers = "WITH RECURSIVE n(i) AS (VALUES (10) UNION ALL SELECT i + 1 FROM n WHERE i < 1e8)"
    writer = database.connect()
    writer.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.1, writer.interrupt)
    timer.start()
    verdict = database.fail(writer, f"{numbers} SELECT max(i) FROM n", is_read=True)
    timer.join()
    assert outcome(verdict) == ("sqlite.interrupt.read", "intact", "statement", "none")
    timer = threading.Timer(0.1, writer.interrupt)
    timer.start()
    verdict = database.fail(writer, f"{numbers} INSERT INTO topic SELECT i, 't' || i FROM n")
    timer.join()
    assert outcome(verdict) == ("sqlite.interrupt.write", "rolled_back", "transaction", "none")
    assert database.titles() == ["first"]


def test_what_sqlite_refuses_leaves_the_transaction_alone(database: Database) -> None:
    writer = database.connect()
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("INSERT INTO topic VALUES (2, 'second')")
    for sql in ("INSERT INTO nowhere VALUES (1)", "INSRT", "SELECT abs(-9223372036854775808)"):
        verdict = database.fail(writer, sql)
        assert outcome(verdict) == ("sqlite.refused", "intact", "never", "none")
    verdict = database.fail(writer, "BEGIN", phase="begin")
    assert outcome(verdict) == ("sqlite.refused", "intact", "never", "none")
    writer.execute("COMMIT")
    assert database.titles() == ["first", "second"]
    for phase in ("commit", "rollback"):
        verdict = database.fail(writer, phase.upper(), phase=phase)
        assert outcome(verdict) == ("sqlite.no_transaction", "none", "never", "none")


def test_a_rollback_under_a_running_select_is_a_symptom(database: Database) -> None:
    reader = database.connect()
    reader.execute("BEGIN IMMEDIATE")
    reader.execute("INSERT INTO topic VALUES (2, 'second')")
    reader.execute("CREATE TABLE extra (i)")
    cursor = reader.execute("SELECT * FROM topic")
    cursor.fetchone()
    reader.execute("ROLLBACK")
    with pytest.raises(sqlite3.Error) as caught:
        cursor.fetchall()
    verdict = _native.classify_code(
        "sqlite", caught.value.sqlite_errorcode, in_transaction=reader.in_transaction
    )
    assert outcome(verdict) == ("sqlite.abort_rollback", "rolled_back", "transaction", "redo")


def test_a_moved_file_is_for_the_application_to_judge(rollback_journal: Database) -> None:
    writer = rollback_journal.connect()
    writer.execute("SELECT * FROM topic").fetchall()
    rollback_journal.path.rename(rollback_journal.path.with_suffix(".moved"))
    verdict = rollback_journal.fail(writer, "INSERT INTO topic VALUES (2, 'second')")
    assert (verdict.rule, verdict.scope) == ("sqlite.readonly_dbmoved", "connection")


def test_what_is_no_database_stays_so(tmp_path: Path) -> None:
    path = tmp_path / "note.db"
    path.write_text("this is no database, and long enough to be read as a header " * 20)
    for target, rule in ((path, "sqlite.broken_file"), (tmp_path, "sqlite.cantopen")):
        with pytest.raises(sqlite3.Error) as caught:
            sqlite3.connect(target).execute("SELECT * FROM sqlite_schema")
        verdict = _native.classify_code("sqlite", caught.value.sqlite_errorcode, phase="connect")
        assert outcome(verdict) == (rule, "none", "never", "none")
