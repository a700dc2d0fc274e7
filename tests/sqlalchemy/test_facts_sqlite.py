"""SQLite's errors that Python's own driver gives; tests/python/test_classify_sqlite.py has most of them."""

from __future__ import annotations

import sqlite3
import sys
import time

import pytest

import turnwise
from scenes import said
from turnwise.classification import classify

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="sqlite3 tells no extended code before Python 3.11"
)


@pytest.fixture
def connect(tmp_path):
    """Opens connections of the same file without any transaction of the driver's own."""
    connections = []

    def connect(options="", timeout=0):
        target = f"file:{tmp_path}/t.db{options}"
        connections.append(sqlite3.connect(target, uri=True, timeout=timeout, isolation_level=None))
        return connections[-1]

    connect().executescript(
        "CREATE TABLE t (i INTEGER PRIMARY KEY, n); INSERT INTO t VALUES (1, 10)"
    )
    yield connect
    for connection in connections:
        connection.close()


def fails(connection, statement):
    with pytest.raises(sqlite3.Error) as caught:
        connection.execute(statement).fetchall()
    return caught.value


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_the_busy_timeout_is_not_honoured_when_a_reader_writes(connect, journal) -> None:
    one, two = connect(timeout=20), connect()
    one.execute(f"PRAGMA journal_mode = {journal}")
    for statement in ("BEGIN", "SELECT n FROM t"):
        one.execute(statement).fetchall()
    two.execute("BEGIN IMMEDIATE")
    two.execute("UPDATE t SET n = 11")
    begin = time.monotonic()
    error = fails(one, "UPDATE t SET n = n + 1")
    assert time.monotonic() - begin < 10
    assert error.sqlite_errorcode == sqlite3.SQLITE_BUSY
    assert one.in_transaction
    two.execute("ROLLBACK")


@pytest.mark.parametrize("statement", ["UPDATE t SET n = 11", "BEGIN IMMEDIATE"])
def test_in_a_shared_cache_nobody_waits(connect, statement) -> None:
    one, two = connect("?cache=shared", timeout=20), connect("?cache=shared", timeout=20)
    two.execute("BEGIN IMMEDIATE")
    two.execute("UPDATE t SET n = 12")
    begin = time.monotonic()
    error = fails(one, statement)
    assert time.monotonic() - begin < 10
    assert error.sqlite_errorcode == 262
    assert said(classify(error, phase="begin", in_transaction=False)) == (
        "none",
        "statement",
        "wait",
    )
    two.execute("COMMIT")
    one.execute(statement)


def test_in_a_shared_cache_the_transaction_goes_on(connect) -> None:
    one, two = connect("?cache=shared"), connect("?cache=shared")
    one.execute("BEGIN")
    two.execute("BEGIN IMMEDIATE")
    two.execute("UPDATE t SET n = 12")
    error = fails(one, "SELECT n FROM t")
    assert error.sqlite_errorcode == 262
    assert one.in_transaction
    assert said(classify(error, phase="statement", in_transaction=True)) == (
        "intact",
        "statement",
        "wait",
    )
    two.execute("COMMIT")
    assert one.execute("SELECT n FROM t").fetchall() == [(12,)]


def test_a_reader_waits_for_an_exclusive_transaction(connect) -> None:
    one, two = connect(), connect()
    two.execute("BEGIN EXCLUSIVE")
    error = fails(one, "SELECT n FROM t")
    assert error.sqlite_errorcode == sqlite3.SQLITE_BUSY
    assert not one.in_transaction
    verdict = turnwise.classify_code("sqlite", 5, in_transaction=False, was_in_transaction=False)
    assert said(verdict) == ("none", "statement", "wait")
    two.execute("COMMIT")
    assert one.execute("SELECT n FROM t").fetchall() == [(10,)]


def test_a_connection_that_may_only_read(connect) -> None:
    one = connect("?mode=ro")
    one.execute("BEGIN")
    error = fails(one, "UPDATE t SET n = 11")
    assert error.sqlite_errorcode == sqlite3.SQLITE_READONLY
    assert one.in_transaction
    assert said(classify(error, phase="statement", in_transaction=True)) == (
        "intact",
        "never",
        "none",
    )
    assert one.execute("SELECT n FROM t").fetchall() == [(10,)]


def test_a_value_of_the_wrong_type_in_a_strict_table(connect) -> None:
    one = connect()
    one.execute("CREATE TABLE s (i INTEGER) STRICT")
    for statement in ("BEGIN", "INSERT INTO s VALUES (1)"):
        one.execute(statement)
    error = fails(one, "INSERT INTO s VALUES ('x')")
    assert error.sqlite_errorcode == 3091
    assert said(classify(error, phase="statement", in_transaction=True)) == (
        "intact",
        "never",
        "none",
    )
    one.execute("COMMIT")
    assert one.execute("SELECT i FROM s").fetchall() == [(1,)]
