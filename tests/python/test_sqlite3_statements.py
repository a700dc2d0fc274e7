"""Which statements write the file, by their words."""

from __future__ import annotations

import sqlite3
import time

import pytest

from turnwise._statements import Kind, kind_of, kinds_in, value_of

KINDS = {
    Kind.READ: [
        "SELECT 1",
        "VALUES (1)",
        "",
        " -- INSERT",
        "/* INSERT INTO t",
        "EXPLAIN INSERT INTO t VALUES (1)",
        "EXPLAIN QUERY PLAN DELETE FROM t",
        "WITH a AS (SELECT 'INSERT') SELECT * FROM a",
        "WITH replace(x) AS (SELECT 1) SELECT x FROM replace",
        'WITH "insert" AS (VALUES (1)) SELECT * FROM "insert"',
        "WITH a AS (SELECT 1) /* DELETE */ VALUES (2)",
        "PRAGMA user_version",
        'PRAGMA "user_version"',
        "PRAGMA user_version; -- = 5",
        "PRAGMA wal_checkpoint(PASSIVE) -- (TRUNCATE)",
        "PRAGMA wal_checkpoint(/* TRUNCATE */ passive)",
        "PRAGMA main.user_version",
        "PRAGMA journal_mode",
        "PRAGMA table_info(topic)",
        "PRAGMA foreign_keys = ON",
        "PRAGMA wal_checkpoint",
        "PRAGMA wal_checkpoint(PASSIVE)",
        "PRAGMA busy_timeout",
        "VACUUM INTO 'copy.db'",
        "VACUUM main INTO 'copy.db'",
        "CREATE TEMP TABLE t (x)",
        "create temporary view v as select 1",
        "INSERTED",
        "héllo",
    ],
    Kind.WRITE: [
        "INSERT INTO t VALUES (1)",
        "  \t\r\n\finsert into t values (1)",
        "\ufeff;; Replace INTO t VALUES (1)",
        "-- a comment\n/* and * another **/ -- \n UPDATE t SET x = 1",
        "/**/DELETE FROM t",
        "INSERT INTO t VALUES (1) RETURNING x",
        "WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a",
        "with recursive a(n) as (values (1) union select n + 1 from a) -- (\n delete from t",
        "WITH [a)] AS (SELECT ')'), `b` AS (SELECT 1) REPLACE INTO t SELECT 1",
        "CREATE TABLE t (x)",
        "CREATE UNIQUE INDEX i ON t (x)",
        "DROP TABLE t",
        "ALTER TABLE t ADD y",
        "REINDEX",
        "ANALYZE t",
        "VACUUM",
        "VACUUM main",
    ],
    Kind.PRAGMA: [
        "PRAGMA user_version = 5",
        "pragma main . user_version(5)",
        'PRAGMA "user_version"=5',
        "PRAGMA [main].[user_version](5)",
        "PRAGMA `main`.'user_version' /* ( */ = /* ) */ -5",
        "PRAGMA user_version = - 0x5",
        "PRAGMA application_id=1",
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "PRAGMA wal_checkpoint(TRUNCATE) -- comment",
        "PRAGMA wal_checkpoint(TRUNCATE /* comment */);",
        "PRAGMA wal_checkpoint('restart') ; -- comment",
        "PRAGMA wal_checkpoint = full",
        "PRAGMA incremental_vacuum",
        "PRAGMA optimize",
    ],
    Kind.JOURNAL_MODE: [
        "PRAGMA journal_mode = WAL",
        "PRAGMA main.journal_mode('delete')",
        "PRAGMA 'journal_mode'=[truncate] --",
    ],
    Kind.BUSY_TIMEOUT: ["PRAGMA busy_timeout = 100", "pragma busy_timeout(0)"],
    Kind.CONDITIONAL: [
        "CREATE TABLE IF NOT EXISTS t (x)",
        "CREATE UNIQUE INDEX /* ? */ IF NOT EXISTS i ON t (x)",
        "DROP TABLE IF EXISTS main.t",
    ],
    Kind.BEGIN: ["BEGIN", "begin transaction", "BEGIN /**/ DEFERRED"],
    Kind.BEGIN_WRITE: ["BEGIN IMMEDIATE", "begin -- \n exclusive transaction"],
    Kind.SAVEPOINT: ["SAVEPOINT a"],
    Kind.COMMIT: ["COMMIT", " /* x */ end TRANSACTION", "RELEASE a", "release savepoint a"],
    Kind.ROLLBACK: ["ROLLBACK", "ROLLBACK TO a"],
    Kind.ATTACH: ["ATTACH 'x' AS y", "DETACH y"],
}


@pytest.mark.parametrize(
    ("kind", "sql"), [(kind, sql) for kind, texts in KINDS.items() for sql in texts]
)
def test_the_kind_of_a_statement(kind, sql):
    assert kind_of(sql) is kind


@pytest.mark.parametrize(
    ("sql", "value"),
    [
        ("PRAGMA journal_mode=WAL", "wal"),
        ("PRAGMA journal_mode = Delete ; -- or WAL", "delete"),
        ("PRAGMA journal_mode( /* ) */ 'wal' ) -- (", "wal"),
        ('PRAGMA "journal_mode"("memory")', "memory"),
        ("PRAGMA journal_mode", ""),
    ],
)
def test_the_value_of_a_pragma(sql, value):
    assert value_of(sql) == value


def test_a_script_is_split_at_its_semicolons_only():
    script = """
        INSERT INTO t VALUES (';'); -- ; COMMIT
        CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM t; END;
        SELECT [;], `;`, ";" /* ; */; COMMIT
    """
    kinds = [kind for kind, _ in kinds_in(script)]
    inside_of_the_trigger = Kind.COMMIT
    assert kinds == [Kind.WRITE, Kind.WRITE, inside_of_the_trigger, Kind.READ, Kind.COMMIT]


@pytest.mark.parametrize("sql", ["/**/" * 50_000 + "?", "WITH a AS (" * 20_000, "'" * 99_999])
def test_hostile_text_is_read_in_no_time(sql):
    begin = time.process_time()
    kind_of(sql)
    kinds_in(sql)
    assert time.process_time() - begin < 5


def test_sqlite_agrees_on_what_writes():
    """The words against SQLite's own plan, for every statement that can be explained."""
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE t (x)")
    connection.execute("CREATE INDEX j ON t (x)")
    compared = 0
    for kind in (Kind.READ, Kind.WRITE):
        for sql in KINDS[kind]:
            try:
                plan = connection.execute("EXPLAIN " + sql.lstrip("\ufeff; \t\r\n\f")).fetchall()
            except sqlite3.Error:
                continue  # An EXPLAIN itself, no statement, or a table that is not there.
            writes = any(
                (step[1] == "Transaction" and step[2] == 0 and step[3]) or step[1] == "Vacuum"
                for step in plan
            )
            into = "INTO" in sql and "VACUUM" in sql
            assert writes is (kind is Kind.WRITE) or into, sql
            compared += 1
    connection.close()
    assert compared >= 25
