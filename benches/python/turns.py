"""The bench across processes: who gets how many turns at one file, and how long each waits for his.

Closed loops of all sides in both layouts, on both disks; an open loop at part of the load; a writer
that knows nothing of turnwise beside a full load; one writer alone; and what happens when a holder
is killed. The sides take turns, and another goes first in each round.
"""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import turn_scenes
from crowd import HERE, ROOT, Disk, Outcome, Party, crowd, fresh, together
from turn_sides import KEYS, LEVELS, SIDES, THREADS, prepare, remove
from turnwise.cli.machine import MEMORY_FILE_SYSTEMS, file_system

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Say = Callable[[str], None]

SLOW_DISK_US = 1000
OUTSIDER_PAUSE = 0.02
PART_LOAD = 384
"""Writes per second in the open loop: 45 % of what a 1 ms disk takes in transactions of one row."""
PART_LOAD_SIDES = (
    ("timeout", "full"),
    ("handler", "full"),
    ("dropin", "full"),
    ("batch", "full"),
    ("batch", "pipelined"),
)
OURS = {"dropin", "batch", "batch_rust", "batch_alone"}
OUTSIDER_SIDES = {
    "slow": (("timeout", "full"), ("dropin", "full"), ("batch", "full"), ("batch", "pipelined")),
    "real": (("batch", "full"), ("batch", "pipelined")),
}


@dataclass(frozen=True)
class Plan:
    """How much is measured; times in seconds."""

    rounds: int
    layouts: dict[str, tuple[int, int]]
    """Processes, and threads of each."""
    levels: tuple[str, ...]
    window: float
    part_load_window: float
    outsider_window: float
    kills: int
    look: float
    """How long queued threads are looked at."""
    blocks: int


FULL = Plan(3, {"1x58": (1, 58), "8x8": (8, 8)}, LEVELS, 2.0, 5.0, 4.0, 120, 1.0, 60)
QUICK = Plan(1, {"1x58": (1, 6), "8x8": (2, 3)}, LEVELS[1:], 0.1, 0.2, 0.2, 2, 0.1, 2)


class Bench:
    """One run."""

    def __init__(self, plan: Plan, disks: dict[str, Disk], say: Say) -> None:
        self.plan = plan
        self.disks = disks
        self.say = say
        self.templates: dict[str, str] = {}
        for name, disk in disks.items():
            self.templates[name] = os.path.join(disk.folder, "template.db")
            prepare(self.templates[name])
        self.absent = self._absent()

    def _absent(self) -> dict[str, dict[str, str]]:
        disk = self.disks["real"]
        found = disk.told(HERE / "turn_worker.py", "--probe", disk.folder)
        found["batch_rust"] = found["batch"]
        absent = {
            side: {level: why for level, why in levels.items() if why is not None}
            for side, levels in found.items()
        }
        for side, levels in absent.items():
            for level, why in levels.items():
                self.say(f"NOT MEASURED: {SIDES[side].label} at {level}: {why}")
        return {side: levels for side, levels in absent.items() if levels}

    def has(self, side: str, level: str) -> bool:
        """Whether the side can be measured."""
        return level in SIDES[side].levels and level not in self.absent.get(side, {})

    def path(self, disk: str, side: str) -> str:
        """A fresh file for the side."""
        path = os.path.join(self.disks[disk].folder, f"{side}.db")
        fresh(self.templates[disk], path)
        return path

    def parties(
        self, disk: str, layout: str, side: str, level: str, seconds: float, **settings: float
    ) -> list[Party]:
        """The processes of one side, on a fresh file."""
        processes, threads = self.plan.layouts[layout]
        path = self.path(disk, side)
        return [
            Party(side, path, level, number * threads, threads, seconds, **settings)  # type: ignore[arg-type]
            for number in range(processes)
        ]

    def run(self, disk: str, parties: list[Party]) -> list[Outcome]:
        """Runs the processes, and removes their file."""
        outcomes = crowd(self.disks[disk], parties)
        remove(parties[0].path)
        return outcomes

    def closed_loops(self, number: int) -> dict[str, dict[str, Any]]:
        """Every side in every layout on every disk, by the cell's name."""
        cells: dict[str, dict[str, Any]] = {}
        for disk in self.disks:
            for layout in self.plan.layouts:
                for level in self.plan.levels:
                    name = f"{disk}/{layout}/{level}"
                    sides = {}
                    for side in in_turn([s for s in SIDES if self.has(s, level)], number):
                        self.say(f"turns, round {number + 1} of {self.plan.rounds}: {name}, {side}")
                        parties = self.parties(disk, layout, side, level, self.plan.window)
                        sides[side] = together(self.run(disk, parties))
                    if sides:
                        cells[name] = {side: sides[side] for side in SIDES if side in sides}
        return cells

    def part_load(self, number: int) -> dict[str, Any]:
        """The open loop, on the slow disk."""
        sides = {}
        processes, threads = self.plan.layouts["8x8"]
        every = processes * threads / PART_LOAD
        for side, level in in_turn(PART_LOAD_SIDES, number):
            if self.has(side, level):
                self.say(f"turns, round {number + 1}: part load, {side} {level}")
                parties = self.parties(
                    "slow", "8x8", side, level, self.plan.part_load_window, every=every, seed=number
                )
                sides[f"{side}/{level}"] = together(self.run("slow", parties))
        return sides

    def outsider(self, number: int) -> dict[str, Any]:
        """A writer with plain `sqlite3` beside a full load, and that load without it."""
        cells: dict[str, Any] = {}
        for disk, sides in OUTSIDER_SIDES.items():
            for side, level in in_turn(sides, number):
                if not self.has(side, level):
                    continue
                name = f"{disk}/{side}/{level}"
                self.say(f"turns, round {number + 1}: outsider beside {name}")
                cells[name] = self.beside(disk, side, level, self.plan.outsider_window)
        return cells

    def beside(self, disk: str, side: str, level: str, seconds: float) -> dict[str, Any]:
        """One load with an outsider and without."""
        without = together(self.run(disk, self.parties(disk, "8x8", side, level, seconds)))
        parties = self.parties(disk, "8x8", side, level, seconds)
        outsider = Party(
            "timeout", parties[0].path, "full", THREADS - 1, 1, seconds, pause=OUTSIDER_PAUSE
        )
        *load, alone = self.run(disk, [*parties, outsider])
        return {"outsider": together([alone]), "beside": together(load), "without": without}


def in_turn(sides: Any, number: int) -> Iterator[Any]:  # noqa: ANN401
    """Another goes first in each round."""
    at = number % max(1, len(sides))
    yield from (*sides[at:], *sides[:at])


def measure(plan: Plan, folder: str, memory: str, say: Say) -> dict[str, Any]:
    """Everything, as JSON."""
    with bench(plan, folder, memory, say) as one:
        closed, part, outsider = [], [], []
        for number in range(plan.rounds):
            closed.append(one.closed_loops(number))
            part.append(one.part_load(number))
            outsider.append(one.outsider(number))
        return about(one) | {
            "closed": closed,
            "part_load": part,
            "outsider": outsider,
            **turn_scenes.measure(one),
        }


def outsiders(plan: Plan, folder: str, memory: str, say: Say) -> dict[str, Any]:
    """The outsider alone, for as long as the plan says."""
    with bench(plan, folder, memory, say) as one:
        return about(one) | {"outsider": [one.outsider(n) for n in range(plan.rounds)]}


@contextmanager
def bench(plan: Plan, folder: str, memory: str, say: Say) -> Iterator[Bench]:
    """A bench with both disks."""
    if file_system(memory) not in MEMORY_FILE_SYSTEMS:
        raise SystemExit(f"{memory} is not in memory; name another with --memory")
    with tempfile.TemporaryDirectory(dir=memory) as fast:
        yield Bench(plan, {"real": Disk("real", folder), "slow": slow_disk(folder, fast)}, say)


def about(one: Bench) -> dict[str, Any]:
    """What a reader of the figures must know."""
    return {
        "settings": asdict(one.plan)
        | {"outsider_pause": OUTSIDER_PAUSE, "part_load": PART_LOAD, "rows": THREADS * KEYS},
        "labels": {name: side.label for name, side in SIDES.items()},
        "flush_ms": {name: flush_ms(disk) for name, disk in one.disks.items()},
        "absent": one.absent,
    }


def slow_disk(built: str, folder: str) -> Disk:
    """A disk in memory whose syncs take a millisecond."""
    sys.path.append(str(ROOT / "tools"))
    from preloading import preloadable

    library = preloadable(ROOT / "tools" / "slow_disk.c", Path(built))
    environment = {"LD_PRELOAD": str(library), "SLOW_DISK_US": str(SLOW_DISK_US)}
    return Disk("slow", folder, environment)


def flush_ms(disk: Disk) -> float:
    """What one flush takes there."""
    code = "import sys, turnwise.cli.machine as m; print('{\"ms\":', m.flush_ms(sys.argv[1]), '}')"
    return round(disk.told("-c", code, disk.folder)["ms"], 3)


def wrong(part: dict[str, Any]) -> Iterator[str]:
    """Where a side of ours, or an outsider beside it, lost or doubled a save."""
    told: dict[str, dict[str, Any]] = {}
    for number, cells in enumerate(part.get("closed", [])):
        for cell, sides in cells.items():
            told |= {f"round {number + 1}, {cell}/{side}": one for side, one in sides.items()}
    for number, sides in enumerate(part.get("part_load", [])):
        told |= {f"round {number + 1}, part load/{side}": one for side, one in sides.items()}
    for number, cells in enumerate(part["outsider"]):
        for cell, ways in cells.items():
            told |= {f"round {number + 1}, {cell}/{way}": one for way, one in ways.items()}
    for name, one in told.items():
        if OURS & set(name.split("/")) and (one["lost"] or one["doubled"]):
            yield f"{name}: lost {one['lost']}, doubled {one['doubled']}"
    for scene in ("kills", "queued"):
        for name, one in part.get(scene, {}).items():
            if OURS & set(name.split("/")) and one["landed"] != one["saves"]:
                yield f"{scene} {name}: {one['landed']} of {one['saves']} saves"
