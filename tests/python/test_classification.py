"""`classify`: what it follows, what it never looks at, and turnwise's own errors."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import subprocess
import sys

import pytest

import turnwise
from turnwise import errors
from turnwise._words import phase_of
from turnwise.classification import Observation, classify, observation_of, observe

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup


def sqlite_error(code=5, text="database is locked"):
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error


def chained(*links):
    """Each `raised from` the next."""
    for outer, inner in itertools.pairwise(links):
        outer.__cause__ = inner
    return links[0]


def test_the_extended_code_decides():
    assert classify(sqlite_error(517), phase="statement").rule == "sqlite.busy_snapshot"
    assert classify(sqlite_error(5), phase="commit").scope == "commit"


def test_without_a_code_the_message_is_the_last_resort():
    error = sqlite3.OperationalError("database is locked")
    assert not hasattr(error, "sqlite_errorcode")
    assert classify(error, phase="begin").rule == "sqlite.busy.begin"
    # The text is also that of a stale snapshot.
    observe(error, Observation("sqlite", "statement", has_read=True))
    assert classify(error).fate == "stale"


def test_an_unknown_phase_is_that_of_a_commit_where_this_is_in_doubt():
    full_log = sqlite_error(1034, "disk I/O error")
    assert classify(full_log).is_in_doubt
    assert not classify(full_log, phase="statement").is_in_doubt
    assert classify(sqlite_error(5)).rule == "sqlite.busy.statement"


def test_an_unknown_phase_is_a_statement_if_only_statements_give_the_code():
    error = type("DatabaseError", (Exception,), {"__module__": "pymysql.err"})(1062, "Duplicate")
    assert classify(error).rule == "mysql.constraint.unique"
    unlisted = type(error)(1999, "?")
    assert classify(unlisted).is_in_doubt


def test_errors_of_nobody():
    for error in (ValueError("database is locked"), KeyError(5), OSError(5, "x"), Exception()):
        verdict = classify(error)
        assert (verdict.rule, verdict.class_) == ("default.foreign", "unlisted")
        assert (verdict.scope, verdict.retry) == ("never", "none")


def test_causes_are_followed_and_contexts_are_not():
    assert classify(chained(ValueError(), RuntimeError(), sqlite_error())).dialect == "sqlite"
    unrelated = ValueError()
    unrelated.__context__ = sqlite_error()
    assert classify(unrelated).rule == "default.foreign"


def test_a_ring_of_causes_ends():
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    assert classify(first).rule == "default.foreign"


@pytest.mark.parametrize("kind", [asyncio.CancelledError, KeyboardInterrupt, SystemExit])
def test_a_cancellation_is_never_looked_into(kind):
    assert classify(chained(kind(), sqlite_error())).scope == "never"


def test_a_cancellation_of_commit_leaves_it_in_doubt():
    error = asyncio.CancelledError()
    observe(error, Observation("postgresql", "commit"))
    assert classify(error).is_in_doubt
    observe(error, Observation("postgresql", "statement"))
    assert classify(error).rule == "default.foreign"


@pytest.mark.parametrize(
    ("members", "rule"),
    [
        ([sqlite_error(), sqlite_error(517)], "sqlite.busy_snapshot"),
        ([sqlite_error(517), sqlite_error(2067)], "sqlite.constraint.unique"),
        ([sqlite_error(517), ValueError()], "default.foreign"),
        ([ValueError(), sqlite_error(1034)], "sqlite.ioerr.commit"),
        ([chained(ValueError(), sqlite_error())], "sqlite.busy.statement"),
        ([ExceptionGroup("", [sqlite_error(517)]), sqlite_error()], "sqlite.busy_snapshot"),
    ],
)
def test_a_group_is_as_bad_as_its_worst_member(members, rule):
    for order in (members, members[::-1]):
        assert classify(ExceptionGroup("several", order)).rule == rule
        assert classify(chained(ValueError(), ExceptionGroup("several", order))).rule == rule


def test_a_group_with_a_cancellation_is_not_retried():
    group = BaseExceptionGroup("", [sqlite_error(), asyncio.CancelledError()])
    assert classify(group).scope == "never"


def test_observations():
    error = sqlite_error()
    wrapped = chained(RuntimeError(), error)
    assert observation_of(wrapped) is None
    seen = Observation("sqlite", "commit", in_transaction=True, journal="delete")
    observe(error, seen)
    assert observation_of(wrapped) is seen
    assert classify(wrapped).scope == "commit"
    assert classify(wrapped, phase="statement").scope == "statement"
    assert classify(wrapped, in_transaction=False).fate == "rolled_back"


def test_an_exception_without_attributes_is_left_alone():
    class ClosedError(Exception):
        def __setattr__(self, name, value):
            raise AttributeError(name)

    observe(ClosedError(), Observation("sqlite", "commit"))


def test_an_observation_tells_mariadb_from_mysql():
    error = type("OperationalError", (Exception,), {"__module__": "pymysql.err"})(1205, "Lock wait")
    assert classify(error).dialect == "mysql"
    observe(error, Observation("mariadb", "statement"))
    assert classify(error).dialect == "mariadb"


def test_overrides_win():
    mine = turnwise.Override(
        dialect="sqlite", code=13, class_="resource", fate="intact", scope="statement", retry="redo"
    )
    assert classify(sqlite_error(13), overrides=[mine]).rule == "override"
    assert classify(sqlite_error(13)).rule == "sqlite.full"


def test_a_phase_that_nobody_knows():
    with pytest.raises(ValueError, match="phase is 'comit'"):
        classify(sqlite_error(), phase="comit")


def test_errors_of_turnwise_mean_what_is_behind_them():
    deadlock = type("E", (Exception,), {"__module__": "psycopg2", "pgcode": "40P01"})("deadlock")
    for kind in (
        errors.TransactionNotOwnedError,
        errors.TransactionPoisonedError,
        errors.RolledBackError,
        errors.CommitNotReplayableError,
    ):
        verdict = classify(chained(kind("x"), deadlock))
        assert (verdict.rule, verdict.retry) == ("postgresql.deadlock", "redo")
        assert classify(chained(kind("x"), ValueError())).dialect is None
    assert classify(chained(errors.CommitOutcomeUnknownError("x"), deadlock)).is_in_doubt
    assert classify(chained(errors.WritesLostError("x"), deadlock)).scope == "never"


@pytest.mark.parametrize("kind", ["RolledBack", "TransactionPoisoned", "CommitNotReplayable"])
def test_what_comes_at_commit_of_a_transaction_that_is_over_is_in_no_doubt(kind):
    swallowed = type("E", (Exception,), {"__module__": "pymysql.err"})(1999, "?")
    assert classify(swallowed).is_in_doubt
    own = chained(getattr(errors, f"{kind}Error")("x"), swallowed)
    observe(own, Observation("mariadb", "commit"))
    assert not classify(own).is_in_doubt
    assert not classify(own, phase="commit").is_in_doubt
    assert classify(own).dialect == "mariadb"
    observe(swallowed, Observation("mariadb", "rollback"))
    assert classify(own).rule == "default.rollback"
    not_owned = chained(errors.TransactionNotOwnedError("x"), swallowed)
    assert classify(not_owned, phase="commit").is_in_doubt


@pytest.mark.parametrize(
    ("kind", "code", "class_", "scope"),
    [
        ("LockTimeout", None, "contention", "statement"),
        ("LockTimeout", 517, "contention", "statement"),
        ("Constraint", 2067, "constraint", "never"),
        ("DiskFull", 13, "resource", "never"),
        ("Io", 1034, "resource", "never"),
        ("OutOfMemory", 7, "resource", "never"),
        ("ReplayDiverged", None, "serialization", "transaction"),
        ("RolledBack", None, "symptom", "transaction"),
        ("QueueFull", None, "overload", "statement"),
        ("TurnReentered", 5, "permanent", "never"),
        ("UnsupportedUnit", None, "permanent", "never"),
        ("CommitOutcomeUnknown", 1034, "commit_unknown", "resolve"),
    ],
)
def test_errors_of_turnwise(kind, code, class_, scope):
    error = getattr(errors, f"{kind}Error")("x", sqlite_errorcode=code)
    verdict = classify(error)
    assert (verdict.class_, verdict.scope) == (class_, scope)
    # In doubt where the error says so, and nowhere else.
    assert verdict.is_in_doubt is (scope == "resolve")


def test_every_error_of_turnwise_has_a_verdict():
    for name in errors.__all__:
        kind = getattr(errors, name)
        if issubclass(kind, errors.TurnwiseError):
            verdict = classify(kind("x"))
            assert verdict.rule != "default.foreign"
            assert verdict.is_retryable <= (
                kind.state != "permanent" or name == "ReplayDivergedError"
            )


def test_no_driver_is_imported():
    code = (
        "import sys, turnwise.classification, turnwise.drivers.classes, turnwise.http\n"
        "third = {'sqlalchemy', 'psycopg2', 'psycopg', 'asyncpg', 'pymysql', 'flask', 'fastapi'}\n"
        "assert not third & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("phase", "statements"),
    [
        ("begin", ["BEGIN", "/* app */ begin", "START TRANSACTION;", "XA START 'x'"]),
        ("commit", ["COMMIT", "-- app\nCOMMIT", "/* app */ commit;", "END", "COMMIT PREPARED 'x'"]),
        ("commit", ["XA COMMIT 'x'", "XA PREPARE 'x'", "PREPARE TRANSACTION 'x'"]),
        ("commit", ["UPDATE t SET a = 1; COMMIT", "BEGIN; UPDATE t SET a = 1; END"]),
        ("rollback", ["ROLLBACK", "/* app */ ROLLBACK"]),
        ("savepoint", ["SAVEPOINT a", "RELEASE a", "ROLLBACK TO a", "ROLLBACK WORK TO a"]),
        ("statement", ["UPDATE t SET a = 1", "BEGIN; UPDATE t SET a = 1", "PREPARE p AS SELECT 1"]),
        ("statement", ["BEGIN NOT ATOMIC UPDATE t SET a = 1", "XA END 'x'", "", "SELECT 'COMMIT'"]),
    ],
)
def test_what_a_statement_does_to_the_transaction_is_its_phase(phase, statements):
    assert {statement: phase_of(statement) for statement in statements} == dict.fromkeys(
        statements, phase
    )
