"""Every rule that says that it was measured is shown on a server here, or is named as unreached."""

from __future__ import annotations

from pathlib import Path

import pytest

import test_facts_mariadb
import test_facts_postgresql
from scenes import verdict_of
from turnwise import _native
from unreached import ELSEWHERE

SCENES = {"postgresql": test_facts_postgresql.SCENES, "mariadb": test_facts_mariadb.SCENES}


@pytest.mark.parametrize("dialect", SCENES)
def test_every_measured_rule_is_shown(dialect) -> None:
    measured = {
        rule["id"]
        for rule in _native.rules()
        if rule["dialect"] == dialect and rule["why"].startswith("measured")
    }
    shown = {verdict_of(dialect, scene).rule for scene in SCENES[dialect]}
    assert measured - shown - set(ELSEWHERE) == set()


def test_what_is_said_to_be_shown_elsewhere_is_there() -> None:
    text = "".join(path.read_text() for path in Path(__file__).parent.glob("test_facts_*.py"))
    assert [name for name in ELSEWHERE.values() if f"def {name}" not in text] == []
    rules = {rule["id"] for rule in _native.rules()}
    assert set(ELSEWHERE) <= rules
