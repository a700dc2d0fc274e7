"""`turnwise.testing`, as an application's own suite uses it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import textwrap
import time

import pytest

from turnwise import BatchWriter, RetryPolicy, errors, on_event
from turnwise.testing import faults, rehearsal
from writer_support import INSERT, check_integrity, locked_by_another_process, titles

POINTS = ["begin", "statement", "commit"]


@pytest.fixture
def writer(tmp_path):
    with BatchWriter(tmp_path / "app.db") as writer:
        writer.execute("CREATE TABLE topic (id INTEGER PRIMARY KEY, title TEXT NOT NULL UNIQUE)")
        yield writer


def test_a_locked_database_fails_at_once_and_says_how_often_it_was_asked(writer):
    with locked_by_another_process(writer.path), rehearsal(max_attempts=5):
        start = time.monotonic()
        with pytest.raises(errors.LockTimeoutError) as raised:
            writer.execute(INSERT, ("a",))
        assert time.monotonic() - start < 10, "the policy would have waited for 30 s"
    assert raised.value.attempts == 5
    assert isinstance(raised.value, sqlite3.OperationalError)
    writer.execute(INSERT, ("b",))
    assert titles(writer.path) == {"b"}


def test_outside_of_a_rehearsal_the_policy_counts_again(tmp_path):
    policy = RetryPolicy(initial_delay=0.01, max_delay=0.01, deadline=0.3)
    with BatchWriter(tmp_path / "app.db", policy=policy) as writer:
        with rehearsal(), rehearsal(max_attempts=2):
            pass
        with faults(writer) as disk:
            disk.strike("begin", "busy", times=10_000)
            start = time.monotonic()
            with pytest.raises(errors.LockTimeoutError):
                writer.execute("CREATE TABLE t (x)")
            assert time.monotonic() - start >= 0.25


def test_the_same_seed_gives_the_same_story(tmp_path):
    def story(seed, name):
        heard = []
        with BatchWriter(tmp_path / name) as writer, on_event(heard.append):
            with rehearsal(max_attempts=8, seed=seed), faults(writer) as disk:
                disk.strike("begin", "busy", times=5)
                writer.execute("CREATE TABLE t (x)")
            writer.close()
            while len(heard) < 6:
                time.sleep(0.01)
        return [(event.kind, event.attempt, event.delay) for event in heard]

    assert story(1, "a.db") == story(1, "b.db")
    assert [delay for _, _, delay in story(1, "c.db")] == [0.0] * 6


@pytest.mark.parametrize(
    "wrong",
    [{"max_attempts": 0}, {"max_attempts": 2**32}, {"seed": -1}, {"seed": 2**64}],
)
def test_a_rehearsal_out_of_range(wrong):
    with pytest.raises(errors.InvalidSettingError, match="is out of range"), rehearsal(**wrong):
        pass


@pytest.mark.parametrize("at", POINTS)
@pytest.mark.parametrize(
    ("error", "raised"),
    [
        ("full", errors.DiskFullError),
        ("nomem", errors.OutOfMemoryError),
        ("corrupt", errors.CorruptError),
        (13, errors.DiskFullError),
    ],
)
def test_a_fault_is_what_sqlite_would_raise(writer, at, error, raised):
    if (at, error) == ("commit", "nomem"):
        raised = errors.CommitOutcomeUnknownError
    with faults(writer) as disk:
        disk.strike(at, error)
        # One more try may be allowed to what the disk failed: a fault that lasts is told.
        disk.strike(at, error, times=9)
        with pytest.raises(raised, match="injected fault") as caught:
            writer.execute(INSERT, ("a",))
    assert caught.value.sqlite_errorcode in (7, 11, 13)
    assert titles(writer.path) == set()
    writer.execute(INSERT, ("b",))
    assert titles(writer.path) == {"b"}
    check_integrity(writer.path)


@pytest.mark.parametrize("effect", ["refused", "done"])
def test_a_commit_in_doubt_is_reported_as_such(writer, effect):
    with faults(writer) as disk:
        disk.strike("commit", "ioerr", effect=effect)
        with pytest.raises(errors.CommitOutcomeUnknownError):
            writer.execute(INSERT, ("a",))
    assert titles(writer.path) == ({"a"} if effect == "done" else set())


@pytest.mark.parametrize(
    ("journal", "at", "error"),
    [
        ("wal", "commit", "full"),
        ("wal", "statement", "ioerr"),
        ("wal", "begin", "busy"),
        ("delete", "commit", "ioerr"),
    ],
)
def test_what_sqlite_never_does_is_not_injected(tmp_path, journal, at, error):
    """A failure that says "not in the file" of a row that is in the file."""
    with (
        BatchWriter(tmp_path / "other.db", journal_mode=journal) as writer,
        faults(writer) as disk,
        pytest.raises(errors.InvalidSettingError, match="effect='done' needs"),
    ):
        disk.strike(at, error, effect="done")


def test_after_and_times_choose_the_operation(writer):
    with faults(writer) as disk:
        disk.strike("statement", "constraint", after=2, times=2)
        outcomes = []
        for title in "abcdef":
            try:
                writer.execute(INSERT, (title,))
                outcomes.append("ok")
            except errors.ConstraintError:
                outcomes.append("failed")
    assert outcomes == ["ok", "ok", "failed", "failed", "ok", "ok"]


def test_what_has_not_struck_is_called_off(writer):
    with faults(writer) as disk:
        disk.strike("begin", "busy", times=3)
        assert disk.clear() == 1
        disk.strike("commit", "full")
    writer.execute(INSERT, ("a",))
    assert titles(writer.path) == {"a"}


def test_a_writer_that_panics_says_so_and_goes_on(writer):
    with faults(writer) as disk:
        disk.strike("statement", effect="panicked")
        with pytest.raises(errors.InternalError, match="panicked"):
            writer.execute(INSERT, ("a",))
    writer.execute(INSERT, ("b",))
    assert titles(writer.path) == {"b"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("somewhere",), "at='somewhere' is unknown: it must be one of 'begin', "),
        (("begin", "typo"), "error='typo' is unknown: it must be a result code or one of"),
        (("begin", "busy", {"effect": "odd"}), "effect='odd' is unknown"),
        (("begin", "busy", {"times": 0}), "times=0 is out of range"),
        (
            ("commit", 5, {"effect": "panicked"}),
            "effect='panicked' at 'commit' would end the writer",
        ),
        (("begin", "busy", {"after": -1}), "after=-1 is out of range"),
    ],
)
def test_an_unknown_fault_is_named(writer, arguments, message):
    *words, options = arguments if isinstance(arguments[-1], dict) else (*arguments, {})
    with faults(writer) as disk, pytest.raises(errors.InvalidSettingError) as raised:
        disk.strike(*words, **options)
    assert message in str(raised.value)


def test_the_fixture_works_in_a_suite_of_its_own(tmp_path):
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["turnwise.pytest_plugin"]\n')
    (tmp_path / "test_app.py").write_text(
        textwrap.dedent("""
            import pytest
            from turnwise import BatchWriter, errors
            from turnwise.testing import faults

            def test_locked(turnwise_rehearsal, tmp_path):
                with BatchWriter(tmp_path / "app.db") as writer, faults(writer) as disk:
                    disk.strike("begin", "busy", times=99)
                    with pytest.raises(errors.LockTimeoutError) as raised:
                        writer.execute("CREATE TABLE t (x)")
                    assert raised.value.attempts == 3
        """)
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "ignore", "-p", "no:cacheprovider", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
