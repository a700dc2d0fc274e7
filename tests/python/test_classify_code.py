"""What Python gives to classification, and gets."""

from __future__ import annotations

import pytest

import turnwise
from turnwise import _native, errors

DUPLICATE = "Duplicate entry 'ann@example.org' for key 'user.email'"


def test_a_sqlstate_is_text_or_its_number() -> None:
    by_text = turnwise.classify_code("postgresql", "40001")
    assert by_text == turnwise.classify_code("postgresql", _native.sqlstate("40001"))
    assert (by_text.rule, by_text.sqlstate) == ("postgresql.serialization", "40001")
    assert "code=40001" in repr(by_text)
    with pytest.raises(ValueError, match="code is 'deadlock'; a SQLSTATE has five"):
        turnwise.classify_code("postgresql", "deadlock")
    with pytest.raises(ValueError, match="must be an int in mysql"):
        turnwise.classify_code("mysql", "1213")
    with pytest.raises(ValueError, match="sqlstate is '4001'"):
        turnwise.classify_code("mysql", 1213, sqlstate="4001")
    assert turnwise.classify_code("mysql", 1213, sqlstate="40001").sqlstate == "40001"
    assert turnwise.classify_code("sqlite", 5).sqlstate is None


def test_no_code_is_none_or_zero() -> None:
    nothing = turnwise.classify_code("postgresql", None, phase="commit")
    assert nothing == turnwise.classify_code("postgresql", 0, phase="commit")
    assert (nothing.rule, nothing.sqlstate) == ("default.commit", None)
    lost = turnwise.classify_code("postgresql", None, phase="commit", is_lost=True)
    assert (lost.rule, lost.fate) == ("postgresql.lost.commit", "unknown")


def test_a_message_gives_the_rule_but_keeps_the_drivers_code() -> None:
    text = "cached plan must not change result type"
    verdict = turnwise.classify_code("postgresql", "0A000", message=text)
    assert (verdict.rule, verdict.sqlstate) == ("postgresql.cached_plan", "0A000")
    assert verdict.code == _native.sqlstate("0A000")


def test_no_value_of_a_row_is_kept() -> None:
    verdict = turnwise.classify_code("mysql", 1062, message=DUPLICATE)
    assert verdict.constraint == turnwise.Constraint("unique", name="email", table="user")
    for thing in (verdict, verdict.constraint):
        values = [getattr(thing, name) for name in dir(thing) if not name.startswith("__")]
        assert "ann" not in f"{thing!r}{values}"


def test_the_drivers_own_fields_replace_what_was_read() -> None:
    verdict = turnwise.classify_code("postgresql", "23505")
    assert verdict.constraint == turnwise.Constraint("unique")
    constraint = turnwise.Constraint(
        "unique", name="user_email_key", table="user", columns=("email",)
    )
    told = verdict.with_constraint(constraint)
    assert told.constraint == constraint
    assert (told.rule, told.sqlstate, told.why) == (verdict.rule, "23505", verdict.why)
    assert told != verdict
    assert hash(told) == hash(verdict.with_constraint(constraint))
    assert told.with_constraint(None).constraint is None


def test_a_constraint_is_frozen() -> None:
    constraint = turnwise.Constraint("check", columns=["price"])
    assert (constraint.kind, constraint.name, constraint.table) == ("check", None, None)
    assert constraint.columns == ("price",)
    assert "price" in repr(constraint)
    with pytest.raises(AttributeError):
        constraint.name = "positive"
    with pytest.raises(ValueError, match="kind is 'chek'"):
        turnwise.Constraint("chek")
    with pytest.raises(TypeError):
        turnwise.Constraint("check", columns="price")


def test_what_is_no_databases_error_changes_nothing() -> None:
    verdict = turnwise.Verdict.foreign()
    assert (verdict.rule, verdict.class_, verdict.dialect) == ("default.foreign", "unlisted", None)
    assert (verdict.fate, verdict.scope, verdict.retry) == ("intact", "never", "none")


def test_an_override_takes_a_sqlstate() -> None:
    words = {"class_": "constraint", "fate": "aborted", "scope": "transaction", "retry": "redo"}
    own = turnwise.Override(dialect="postgresql", code="23000", constraint="unique", **words)
    assert own == turnwise.Override(
        dialect="postgresql", code=_native.sqlstate("23000"), constraint="unique", **words
    )
    assert "code=23000" in repr(own)
    verdict = turnwise.classify_code("postgresql", "23505", overrides=(own,))
    assert (verdict.rule, verdict.retry) == ("override", "redo")


@pytest.mark.parametrize("dialect", ["postgresql", "mysql", "mariadb"])
def test_a_commit_is_sent_again_on_sqlite_alone(dialect: str) -> None:
    words = {"class_": "contention", "fate": "intact", "scope": "commit", "retry": "wait"}
    turnwise.Override(dialect="sqlite", code=5, phase="commit", **words)
    with pytest.raises(errors.InvalidPolicyError, match="only SQLite"):
        turnwise.Override(dialect=dialect, code=1205, phase="commit", **words)


def test_the_rules_can_be_listed() -> None:
    rules = _native.rules()
    assert [*dict.fromkeys(rule["dialect"] for rule in rules)] == [*_native.enums()["Dialect"]]
    assert len({rule["id"] for rule in rules}) == len(rules)
    (rule,) = (rule for rule in rules if rule["id"] == "postgresql.lock_not_available")
    assert rule == {
        "dialect": "postgresql",
        "id": "postgresql.lock_not_available",
        "codes": ["55P03"],
        "phases": ["statement", "savepoint", "commit"],
        "when": "always",
        "sqlstate": None,
        "class_": "contention",
        "fate": "aborted",
        "fate_if_open": "aborted",
        "scope": "savepoint",
        "retry": "wait",
        "constraint": None,
        "why": rule["why"],
    }
    assert rule["why"].startswith("measured: ")
