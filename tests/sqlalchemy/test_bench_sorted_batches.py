"""The bench of sorted batches runs, and verifies what it writes. Nothing here looks at times."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.parametrize("name", ["postgresql", "mariadb"])
def test_both_sides_commit_every_batch(request, monkeypatch, name):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benches" / "python")
    import sorted_batches

    plan = sorted_batches.Plan(1, workers=2, batches=3, size=5, rows=20)
    said = []
    one = sorted_batches.beside(plan, request.getfixturevalue(name), said.append)
    (sides,) = one["rounds"]
    assert [side["committed"] for side in sides.values()] == [6, 6]
    assert sides["sorted"]["aborted"] == 0
    assert len(said) == 2
    part = {"workers": 2, "batches": 3, "size": 5, "rows": 20, "servers": {name: one}}
    assert sum(name in line for line in sorted_batches.as_lines(part)) == 2
