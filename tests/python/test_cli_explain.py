"""`turnwise explain`: codes, names and pasted texts."""

from __future__ import annotations

import json
import os
import sqlite3

import pytest

from cli_support import run
from turnwise import _native
from turnwise.cli.codes import Code, name_of, names, sqlite_names
from turnwise.cli.explain import _ACTIONS, _CONDITIONS, _FATES, find
from turnwise.cli.output import CommandError

TWINS = ["mysql", "mariadb"]


def found(text):
    return [tuple(code) for code in find(text)]


def twins(number):
    return [(dialect, number) for dialect in TWINS]


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("40P01", [("postgresql", "40P01")]),
        ("40p01", [("postgresql", "40P01")]),
        ("40001", [("postgresql", "40001")]),
        ("1213", twins(1213)),
        ("mariadb 1020", [("mariadb", 1020)]),
        ("MySQL 1205", [("mysql", 1205)]),
        ("pg 55P03", [("postgresql", "55P03")]),
        ("517", [("sqlite", 517)]),
        ("5", [("sqlite", 5)]),
        ("sqlite 1299", [("sqlite", 1299)]),
        ("SQLITE_BUSY_SNAPSHOT", [("sqlite", 517)]),
        ("sqlite_busy", [("sqlite", 5)]),
        ("ER_LOCK_DEADLOCK", twins(1213)),
        ("deadlock_detected", [("postgresql", "40P01")]),
        ("SerializationFailure", [("postgresql", "40001")]),
        ("deadlock detected", [("postgresql", "40P01")]),
        ("database is locked", [("sqlite", 5), ("sqlite", 517)]),
        ("sqlite3.OperationalError: database is locked", [("sqlite", 5), ("sqlite", 517)]),
        ("(1205, 'Lock wait timeout exceeded; try restarting transaction')", twins(1205)),
        (
            "sqlalchemy.exc.OperationalError: (pymysql.err.OperationalError) (1213, 'Deadlock found')",
            twins(1213),
        ),
        ("1205 (HY000): Lock wait timeout exceeded", twins(1205)),
        (
            "mysql.connector.errors.DatabaseError: 1205 (HY000): Lock wait timeout exceeded; try",
            twins(1205),
        ),
        ("ERROR 1213 (40001): Deadlock found when trying to get lock", twins(1213)),
        ("mariadb.OperationalError: Record has changed since last read", [("mariadb", 1020)]),
        (
            "sqlalchemy.exc.OperationalError: (psycopg2.errors.LockNotAvailable) canceling statement",
            [("postgresql", "55P03")],
        ),
        ("asyncpg.exceptions.SerializationError: could not …", [("postgresql", "40001")]),
        ("{'S': 'ERROR', 'C': '23505', 'M': 'doppelter Schlüssel'}", [("postgresql", "23505")]),
        ("SQLSTATE[40001]: Serialization failure", [("postgresql", "40001")]),
        ("error: SQLITE_FULL while writing", [("sqlite", 13)]),
        ("UNIQUE constraint failed: user.email", [("sqlite", 2067)]),
        ('duplicate key value violates unique constraint "uq"', [("postgresql", "23505")]),
        ("FATAL:  sorry, too many clients already", [("postgresql", "53300")]),
    ],
)
def test_what_is_meant(text, codes):
    assert found(text) == codes


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("SQLITE_BUSSY", "did you mean SQLITE_BUSY?"),
        ("deadlok_detected", "did you mean DEADLOCK_DETECTED?"),
        ("database is loked", 'did you mean "database is locked"?'),
        ("nothing that anybody says", None),
        ("", None),
        ("sqlite", None),
        ("deadlock", 'did you mean "deadlock detected" or "deadlock found'),
        ("turnwise.errors.LockTimeoutError: x", "LockTimeoutError is turnwise's own: The database"),
    ],
)
def test_what_means_nothing_is_refused(text, hint):
    with pytest.raises(CommandError, match="no error code or known message") as caught:
        find(text)
    assert str(caught.value).endswith(repr(text)) is (hint is None)
    assert hint is None or hint in str(caught.value)


def test_every_rule_can_be_told():
    for rule in _native.rules():
        assert rule["when"] in _CONDITIONS
        assert rule["fate"] in _FATES
        assert (rule["scope"], rule["retry"]) in _ACTIONS


def test_every_rule_is_found_by_its_codes():
    for rule in _native.rules():
        for code in rule["codes"]:
            if code in (0, "00000"):
                continue
            assert Code(rule["dialect"], code) in find(f"{rule['dialect']} {code}")


def test_names_are_those_of_sqlite():
    known = sqlite_names()
    for name, code in vars(sqlite3).items():
        if name in known:
            assert known[name] == code, name
    for code in (5, 517, 787, 2067, 6666):
        name = name_of(Code("sqlite", code))
        assert name is not None
        assert names()[name] == [Code("sqlite", code)]


def test_a_table_for_a_code_of_several_meanings():
    done = run("explain", "1205", env={**os.environ, "COLUMNS": "150"})
    assert done.returncode == 0
    assert done.stderr == ""
    title, empty, head, *lines = done.stdout.splitlines()
    assert title == "MySQL and MariaDB 1205 (ER_LOCK_WAIT_TIMEOUT): contention"
    assert empty == ""
    assert head.split("  ")[0] == "when"
    rows = [line for line in lines if line.startswith(("connect", "statement", "commit"))]
    assert len(rows) == 6
    assert sum("MariaDB only" in row for row in rows) == 1
    assert "a second COMMIT says OK" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 150
    assert "\x1b" not in done.stdout


def test_json():
    done = run("explain", "mariadb", "1020", "--json")
    (code,) = json.loads(done.stdout)
    assert (code["dialect"], code["code"], code["name"]) == ("mariadb", 1020, "ER_CHECKREAD")
    (rule,) = code["rules"]
    assert (rule["fate"], rule["scope"], rule["retry"]) == ("rolled_back", "transaction", "redo")


def test_what_an_earlier_rule_decides_is_left_out():
    (code,) = json.loads(run("explain", "sqlite", "9", "--json").stdout)
    assert [(rule["rule"], rule["phases"]) for rule in code["rules"]] == [
        ("sqlite.interrupt.read", ["statement", "savepoint"]),
        ("sqlite.interrupt.write", ["statement", "savepoint"]),
        ("sqlite.interrupt", ["connect", "begin", "commit"]),
    ]


def test_a_group_stands_in_for_its_codes():
    done = run("explain", "SQLITE_IOERR_FSYNC")
    assert "SQLite 1034 (SQLITE_IOERR_FSYNC)" in done.stdout
    assert "committed or not" in done.stdout
    done = run("explain", "42P01")
    assert "PostgreSQL 42P01 (undefined_table): permanent" in done.stdout


def test_a_code_that_is_not_in_the_table():
    done = run("explain", "mysql", "1999")
    assert done.returncode == 1
    assert "MySQL 1999: not in the table" in done.stdout


def test_a_text_without_a_code():
    done = run("explain", "SQLITE_BUSSY")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no error code or known message in 'SQLITE_BUSSY' (did you mean SQLITE_BUSY?)" in (
        done.stderr
    )
