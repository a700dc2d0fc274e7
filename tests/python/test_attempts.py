"""The bookkeeping of one retry loop."""

from __future__ import annotations

import logging
import os
import pickle
import sqlite3
import threading
import time

import pytest

from turnwise import Budget, Override, RetryPolicy, Verdict, on_event
from turnwise.attempts import Attempts, add_note, is_exhausted, plan
from turnwise.errors import InvalidPolicyError

REDO = Verdict(fate="rolled_back", scope="transaction", retry="redo", class_="deadlock")
FAST = RetryPolicy(initial_delay=0.001, max_delay=0.002)


def locked(code=5):
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = code
    return error


def test_redone_work_is_bounded_by_attempts_and_the_last_error_says_so():
    attempts = Attempts(FAST, name="transfer")
    error = locked()
    pauses = [attempts.after(error, verdict=REDO) for _ in range(3)]
    assert pauses[2] is None
    assert all(0 <= pause <= 0.002 for pause in pauses[:2])
    assert (attempts.number, attempts.stop_reason) == (3, "attempts")
    attempts.note(error)
    assert error.__notes__[0].startswith("turnwise: gave up after 3 attempts in 0.")
    assert error.__notes__[0].endswith("s (deadlock)")


def test_waits_for_a_lock_are_bounded_by_the_deadline_which_counts_from_the_first_attempt():
    policy = RetryPolicy(initial_delay=0.004, max_delay=0.004, jitter="none", deadline=0.2)
    attempts = Attempts(policy, started_at_ns=time.monotonic_ns() - 150_000_000)
    pauses = []
    while (pause := attempts.after(locked())) is not None:
        pauses.append(pause)
        time.sleep(pause)
    assert len(pauses) > 3
    assert sum(pauses) <= 0.051
    assert attempts.stop_reason == "deadline"


def test_an_error_that_no_retry_helps_stops_at_once_and_gets_no_note():
    attempts = Attempts(FAST)
    error = ValueError("no")
    assert attempts.after(error) is None
    attempts.note(error)
    assert not hasattr(error, "__notes__")
    assert not is_exhausted(error)


def test_an_exhausted_error_is_not_retried_by_whoever_catches_it_or_wraps_it():
    inner = Attempts(RetryPolicy(max_attempts=2, initial_delay=0.0))
    error = locked(517)
    while inner.after(error) is not None:
        pass
    inner.note(error)
    assert is_exhausted(error)
    wrapper = RuntimeError("of the application")
    wrapper.__cause__ = error
    for one in (error, wrapper, pickle.loads(pickle.dumps(error))):
        assert is_exhausted(one)
        assert Attempts(FAST).after(one) is None
    other = RuntimeError("raised while it was handled")
    other.__context__ = error
    assert not is_exhausted(other)
    inner.note(error)
    assert len(error.__notes__) == 1


def test_a_budget_is_shared():
    budget = Budget(capacity=5)
    settings = plan({"max_attempts": 9, "initial_delay": 0.0, "budget": budget})
    attempts = Attempts(settings.policy, budget=settings.budget)
    assert attempts.after(locked(517)) is not None
    assert attempts.after(locked(517)) is None
    assert attempts.stop_reason == "budget"


def test_settings_are_checked():
    assert plan({}).policy == RetryPolicy()
    assert plan({"policy": FAST}).policy is FAST
    with pytest.raises(TypeError, match="max_attempts"):
        plan({"policy": FAST, "max_attempts": 2})
    with pytest.raises(TypeError, match="no setting 'tries': max_attempts, .* are known"):
        plan({"tries": 2})
    # Found only at the first failure, they would take the place of the database's error.
    for name, wrong in (("policy", {"max_attempts": 2}), ("budget", 3), ("overrides", [3])):
        with pytest.raises(TypeError, match=name):
            plan({name: wrong})
    rule = Override(
        dialect="sqlite",
        code=13,
        class_="resource",
        fate="aborted",
        scope="transaction",
        retry="redo",
    )
    with pytest.raises(TypeError, match=r"overrides=\[...\]"):
        plan({"overrides": rule})
    assert plan({"overrides": [rule]}).overrides == (rule,)
    with pytest.raises(InvalidPolicyError):
        plan({"max_attempts": 0})


def test_each_step_is_one_log_line_and_one_event_without_parameters(caplog):
    heard, enough = [], threading.Event()

    def hook(event):
        heard.append((event, threading.current_thread().name))
        if event.kind == "failure":
            enough.set()

    with caplog.at_level(logging.DEBUG, "turnwise.events"), on_event(hook):
        attempts = Attempts(FAST, name="shop.transfer")
        attempts.after(locked(), verdict=REDO)
        attempts.recovered()
        attempts.after(KeyError("secret"))
        assert enough.wait(10)
    assert [event.kind for event, _ in heard] == ["retry", "recovery", "failure"]
    assert {thread for _, thread in heard} == {"turnwise-hooks"}
    retry, _, failure = (event for event, _ in heard)
    assert (retry.path, retry.class_, retry.attempt) == ("shop.transfer", "deadlock", 1)
    assert 0 < retry.deadline_left <= 30
    assert (failure.error, failure.stop) == ("KeyError", "not_retryable")
    assert [record.levelname for record in caplog.records] == ["DEBUG", "INFO", "WARNING"]
    assert caplog.records[0].message.startswith("retry: shop.transfer: deadlock, code 0, attempt 1")
    assert "secret" not in caplog.text


def test_a_forked_child_hears_its_own_events():
    with on_event(lambda event: None):
        Attempts(FAST).after(locked())
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            on_event(lambda event: os.write(writing, event.kind.encode()))
            Attempts(FAST).after(locked())
            time.sleep(10)
            os._exit(1)
        os.close(writing)
        try:
            assert os.read(reading, 99) == b"retry"
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)
            os.close(reading)


def test_a_note_is_added_once():
    error = ValueError()
    add_note(error, "one")
    add_note(error, "one")
    add_note(error, "two")
    assert error.__notes__ == ["one", "two"]
