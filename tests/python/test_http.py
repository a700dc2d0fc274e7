"""Verdicts as answers of a web application, without a framework."""

from __future__ import annotations

import logging
import sqlite3

import pytest

import turnwise
from turnwise import errors
from turnwise.http import problem_of

SECRET = "swordfish"


def failing(code, message="", *, kind=sqlite3.OperationalError):
    error = kind(message)
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("error", "status", "reason", "retry_after"),
    [
        (failing(2067, "UNIQUE constraint failed: user.email"), 409, "unique", None),
        (failing(787, "FOREIGN KEY constraint failed"), 409, "foreign_key", None),
        (failing(1299, "NOT NULL constraint failed: user.email"), 422, "not_null", None),
        (failing(275, "CHECK constraint failed: ck_age"), 422, "check", None),
        (failing(3091, "cannot store TEXT value in INT column t.a"), 422, "data", None),
        (failing(20, "datatype mismatch"), 422, "data", None),
        (failing(18, "string or blob too big"), 422, "data", None),
        (failing(5, "database is locked"), 503, "contention", "1"),
        (failing(517, "database is locked"), 503, "snapshot_stale", "1"),
        (failing(1, "no such table: swordfish"), 500, "permanent", None),
        (failing(13, "database or disk is full"), 500, "resource", None),
        (failing(11, "database disk image is malformed"), 500, "permanent", None),
        (errors.CommitOutcomeUnknownError("x"), 500, "commit_unknown", None),
        (errors.LockTimeoutError("x"), 503, "contention", "1"),
        (errors.QueueFullError("x"), 503, "overload", "5"),
        (errors.UnsupportedUnitError("x"), 500, "permanent", None),
        (ZeroDivisionError("x"), 500, "unlisted", None),
    ],
)
def test_statuses(error, status, reason, retry_after):
    problem = problem_of(error)
    assert problem.status == problem.body["status"] == status
    assert problem.body["reason"] == reason
    assert problem.headers.get("Retry-After") == retry_after
    assert problem.headers["Content-Type"] == "application/problem+json"
    assert {"type", "title", "detail"} < set(problem.body)


def test_a_commit_in_doubt_invites_nobody_to_repeat_it():
    for error in (errors.CommitOutcomeUnknownError("x"), failing(1034, "disk I/O error")):
        problem = problem_of(error)
        assert problem.status == 500
        assert "not known whether" in problem.body["detail"]
        assert "Retry-After" not in problem.headers


def test_retry_after_is_in_whole_seconds():
    busy, full = failing(5), errors.QueueFullError("x")
    settings = {"retry_after": 2.2, "retry_after_outage": 0}
    assert problem_of(busy, **settings).headers["Retry-After"] == "3"
    assert problem_of(full, **settings).headers["Retry-After"] == "1"


def test_a_constraint_has_words_of_the_application():
    unique = failing(2067, "UNIQUE constraint failed: user.team, user.email")
    check = failing(275, "CHECK constraint failed: ck_age")
    constraints = {"user.team,email": "This address is taken", "ck_age": (400, "Too young")}
    taken = problem_of(unique, constraints=constraints)
    assert (taken.status, taken.body["detail"]) == (409, "This address is taken")
    assert taken.body["constraint"] == "user.team,email"
    young = problem_of(check, constraints=constraints)
    assert (young.status, young.body["status"], young.body["title"]) == (400, 400, "Bad Request")
    assert (young.body["detail"], young.body["constraint"]) == ("Too young", "ck_age")
    assert problem_of(check).body["constraint"] == "ck_age"


def test_an_unnamed_check_shows_no_sql():
    problem = problem_of(failing(275, f"CHECK constraint failed: name <> '{SECRET}'"))
    assert "constraint" not in problem.body
    assert SECRET not in str(problem.body)


def test_no_answer_holds_the_databases_words(caplog):
    for code in (*range(30), 2067, 787, 1299, 275, 3091, 517):
        for kind in (sqlite3.OperationalError, sqlite3.IntegrityError):
            problem = problem_of(failing(code, f"near {SECRET}", kind=kind))
            assert SECRET not in str((problem.body, problem.headers))
    assert SECRET not in caplog.text


def test_what_is_answered_with_500_is_logged_without_its_text(caplog):
    def query():
        raise failing(1, f"no such column: {SECRET}")

    with pytest.raises(sqlite3.OperationalError) as caught:
        query()
    with caplog.at_level(logging.DEBUG, "turnwise.http"):
        problem_of(caught.value)
        problem_of(failing(5))
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "sqlite3.OperationalError (sqlite.refused, code 1)" in caplog.text
    assert "in query" in caplog.text
    assert SECRET not in caplog.text


def test_overrides_and_customize():
    full = turnwise.Override(
        dialect="sqlite",
        code=13,
        class_="resource",
        fate="intact",
        scope="transaction",
        retry="redo",
    )
    problem = problem_of(
        failing(13),
        overrides=[full],
        customize=lambda problem, error: problem._replace(
            body={"error": type(error).__name__, "class": problem.verdict.class_}
        ),
    )
    assert problem.status == 503
    assert problem.body == {"error": "OperationalError", "class": "resource"}
