"""Crowds of processes that write one file, on the disks of the bench across processes."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time
from bisect import bisect_left
from collections import Counter
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turn_sides import SIDES, landed, remove

if TYPE_CHECKING:
    from collections.abc import Iterable

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RUST = ROOT / "target" / "release" / "turnwise-benches"
MARGIN = 0.1
"""Seconds from the last `ready` to the start."""


@dataclass(frozen=True)
class Disk:
    """Where files lie, and how a process sees that disk."""

    name: str
    folder: str
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, command: list[str], stdin: int | None = None) -> subprocess.Popen[str]:
        """A process that sees this disk."""
        environment = {**os.environ, **self.environment, "PYTHONWARNINGS": "ignore"}
        return subprocess.Popen(
            command, env=environment, stdin=stdin, stdout=subprocess.PIPE, text=True
        )

    def told(self, *command: object) -> dict[str, Any]:
        """What a script of this folder prints as JSON."""
        with self.run([sys.executable, *map(str, command)]) as process:
            text, _ = process.communicate()
        if process.returncode != 0:
            raise SystemExit(f"failed: {command}")
        result: dict[str, Any] = json.loads(text)
        return result


@dataclass(frozen=True)
class Party:
    """What one process of a crowd does."""

    side: str
    path: str
    level: str
    first: int
    threads: int
    seconds: float
    every: float = 0.0
    """Seconds between the intended starts of a thread's saves; 0: each follows the one before."""
    pause: float = 0.0
    """Seconds that a thread waits after each save."""
    seed: int = 0

    def command(self) -> list[str]:
        """How it is started."""
        spec = json.dumps(asdict(self))
        if SIDES[self.side].open is None:
            return [str(RUST), "party", spec]
        return [sys.executable, str(HERE / "turn_worker.py"), spec]


@dataclass
class Outcome:
    """What a process came to."""

    party: Party
    threads: list[dict[str, Any]]
    stats: dict[str, int]
    landed: int = 0

    def count(self, what: str) -> int:
        """The sum over its threads."""
        return sum(thread[what] for thread in self.threads)

    @property
    def lost(self) -> int:
        """Saves that were acknowledged and are not in the file."""
        return max(0, self.count("acknowledged") - self.landed)

    @property
    def doubled(self) -> int:
        """Saves in the file that nobody owns to."""
        return max(0, self.landed - self.count("acknowledged") - self.count("in_doubt"))


def fresh(template: str, path: str) -> None:
    """A copy of the prepared file."""
    remove(path)
    shutil.copyfile(template, path)


def crowd(disk: Disk, parties: list[Party]) -> list[Outcome]:
    """Runs the processes together, and counts what they left in the file."""
    processes = [disk.run(party.command(), stdin=subprocess.PIPE) for party in parties]
    try:
        for process in processes:
            if process.stdout.readline() != "ready\n":  # type: ignore[union-attr]
                raise SystemExit(f"not ready: {parties[0]}")
        start = time.time() + MARGIN
        for process in processes:
            process.stdin.write(f"{start}\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
        outcomes = []
        for party, process in zip(parties, processes, strict=True):
            text, _ = process.communicate(timeout=party.seconds + 120)
            if process.returncode != 0:
                raise SystemExit(f"failed: {party}")
            told = json.loads(text)
            outcomes.append(Outcome(party, told["threads"], told["stats"]))
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for outcome in outcomes:
        party = outcome.party
        outcome.landed = landed(party.path, party.first, party.threads)
    return outcomes


def together(outcomes: list[Outcome]) -> dict[str, Any]:
    """The columns of the table: one side in one round."""
    seconds = outcomes[0].party.seconds
    saves = sum(outcome.count("in_window") for outcome in outcomes)
    shares = [outcome.count("in_window") for outcome in outcomes]
    if len(outcomes) == 1:
        shares = [thread["in_window"] for thread in outcomes[0].threads]
    ended = max(thread["ended"] for one in outcomes for thread in one.threads) or seconds
    stats: dict[str, int] = {}
    for outcome in outcomes:
        for name, value in outcome.stats.items():
            stats[name] = stats.get(name, 0) + value
    errors = [thread["error"] for outcome in outcomes for thread in outcome.threads]
    return {
        "per_second": saves / seconds,
        "per_second_to_end": sum(one.count("acknowledged") for one in outcomes) / ended,
        "wait_ms": waits_ms(thread for outcome in outcomes for thread in outcome.threads),
        "jain": jain(shares),
        "failed": sum(outcome.count("failed") for outcome in outcomes),
        "in_doubt": sum(outcome.count("in_doubt") for outcome in outcomes),
        "lost": sum(outcome.lost for outcome in outcomes),
        "doubled": sum(outcome.doubled for outcome in outcomes),
        "error": next((error for error in errors if error), None),
        "stats": stats,
    }


def waits_ms(threads: Iterable[dict[str, Any]]) -> dict[str, float]:
    """p50, p99 and max of all waits by nearest rank; empty for no waits."""
    counts: Counter[int] = Counter()
    for thread in threads:
        for wait, count in thread["waits_us"]:
            counts[wait] += count
    waits = sorted(counts)
    ranks = list(accumulate(counts[wait] for wait in waits))
    if not waits:
        return {}
    shares = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {
        name: waits[bisect_left(ranks, math.ceil(share * ranks[-1]))] / 1000
        for name, share in shares.items()
    }


def jain(shares: list[int]) -> float:
    """Jain's index: 1 when all have the same, 1/n when one has everything, 0 when none has any."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 0.0
