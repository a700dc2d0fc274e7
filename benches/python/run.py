"""Runs the benches and writes what came of them. `make bench` calls it.

Every number comes from a fresh file on a disk, and the rows in the file are counted after each round.
Each side of the story runs in a process of its own; the sides take turns, and another goes first
in each round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import warnings
from dataclasses import replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import goals
import report
import sorted_batches
import turns
from sides import SIDES, THREADS
from turnwise.cli.machine import MEMORY_FILE_SYSTEMS, file_system, machine

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RUST = ROOT / "target" / "release" / "turnwise-benches"
SIZES = {"story": 288, "ten_stories": 2880}
QUICK_SIZES = {"story": 288, "ten_stories": 576}
# Seconds; a side that takes longer is cut, and the table says so.
TIME_LIMIT = 120.0
QUICK_TIME_LIMIT = 1.0
ROUNDS = 7
MEMORY = "/dev/shm"  # noqa: S108 - each run makes a folder of its own there


def main() -> int:
    """Runs the parts that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="a smoke run of some seconds")
    parser.add_argument("--only", choices=list(PARTS), help="one part")
    parser.add_argument("--rounds", type=int, help=f"default: {ROUNDS}, turns: {turns.FULL.rounds}")
    parser.add_argument("--dir", type=Path, default=ROOT / "target" / "benches", help="on a disk")
    parser.add_argument("--seconds", type=float, default=600.0, help="of each load of outsider")
    parser.add_argument("--memory", default=MEMORY, help="for the simulated disk of turns")
    parser.add_argument("--results", type=Path, help="where to write; default: benches/results")
    parser.add_argument("--page", type=Path, metavar="JSON", help="only write its page anew")
    wanted = parser.parse_args()
    if wanted.page is not None:
        report.write(json.loads(wanted.page.read_text(encoding="utf-8")), wanted.page.parent)
        return 0
    warnings.simplefilter("ignore", RuntimeWarning)
    if wanted.results is None:
        wanted.results = ROOT / ("target/benches-quick" if wanted.quick else "benches/results")
    if wanted.rounds is None:
        wanted.rounds = turns.FULL.rounds if wanted.only in TURNS else ROUNDS
    if wanted.quick:
        wanted.rounds = 1
    wanted.dir.mkdir(parents=True, exist_ok=True)
    if file_system(str(wanted.dir)) in MEMORY_FILE_SYSTEMS and not wanted.quick:
        parser.error(
            f"{wanted.dir} is in memory, where a flush costs nothing; name a --dir on a disk"
        )
    with tempfile.TemporaryDirectory(dir=wanted.dir) as name:
        raw, page = report.write(measure(wanted, name), wanted.results)
    print(page.read_text(encoding="utf-8"))
    print(f"written: {raw}\nwritten: {page}")
    parts = json.loads(raw.read_text(encoding="utf-8"))["parts"]
    wrong = [line for name in TURNS & parts.keys() for line in turns.wrong(parts[name])]
    for line in wrong:
        print(f"THE FILE DOES NOT HOLD WHAT WAS ACKNOWLEDGED: {line}", file=sys.stderr)
    return 1 if wrong else 0


def measure(wanted: argparse.Namespace, folder: str) -> dict[str, Any]:
    """All results, ready for JSON."""
    load = os.getloadavg()[0]
    about = machine(folder) | {"processor": processor()}
    names = [wanted.only] if wanted.only else [name for name in PARTS if name not in APART]
    parts = {name: PARTS[name](wanted, folder) for name in names}
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "what": wanted.only or "all",
        "quick": wanted.quick,
        "rounds": wanted.rounds,
        "machine": about,
        "versions": versions(about),
        "load": [load, os.getloadavg()[0]],
        "commit": output("git", "describe", "--always", "--dirty") or "unknown",
        "goals": goals.judge(parts),
        "parts": parts,
    }


def story(wanted: argparse.Namespace, folder: str) -> dict[str, Any]:
    """The story and ten times the story: all sides in turn, in each round."""
    sizes: dict[str, dict[str, Any]] = {}
    limit = QUICK_TIME_LIMIT if wanted.quick else TIME_LIMIT
    for title, size in QUICK_SIZES.items() if wanted.quick else SIZES.items():
        rounds: list[dict[str, Any]] = []
        sizes[title] = {"writes": size, "rounds": rounds}
        for number in range(wanted.rounds):
            names = list(SIDES)
            names = names[number % len(names) :] + names[: number % len(names)]
            sides = {}
            for name in names:
                say(f"story, {size} saves, round {number + 1} of {wanted.rounds}: {name}")
                path = os.path.join(folder, f"{size}-{number}-{name}.db")
                sides[name] = side = child("sides.py", name, path, size, limit)
                if not side["consistent"] or (name == "turnwise" and side["landed"] != size):
                    raise SystemExit(f"the file does not hold what was acknowledged: {side}")
                for end in ("", "-wal", "-shm"):
                    Path(path + end).unlink(missing_ok=True)
            rounds.append({name: sides[name] for name in SIDES})
    return {"threads": THREADS, "time_limit_s": limit, "sizes": sizes}


def alone(wanted: argparse.Namespace, folder: str) -> dict[str, Any]:
    """One thread alone beside `sqlite3`."""
    say("one thread alone")
    return child("alone.py", folder, wanted.rounds, 2 if wanted.quick else 40, goals.ROWS)


def loop(wanted: argparse.Namespace, folder: str) -> dict[str, Any]:
    """How long an event loop is kept from its other work."""
    say("event loop")
    return child("loop_time.py", folder, wanted.rounds, 0.2 if wanted.quick else 4.0)


def rust(wanted: argparse.Namespace, folder: str) -> dict[str, Any]:
    """The core beside bare rusqlite."""
    say("Rust")
    options = ["--quick"] if wanted.quick else [str(wanted.rounds)]
    return run([str(RUST), "all", folder, *options])


def decorators(wanted: argparse.Namespace, folder: str) -> dict[str, Any]:
    """What a decorator costs beside others."""
    say("decorators")
    return child("decorators.py", wanted.rounds, 2 if wanted.quick else 200, 500)


def across(wanted: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Processes that write one file."""
    return turns.measure(plan(wanted), folder, wanted.memory, say)


def outsider(wanted: argparse.Namespace, folder: str) -> dict[str, Any]:
    """A writer that knows nothing of turnwise beside them, for long."""
    one = plan(wanted)
    if not wanted.quick:
        one = replace(one, rounds=1, outsider_window=wanted.seconds)
    return turns.outsiders(one, folder, wanted.memory, say)


def batches(wanted: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Batches that lock the same rows, on private servers."""
    much = {"workers": 3, "batches": 3} if wanted.quick else {}
    return sorted_batches.measure(sorted_batches.Plan(wanted.rounds, **much), say)


def plan(wanted: argparse.Namespace) -> turns.Plan:
    """How much is measured of processes that write one file."""
    return turns.QUICK if wanted.quick else replace(turns.FULL, rounds=wanted.rounds)


def installed(wanted: argparse.Namespace, folder: str) -> dict[str, Any]:
    """An engine with `turnwise.install` beside a bare one."""
    say("installed engines")
    return child("installed.py", folder, wanted.rounds, 2 if wanted.quick else 20)


def tracker(wanted: argparse.Namespace, folder: str) -> dict[str, Any]:
    """Watched sessions beside others, and the watchdog's scan."""
    say("watched sessions")
    found = child("tracker.py", folder, wanted.rounds, 2 if wanted.quick else 20)
    scan = run([str(RUST), "scan", str(wanted.rounds), "5" if wanted.quick else "2001"])
    rounds = [{"turnwise": one["scan"]} for one in scan["rounds"]]
    found["measures"]["scan of 4,096 leases"] = {"unit": "s", "rounds": rounds}
    return found


PARTS = {
    "story": story,
    "alone": alone,
    "loop": loop,
    "rust": rust,
    "decorators": decorators,
    "turns": across,
    "outsider": outsider,
    "installed": installed,
    "tracker": tracker,
    "sorted-batches": batches,
}
DECORATORS = ("tenacity", "stamina", "backoff", "oslo.db")
TURNS = {"turns", "outsider"}
APART = {*TURNS, "installed", "tracker", "sorted-batches"}
"""Parts that run only when they are named."""


def child(script: str, *arguments: object) -> dict[str, Any]:
    """Runs a script of this folder in a process of its own."""
    return run([sys.executable, str(HERE / script), *map(str, arguments)])


def run(command: list[str]) -> dict[str, Any]:
    """Runs a command that prints JSON."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"failed: {' '.join(command)}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def say(text: str) -> None:
    """Tells whoever waits how far it is."""
    print(f"... {text}", file=sys.stderr, flush=True)


def processor() -> str:
    """The processor's name, as the kernel tells it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r"model name\s*:\s*(.*)", text)
    return found.group(1) if found else platform.machine()


def versions(about: dict[str, Any]) -> dict[str, str]:
    """Everything that a number depends on and that can be upgraded."""
    import apsw

    return {
        "turnwise": about["turnwise"],
        "Python": about["python"],
        "SQLite of Python": about["python_sqlite"],
        "peewee": version("peewee"),
        "apsw": apsw.apsw_version(),
        **{name: version(name) for name in DECORATORS},
        "rustc": output("rustc", "--version").removeprefix("rustc "),
    }


def output(*command: str) -> str:
    """What a command prints, or nothing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
