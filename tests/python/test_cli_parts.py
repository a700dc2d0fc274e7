"""The parts of `turnwise write` whose mistakes would cost rows: ledger, parameter names."""

from __future__ import annotations

import random

import pytest

from turnwise.cli.ledger import Ledger
from turnwise.cli.options import line_ranges
from turnwise.cli.output import CommandError
from turnwise.cli.statement import parameter_names


def test_resume_and_skip_lines_name_exactly_the_settled_lines() -> None:
    draw = random.Random(1)
    for _ in range(500):
        ledger = Ledger(2)
        lines: list[int] = []
        line = 2
        for _ in range(draw.randrange(1, 30)):
            after = line + draw.choice([1, 1, 1, 2, 3])
            ledger.hand_out(line, after)
            lines.append(line)
            line = after + draw.choice([0, 0, 0, 1])
        settled = draw.sample(lines, draw.randrange(len(lines) + 1))
        for each in settled:
            outcome = draw.choice(["land", "reject", "lose_sight"])
            getattr(ledger, outcome)(*([[each], 0] if outcome == "land" else [each]))
        resume = ledger.resume_line
        skipped = [n for part in line_ranges(ledger.settled_beyond() or "999") for n in part]
        written_later = [n for n in lines if n >= resume and n not in skipped]
        assert written_later == [n for n in lines if n not in settled]
        assert ledger.unsettled == len(written_later)
        if len(settled) == len(lines):
            assert resume == after


def test_a_ledger_forgets_what_is_settled() -> None:
    ledger = Ledger(1)
    for line in range(1, 1000):
        ledger.hand_out(line, line + 1)
        ledger.land([line], 0)
    assert not ledger._open
    assert not ledger._settled


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("INSERT INTO t VALUES(:a, @b, $c, :a)", ["a", "b", "c"]),
        ("INSERT INTO t VALUES(':x', \":y\", `:z`, [:w], :a)", ["a"]),
        ("INSERT INTO t VALUES('it''s :x', :a) -- :y\n", ["a"]),
        ("/* :x\n */ INSERT INTO t VALUES(:größe)", ["größe"]),
        ("INSERT INTO t(a$b) VALUES(:a1)", ["a1"]),
    ],
)
def test_parameter_names(sql: str, names: list[str]) -> None:
    assert parameter_names(sql) == names


@pytest.mark.parametrize(
    "sql", ["INSERT INTO t VALUES(?)", "INSERT INTO t VALUES(?1, :a)", "INSERT INTO t VALUES(1)"]
)
def test_parameters_without_names_are_refused(sql: str) -> None:
    with pytest.raises(CommandError):
        parameter_names(sql)
