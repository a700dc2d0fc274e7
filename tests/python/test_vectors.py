"""Runs the vectors that all languages share, through the native module."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from turnwise import _native, errors
from turnwise.sqlalchemy.advisory_keys import advisory_key

VECTORS = Path(__file__).resolve().parents[1] / "vectors"


def vectors(name: str) -> list[Any]:
    content = json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))
    return [pytest.param(v, id=f"{i}-{v['rule']}") for i, v in enumerate(content["vectors"])]


def policy(given: dict[str, Any]) -> _native.RetryPolicy:
    return _native.RetryPolicy(
        max_attempts=given["max_attempts"],
        initial_delay=int(given["initial_delay_ns"]) / 1e9,
        backoff_factor=given["backoff_factor"],
        max_delay=int(given["max_delay_ns"]) / 1e9,
        jitter=given["jitter"],
        deadline=int(given["deadline_ns"]) / 1e9,
    )


@pytest.mark.parametrize("vector", vectors("classify"))
def test_classification(vector: dict[str, Any]) -> None:
    given = {"rule", "why", "dialect", "code", "phase", "overrides", "expect"}
    overrides = [
        _native.Override(class_=rule["class"], **{k: v for k, v in rule.items() if k != "class"})
        for rule in vector.get("overrides", [])
    ]
    verdict = _native.classify_code(
        vector["dialect"],
        vector["code"],
        phase=vector["phase"],
        overrides=overrides,
        **{key: value for key, value in vector.items() if key not in given},
    )
    words = {
        "class": verdict.class_,
        "fate": verdict.fate,
        "scope": verdict.scope,
        "retry": verdict.retry,
        "constraint": verdict.constraint and verdict.constraint.kind,
    }
    assert words == vector["expect"]
    assert (verdict.rule, verdict.dialect) == (vector["rule"], vector["dialect"])
    code = vector["code"]
    if isinstance(code, str):
        assert verdict.sqlstate == (None if code == "00000" else code)
        code = _native.sqlstate(code)
    assert verdict.code == (code or 0)

    numbers = _native.enums()
    assert verdict.class_code == numbers["ErrorClass"][verdict.class_]
    assert verdict.fate_code == numbers["Fate"][verdict.fate]
    assert verdict.scope_code == numbers["Scope"][verdict.scope]
    assert verdict.retry_code == numbers["RetryKind"][verdict.retry]
    if verdict.constraint is not None:
        kind = verdict.constraint.kind
        assert verdict.constraint.kind_code == numbers["ConstraintKind"][kind]


@pytest.mark.parametrize("vector", vectors("constraint"))
def test_constraints(vector: dict[str, Any]) -> None:
    message = vector["message"]
    verdict = _native.classify_code(vector["dialect"], vector["code"], message=message)
    constraint = verdict.constraint
    assert constraint is not None
    expected = {**vector["expect"], "columns": tuple(vector["expect"]["columns"])}
    assert {key: getattr(constraint, key) for key in expected} == expected
    assert constraint == _native.Constraint(expected.pop("kind"), **expected)


@pytest.mark.parametrize("vector", vectors("message"))
def test_messages(vector: dict[str, Any]) -> None:
    words = ("code", "phase", "message")
    verdict = _native.classify_code(vector["dialect"], **{word: vector[word] for word in words})
    assert verdict.rule == vector["rule"]


@pytest.mark.parametrize("vector", vectors("enums"))
def test_enums(vector: dict[str, Any]) -> None:
    assert list(_native.enums()[vector["enum"]].items()) == list(vector["values"].items())
    if "states" in vector:
        assert _native.error_states() == vector["states"]


def test_no_enum_is_missing() -> None:
    content = json.loads((VECTORS / "enums.json").read_text(encoding="utf-8"))
    assert {vector["enum"] for vector in content["vectors"]} == set(_native.enums())


@pytest.mark.parametrize("vector", vectors("policy"))
def test_policies(vector: dict[str, Any]) -> None:
    if "error" in vector:
        expected = getattr(errors, f"{vector['error']['kind']}Error")
        with pytest.raises(expected) as caught:
            _native.RetryPolicy(**vector["settings"])
        for part in vector["error"]["names"]:
            assert part in str(caught.value)
    else:
        assert _native.RetryPolicy(**vector["settings"]) == policy(vector["expect"])


@pytest.mark.parametrize("vector", vectors("rng"))
def test_draws(vector: dict[str, Any]) -> None:
    below = int(vector["below"]) if "below" in vector else None
    drawn = _native.draws(int(vector["seed"]), len(vector["expect"]), below)
    assert [str(number) for number in drawn] == vector["expect"]


@pytest.mark.parametrize("vector", vectors("delays"))
def test_delays(vector: dict[str, Any]) -> None:
    seed, count = int(vector["seed"]), vector["count"]
    given = policy(vector["policy"])
    delays = given.delays_ns(seed, count)
    assert [str(delay) for delay in delays] == vector["expect"]
    for seconds, nanoseconds in zip(given.delays(seed, count), delays, strict=True):
        assert seconds == pytest.approx(nanoseconds / 1e9, rel=1e-15)


@pytest.mark.parametrize("vector", vectors("adaptive"))
def test_learning(vector: dict[str, Any]) -> None:
    learner = policy(vector["policy"]).learner(int(vector["seed"]))
    for event, expected in zip(vector["events"], vector["expect"], strict=True):
        actual = {}
        if "failed" in event:
            actual["delay_ns"] = str(learner.failed(int(event["failed"])))
        else:
            learner.succeeded(int(event["held"]))
        actual["mean_ns"] = str(learner.mean_ns)
        actual["hold_ns"] = str(learner.hold_ns)
        actual["others_ns"] = str(learner.others_ns)
        assert actual == expected


@pytest.mark.parametrize("vector", vectors("retry"))
def test_retry_runs(vector: dict[str, Any]) -> None:
    budget = None
    if "budget_capacity" in vector:
        budget = _native.Budget(vector["budget_capacity"])
    given, seed = policy(vector["policy"]), int(vector["seed"])
    retry = _native.Retry(given, seed, int(vector["started_at_ns"]), budget=budget)
    for step in vector["steps"]:
        after = retry.next(int(step["now_ns"]), _native.Verdict(**step["verdict"]))
        if "stop" in step:
            assert (after, retry.stop_reason) == (None, step["stop"])
        elif "retry_as_delay" in step:
            index = step["retry_as_delay"]
            assert after == given.delays_ns(seed, index + 1)[index]
        else:
            assert (str(after), retry.stop_reason) == (step["retry_after_ns"], None)
        assert retry.attempts == step.get("attempts", retry.attempts)
        assert retry.waits == step.get("waits", retry.waits)
        if budget is not None:
            assert budget.tokens == step.get("tokens", budget.tokens)
            assert budget.denied == step.get("denied", budget.denied)
    if budget is not None and "tokens_after_success" in vector:
        retry.succeed()
        assert budget.tokens == vector["tokens_after_success"]


@pytest.mark.parametrize("vector", vectors("budget"))
def test_budgets(vector: dict[str, Any]) -> None:
    capacity = vector["capacity"]
    budget = _native.Budget() if capacity is None else _native.Budget(capacity)
    for step in vector["steps"]:
        if step["do"] == "success":
            budget.succeed()
        elif step["do"] != "read":
            assert budget.take(step["do"]) is step["ok"]
        assert budget.tokens == step.get("tokens", budget.tokens)
        assert str(budget.denied) == step.get("denied", str(budget.denied))


@pytest.mark.parametrize("vector", vectors("fingerprint"))
def test_fingerprints(vector: dict[str, Any]) -> None:
    assert str(_native.fingerprint(vector["sql"])) == vector["expect"]


@pytest.mark.parametrize("vector", vectors("advisory_key"))
def test_advisory_keys(vector: dict[str, Any]) -> None:
    parts = [part if isinstance(part, str) else int(part["integer"]) for part in vector["key"]]
    assert str(advisory_key(tuple(parts), namespace=vector["namespace"])) == vector["expect"]
    if len(parts) == 1:
        assert str(advisory_key(parts[0], namespace=vector["namespace"])) == vector["expect"]


@pytest.mark.parametrize("vector", vectors("sqlstate"))
def test_sqlstates(vector: dict[str, Any]) -> None:
    assert _native.sqlstate(vector["text"]) == vector["expect"]


def test_the_oracle_agrees() -> None:
    """The computed numbers come from an account that shares no code with the core."""
    spec = importlib.util.spec_from_file_location("oracle", VECTORS / "oracle.py")
    assert spec is not None
    assert spec.loader is not None
    oracle = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(oracle)
    assert oracle.check() == []


def test_every_file_is_run() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    for path in VECTORS.glob("*.json"):
        # Core alone makes and shows findings: Python cannot make one of given facts.
        if path.stem == "findings":
            continue
        assert f'vectors("{path.stem}")' in source, f"nothing runs {path.name}"
