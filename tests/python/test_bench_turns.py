"""The bench across processes runs, counts what it left in the files, and says what it could not measure."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from preloading import preloadable

PEERS = {"timeout", "handler", "by_hand", "peewee"}
COLUMNS = {"per_second", "wait_ms", "jain", "failed", "lost", "doubled"}


@pytest.fixture(scope="module")
def scripts(repository):
    return repository / "benches" / "python"


@pytest.fixture(scope="module")
def report(scripts, tmp_path_factory):
    """The folder of a smoke run's results."""
    folder = tmp_path_factory.mktemp("turns")
    results = folder / "results"
    command = [sys.executable, scripts / "run.py", "--quick", "--only", "turns"]
    done = subprocess.run(
        [*map(str, command), "--results", str(results), "--dir", str(folder / "files")],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list((folder / "files").iterdir()) == []
    return results


@pytest.fixture(scope="module")
def part(report):
    (raw,) = report.glob("*-turns-quick.json")
    return json.loads(raw.read_text(encoding="utf-8"))["parts"]["turns"]


def test_every_side_is_measured_or_said_to_be_absent(part, report):
    (page,) = report.glob("*-turns-quick.md")
    text = page.read_text(encoding="utf-8")
    (one,) = part["closed"]
    assert {name.split("/")[0] for name in one} == {"real", "slow"}
    assert {name.split("/")[1] for name in one} == {"1x58", "8x8"}
    for name, sides in one.items():
        level = name.split("/")[2]
        wanted = set(part["labels"]) - (PEERS | {"dropin"} if level == "pipelined" else set())
        absent = {side for side, levels in part["absent"].items() if level in levels}
        assert set(sides) == wanted - absent
        for told in sides.values():
            assert set(told) >= COLUMNS
            assert told["lost"] == told["doubled"] == 0
    for side, levels in part["absent"].items():
        assert side not in PEERS
        for level in levels:
            assert f"**Not measured: {part['labels'][side]} at {level.upper()}:" in text


def test_the_peers_and_the_batch_writer_write_in_every_measure(part):
    for sides in part["closed"][0].values():
        assert all(told["per_second"] > 0 for told in sides.values())
    assert {"timeout/full", "batch/full"} <= set(part["part_load"][0])
    beside = part["outsider"][0]["slow/batch/full"]
    assert beside["beside"]["per_second"] > 0
    assert beside["without"]["per_second"] > 0
    assert set(beside["outsider"]) >= COLUMNS
    for name in ("real/timeout", "slow/timeout", "real/batch", "slow/batch"):
        told = part["kills"][name]
        assert len(told["ms"]) == part["settings"]["kills"]
        assert min(told["ms"]) > 0
        assert told["landed"] == told["saves"]
    # The standard library's threads poll, whatever becomes of ours.
    assert part["queued"]["timeout"]["wake_ups_per_second"] > 0
    assert set(part["alone"][0]["rust"]["full"]) == {"batch", "batch_alone", "bare"}
    assert {"batch", "batch_alone", "timeout"} <= set(part["alone"][0]["python"]["normal"])


def test_the_page_judges_every_goal(report):
    (raw,) = report.glob("*-turns-quick.json")
    goals = json.loads(raw.read_text(encoding="utf-8"))["goals"]
    (page,) = report.glob("*-turns-quick.md")
    text = page.read_text(encoding="utf-8")
    assert {goal["key"] for goal in goals} >= {
        "turns-full-timeout",
        "turns-pipelined-peewee",
        "turns-failures-batch",
        "turns-part-load-batch-full",
        "turns-queued-calls-batch",
        "turns-killed-batch",
    }
    for goal in goals:
        (line,) = [
            line
            for line in text.splitlines()
            if line.endswith("|") and f"(`{goal['key']}`)" in line
        ]
        assert ("| not measured |" in line) == (goal["figure"] is None)
        assert ("missed by" in line) == (goal["met"] is False)


def test_a_lost_and_a_doubled_save_are_found(scripts, tmp_path):
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WRONG, scripts, tmp_path],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    assert json.loads(said) == {
        "sound": [False, False],
        "eaten": [True, False],
        "twice": [False, True],
        "told": ["round 1, slow/8x8/full/batch: lost 1, doubled 0"],
    }


# A trigger that takes back what was written, and one that writes again.
WRONG = """
import json, sqlite3, sys
scripts, folder = sys.argv[1:]
sys.path.insert(0, scripts)
import crowd, turn_sides, turns
template = f"{folder}/template.db"
turn_sides.prepare(template)
disk = crowd.Disk("real", folder)
found = {}
for name, more in (("sound", 0), ("eaten", -1), ("twice", 1)):
    path = f"{folder}/{name}.db"
    crowd.fresh(template, path)
    connection = sqlite3.connect(path)
    connection.execute(
        "CREATE TRIGGER wrong AFTER UPDATE ON topic WHEN new.id = 3 BEGIN"
        f" UPDATE topic SET revision = revision + {more} WHERE id = 3; END"
    )
    connection.close()
    (outcome,) = crowd.crowd(disk, [crowd.Party("timeout", path, "normal", 0, 1, 0.2)])
    assert outcome.count("acknowledged") > 4
    found[name] = [outcome.lost > 0, outcome.doubled > 0]
one = {"lost": 1, "doubled": 0}
part = {"closed": [{"slow/8x8/full": {"batch": one, "timeout": one}}], "outsider": []}
print(json.dumps({**found, "told": list(turns.wrong(part))}))
"""


def test_the_simulated_disk_is_slow_and_merges_flushes(tmp_path, repository):
    library = preloadable(repository / "tools" / "slow_disk.c", tmp_path)
    environment = {**os.environ, "LD_PRELOAD": str(library), "SLOW_DISK_US": "20000"}
    said = subprocess.run(
        [sys.executable, "-c", FLUSHES, tmp_path / "file"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        timeout=60,
    ).stdout
    alone, together = json.loads(said)
    assert alone >= 0.2
    # One after the other they would take 1.6 s.
    assert together < 1.0


FLUSHES = """
import json, os, sys, threading, time
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
def flush():
    for _ in range(5):
        os.fsync(fd)
        os.fdatasync(fd)
def timed(count):
    threads = [threading.Thread(target=flush) for _ in range(count)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - started
print(json.dumps([timed(1), timed(8)]))
"""


def test_the_columns_mean_what_they_say(scripts):
    said = subprocess.run(
        [sys.executable, "-c", COLUMNS_OF, scripts],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    assert json.loads(said) == [1.0, 0.125, 0.0, {"p50": 0.05, "p99": 0.099, "max": 7.0}, 1234000]


COLUMNS_OF = """
import json, sys
sys.path.insert(0, sys.argv[1])
import crowd, turn_worker
waits = [{"waits_us": [[us, 1] for us in range(1, 51)]},
         {"waits_us": [[us, 1] for us in range(51, 100)] + [[7000, 1]]}]
print(json.dumps([crowd.jain([5] * 8), crowd.jain([9] + [0] * 7), crowd.jain([0, 0]),
                  crowd.waits_ms(waits), turn_worker.digits(1234567)]))
"""
