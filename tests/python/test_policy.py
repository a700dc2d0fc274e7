"""Retry policy, state machine, budget and verdicts as Python objects."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest

import turnwise
from turnwise import BatchWriter, _native, errors


def redo() -> _native.Verdict:
    return _native.Verdict(fate="stale", scope="transaction", retry="redo")


def test_the_repr_shows_the_settings_and_gives_the_policy_back() -> None:
    default = _native.RetryPolicy()
    assert repr(default) == (
        "RetryPolicy(max_attempts=3, initial_delay=0.1, backoff_factor=2.0, "
        "max_delay=10.0, jitter='full', deadline=30.0)"
    )
    for policy in (default, _native.RetryPolicy(max_attempts=None, initial_delay=1e-9)):
        assert eval(repr(policy), {"RetryPolicy": _native.RetryPolicy}) == policy


def test_equal_policies_have_equal_hashes() -> None:
    one, same = _native.RetryPolicy(max_delay=5), _native.RetryPolicy(max_delay=5.0)
    other = _native.RetryPolicy(max_delay=6)
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert len({one, same, other}) == 2
    assert one != "policy"


def test_a_policy_cannot_be_changed() -> None:
    policy = _native.RetryPolicy()
    with pytest.raises(AttributeError):
        policy.deadline = 5.0  # type: ignore[misc]


def test_a_policy_survives_copying() -> None:
    policy = _native.RetryPolicy(max_attempts=None, initial_delay=0.3, jitter="decorrelated")
    assert copy.copy(policy) == policy
    arguments, settings = policy.__getnewargs_ex__()
    assert _native.RetryPolicy(*arguments, **settings) == policy


def test_a_policy_survives_pickling() -> None:
    policy = turnwise.RetryPolicy(max_attempts=7, jitter="equal")
    assert pickle.loads(pickle.dumps(policy)) == policy


def test_settings_are_keyword_only_and_known() -> None:
    with pytest.raises(TypeError):
        _native.RetryPolicy(3)  # type: ignore[misc]
    with pytest.raises(TypeError, match="retries"):
        _native.RetryPolicy(retries=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("attempts", [0, -1, 2**32])
def test_attempts_out_of_range_name_the_range(attempts: int) -> None:
    with pytest.raises(errors.InvalidPolicyError, match=rf"max_attempts is {attempts};.* 1 to"):
        _native.RetryPolicy(max_attempts=attempts)


@pytest.mark.parametrize("setting", ["initial_delay", "max_delay", "deadline", "backoff_factor"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_what_is_no_duration_is_named(setting: str, value: float) -> None:
    with pytest.raises(errors.InvalidPolicyError, match=f"^{setting} is "):
        _native.RetryPolicy(**{setting: value})  # type: ignore[arg-type]


def test_an_unknown_jitter_names_the_choices() -> None:
    with pytest.raises(errors.InvalidPolicyError) as caught:
        _native.RetryPolicy(jitter="linear")
    assert str(caught.value) == (
        "jitter is 'linear'; it must be one of none, additive, equal, full, decorrelated, adaptive"
    )


JITTERS = ["none", "additive", "equal", "full", "decorrelated", "adaptive"]


def test_only_the_adaptive_kind_learns() -> None:
    for jitter in JITTERS[:-1]:
        with pytest.raises(errors.InvalidPolicyError) as caught:
            _native.RetryPolicy(jitter=jitter).learner(1)
        assert f"jitter is {jitter}, which learns nothing" in str(caught.value)
        assert "jitter adaptive" in str(caught.value)
    learner = turnwise.RetryPolicy(jitter="adaptive").learner(1)
    assert isinstance(learner, turnwise.Learner)
    assert repr(learner) == "<Learner mean_ns=5000000 hold_ns=5000000 others_ns=0>"
    with pytest.raises(TypeError):
        turnwise.Learner()  # type: ignore[call-arg]


def test_the_adaptive_policy_is_a_policy_like_any_other() -> None:
    policy = _native.RetryPolicy(jitter="adaptive", max_delay=0.5)
    assert eval(repr(policy), {"RetryPolicy": _native.RetryPolicy}) == policy
    assert pickle.loads(pickle.dumps(policy)) == copy.copy(policy) == policy
    retry = _native.Retry(policy, 3)
    assert [retry.next(0, redo()), retry.next(0, redo())] == policy.delays_ns(3, 2)
    assert 0.00275 <= policy.delays(3, 1)[0] <= 0.00825
    assert all(0.25 <= delay <= 0.75 for delay in policy.delays(3, 200)[100:])


def test_threads_that_fail_together_teach_one_thing() -> None:
    learner = _native.RetryPolicy(jitter="adaptive").learner(1)
    delays: list[int] = []

    def fail() -> None:
        delays.extend(learner.failed(1_000 + number) for number in range(500))

    threads = [threading.Thread(target=fail) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert learner.mean_ns == 5_500_000
    assert len(set(delays)) > 1_990
    assert 2_750_000 <= min(delays) < max(delays) <= 8_250_000


@pytest.mark.parametrize("jitter", JITTERS)
def test_a_spent_budget_stops_redone_work_and_no_wait(jitter: str) -> None:
    policy = _native.RetryPolicy(jitter=jitter, max_attempts=None, initial_delay=0.001)
    busy = _native.classify_code("sqlite", 5, phase="begin")
    assert busy.retry == "wait"
    budget = _native.Budget(4)
    retry = _native.Retry(policy, 1, budget=budget)
    for _ in range(100):
        assert retry.next(0, busy) is not None
    assert retry.next(0, redo()) is None
    assert retry.stop_reason == "budget"
    assert retry.next(0, busy) is not None
    assert (retry.waits, retry.attempts, budget.tokens) == (101, 1, 4)


def test_unknown_words_name_the_choices() -> None:
    with pytest.raises(ValueError, match="phase is 'comit'; it must be one of connect, begin"):
        _native.classify_code("sqlite", 5, phase="comit")
    with pytest.raises(ValueError, match="dialect is 'oracle'"):
        _native.classify_code("oracle", 5)
    with pytest.raises(ValueError, match="journal is 'WAL'"):
        _native.classify_code("sqlite", 5, journal="WAL")
    with pytest.raises(ValueError, match="retry is 'again'"):
        _native.Verdict(fate="none", scope="statement", retry="again")
    with pytest.raises(ValueError, match="again"):
        _native.Budget().take("again")


def test_an_override_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(errors.InvalidPolicyError, match="commit in doubt"):
        _native.Override(
            dialect="sqlite",
            code=10,
            class_="resource",
            fate="unknown",
            scope="commit",
            retry="wait",
        )


def test_a_verdict_tells_what_may_be_done() -> None:
    busy = _native.classify_code("sqlite", 5, phase="commit", in_transaction=True)
    assert busy.is_retryable
    assert not busy.is_in_doubt
    lost = _native.classify_code(
        "sqlite", 1034, phase="commit", in_transaction=False, journal="wal"
    )
    assert lost.is_in_doubt
    assert not lost.is_retryable
    assert busy == _native.classify_code("sqlite", 5, phase="commit", in_transaction=True)
    assert busy != lost
    assert "sqlite.busy.commit" in repr(busy)


def test_a_retry_is_shared_by_threads_without_losing_an_attempt() -> None:
    policy = _native.RetryPolicy(max_attempts=1001, initial_delay=0.0)
    budget = _native.Budget(100_000)
    retry = _native.Retry(policy, 1, budget=budget)
    granted: list[int] = []

    def fail() -> None:
        granted.append(sum(retry.next(0, redo()) is not None for _ in range(500)))

    threads = [threading.Thread(target=fail) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(granted) == 1000
    assert retry.attempts == 1001
    assert retry.stop_reason == "attempts"
    assert budget.tokens == 100_000 - 5 * 1000


def test_the_deadline_left_is_read_without_a_failure() -> None:
    retry = _native.Retry(_native.RetryPolicy(deadline=2), 1, 1_000_000_000)
    assert retry.deadline_left_ns(1_500_000_000) == 1_500_000_000
    assert retry.deadline_left_ns(9_000_000_000) == 0


def test_success_without_a_budget_is_allowed() -> None:
    retry = _native.Retry(_native.RetryPolicy(), 1)
    assert retry.next(0, redo()) is not None
    retry.succeed()


def test_the_policy_for_locks_is_the_writers_own(tmp_path):
    with BatchWriter(tmp_path / "app.db") as writer:
        assert _native.RetryPolicy.for_locks() == writer.settings.policy
    longer = _native.RetryPolicy.for_locks(deadline=120)
    assert (longer.deadline, longer.initial_delay, longer.max_delay) == (120, 0.001, 0.05)
    with pytest.raises(errors.InvalidPolicyError, match="deadline is -1"):
        _native.RetryPolicy.for_locks(deadline=-1)
