"""The committed table of rules is the one that its data file gives."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

TABLE = ("crates", "core", "src", "classify", "table.rs")


def generate(repository, target):
    script = repository / "tools" / "generate_rules.py"
    return subprocess.run(
        [sys.executable, str(script), str(target)], capture_output=True, text=True, check=False
    )


def test_the_table_is_up_to_date(repository, tmp_path):
    fresh = tmp_path / "table.rs"
    assert generate(repository, fresh).returncode == 0
    committed = repository.joinpath(*TABLE)
    assert committed.read_text(encoding="utf-8") == fresh.read_text(encoding="utf-8"), (
        "run `make rules` and commit " + "/".join(TABLE)
    )


def test_one_rule_is_one_line(repository):
    text = (repository / "crates" / "core" / "rules.json").read_text(encoding="utf-8")
    rows = [*json.loads(text)["rules"], *json.loads(text)["texts"]]
    lines = [line.rstrip(",") for line in text.splitlines() if line.startswith('{"')]
    assert [json.loads(line) for line in lines] == rows


@pytest.mark.parametrize("key", ["scope", "why"])
def test_a_wrong_key_is_named(repository, tmp_path, key):
    for part in ("tools/generate_rules.py", "crates/core/rules.json"):
        copy = tmp_path / part
        copy.parent.mkdir(parents=True)
        text = (repository / part).read_text(encoding="utf-8")
        copy.write_text(text.replace(f'"{key}": ', f'"{key}s": ', 1), encoding="utf-8")
    done = generate(tmp_path, tmp_path / "table.rs")
    assert done.returncode != 0
    assert f"these keys are unknown or missing: ['{key}', '{key}s']" in done.stderr
