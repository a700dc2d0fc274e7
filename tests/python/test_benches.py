"""The benches run, verify what they write, and say what they found. Nothing here looks at times."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

SIDES = ["stdlib_timeout", "by_hand", "by_hand_jitter", "constant_handler", "peewee", "turnwise"]


@pytest.fixture(scope="module")
def scripts(repository):
    return repository / "benches" / "python"


@pytest.fixture(scope="module")
def report(scripts, tmp_path_factory):
    """The folder of a smoke run's results, with a reason for one of the goals."""
    folder = tmp_path_factory.mktemp("benches")
    results = folder / "results"
    results.mkdir()
    (results / "NOTES.md").write_text("- `loop-python`: the switch interval\n", encoding="utf-8")
    command = [sys.executable, scripts / "run.py", "--quick", "--results", results]
    done = subprocess.run(
        [*map(str, command), "--dir", str(folder / "files")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list((folder / "files").iterdir()) == []
    return results


@pytest.fixture(scope="module")
def results(report):
    (raw,) = report.glob("*-all-quick.json")
    return json.loads(raw.read_text(encoding="utf-8"))


def test_every_part_keeps_its_raw_rounds(results):
    parts = results["parts"]
    for size in parts["story"]["sizes"].values():
        assert [list(one) for one in size["rounds"]] == [SIDES]
        for side in size["rounds"][0].values():
            assert side["consistent"]
            assert side["writes"] == size["writes"]
        assert size["rounds"][0]["turnwise"]["landed"] == size["writes"]
    for part in ("alone", "rust"):
        for measure in parts[part]["measures"].values():
            (one,) = measure["rounds"]
            assert len(one) == 2
            assert min(one.values()) > 0
    for name, (one,) in parts["loop"]["measures"].items():
        assert one["steps"] > 0
        assert (one["writes"] > 0) == name.endswith("writing")


def test_the_machine_and_the_versions_are_named(results):
    assert {"processor", "cpus", "system", "file_system", "flush_ms"} <= set(results["machine"])
    ours = {"turnwise", "Python", "SQLite of Python", "rustc"}
    peers = {"peewee", "apsw", "tenacity", "stamina", "backoff", "oslo.db"}
    assert ours | peers == set(results["versions"])
    assert all(results["versions"].values())


def test_the_page_says_of_every_goal_whether_it_is_met(results, report):
    (page,) = report.glob("*-all-quick.md")
    text = page.read_text(encoding="utf-8")
    assert "smoke run" in text
    for goal in results["goals"]:
        (line,) = [
            line
            for line in text.splitlines()
            if line.endswith("|") and f"(`{goal['key']}`)" in line
        ]
        bounded = goal["at_least"] is not None or goal["at_most"] is not None
        assert ("| met |" in line) == (goal["met"] is True)
        assert ("missed by" in line) == (goal["met"] is False)
        assert bounded == (goal["met"] is not None)


def test_a_missed_goal_is_told_with_the_reason_that_was_written_down(scripts, results, report):
    told = subprocess.run(
        [sys.executable, "-c", AGAIN, scripts, report],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    assert "missed by 50%" in told
    assert "- `waiting-full` is missed: no reason given" in told
    assert "- `loop-python` is missed: the switch interval" in told


# A report of figures that miss: half of a lower bound, three times an upper one.
AGAIN = """
import json, sys
from pathlib import Path
scripts, folder = sys.argv[1], Path(sys.argv[2])
sys.path.insert(0, scripts)
import goals, report
(raw,) = folder.glob("*-all-quick.json")
results = json.loads(raw.read_text())
rust = results["parts"]["rust"]["measures"]["waiting_full"]
rust["rounds"] = [{"turnwise": 0.175, "rusqlite": 1}]
results["parts"]["loop"]["measures"]["python_writing"][0]["blocked_ms"]["max"] = 3
results["goals"] = goals.judge(results["parts"])
print(report.as_text(results, report.reasons(folder / "NOTES.md"), raw.name))
"""


def test_the_picture_shows_every_side_with_its_time_and_what_landed(scripts, results, tmp_path):
    # As a run of some length may end: a side that lost writes.
    size = results["parts"]["story"]["sizes"]["story"]
    size["rounds"][0]["by_hand"].update(landed=236, seconds=1.5, cut=False)
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(results), encoding="utf-8")
    picture = tmp_path / "story.svg"
    subprocess.run([sys.executable, scripts / "picture.py", changed, picture], check=True)
    root = ET.parse(picture).getroot()
    texts = ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]
    for side in size["rounds"][0].values():
        assert texts.count(side["label"]) == 2
    assert "1.5 s, 236 of 288 landed" in texts
    assert "prefers-color-scheme: dark" in picture.read_text(encoding="utf-8")
    left, _, width, _ = map(float, root.get("viewBox").split())
    for bar in root.iter("{http://www.w3.org/2000/svg}rect"):
        assert left < float(bar.get("x")) + float(bar.get("width")) < width


def test_the_tools_are_pinned(repository):
    text = (repository / "benches" / "requirements.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert lines
    assert all("==" in line for line in lines)
