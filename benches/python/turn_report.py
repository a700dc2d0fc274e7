"""The page's tables of the bench across processes."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from table import short, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Part = dict[str, Any]

DISKS = {"real": "real disk", "slow": "simulated 1 ms disk"}
COLUMNS = (
    "writes/s",
    "to the end",
    "p50 ms",
    "p99 ms",
    "max ms",
    "Jain",
    "failed",
    "lost",
    "doubled",
)


def as_lines(part: Part) -> Iterator[str]:
    """Everything that was measured."""
    labels = part["labels"]
    yield "## Processes that write one file"
    yield ""
    flushes = ", ".join(f"{DISKS[name]} {short(ms)} ms" for name, ms in part["flush_ms"].items())
    yield (
        f"A flush: {flushes}. Medians of the rounds; max, failed, lost and doubled are the worst of "
        "them. `writes/s` counts the window, in which everybody writes; `to the end` counts until the last "
        "answer, with those who still wait when the others have stopped. Waits count from the call to its return, failures included. Jain's index is over "
        "processes, and over threads where there is one process. A lucky process that takes the lock "
        "again and again hides those who starve from the percentiles: look at max, Jain and failed. "
        "`lost`: acknowledged and not in the file; `doubled`: in the file and not acknowledged."
    )
    yield ""
    for side, levels in part["absent"].items():
        for level, why in levels.items():
            yield f"- **Not measured: {labels[side]} at {level.upper()}: {why}**"
    if part["absent"]:
        yield ""
    if "closed" in part:
        yield from _closed(part)
    yield from _outsider(part)
    if "kills" in part:
        yield from _scenes(part)


def _closed(part: Part) -> Iterator[str]:
    labels, plan = part["labels"], part["settings"]
    for name in part["closed"][0]:
        disk, layout, level = name.split("/")
        processes, threads = plan["layouts"][layout]
        yield f"### {processes} x {threads} threads, {level.upper()}, {DISKS[disk]}"
        yield ""
        rounds = [one[name] for one in part["closed"]]
        rows = [(labels[side], [one[side] for one in rounds]) for side in rounds[0]]
        yield from crowds(rows)
        yield ""
    yield f"### Open loop, {plan['part_load']} writes/s, 8 x 8, {DISKS['slow']}"
    yield ""
    yield "Waits count from the intended start."
    yield ""
    yield from crowds(
        (named(labels, name), [one[name] for one in part["part_load"]])
        for name in part["part_load"][0]
    )
    yield ""


def _outsider(part: Part) -> Iterator[str]:
    labels, plan = part["labels"], part["settings"]
    yield f"### An outsider: `sqlite3` with a 5 s timeout, {plan['outsider_pause']} s after each write"
    yield ""
    rows = []
    for name in part["outsider"][0]:
        disk, _, rest = name.partition("/")
        rounds = [one[name] for one in part["outsider"]]
        for who, label in (
            ("outsider", "the outsider beside"),
            ("beside", "beside it:"),
            ("without", "without it:"),
        ):
            rows.append(
                (f"{DISKS[disk]}, {label} {named(labels, rest)}", [one[who] for one in rounds])
            )
    yield from crowds(rows)
    yield ""


def _scenes(part: Part) -> Iterator[str]:
    labels = part["labels"]
    yield "### From SIGKILL of the holder to the next commit"
    yield ""
    rows = [("side", "disk", "kills", "p50 ms", "p99 ms", "max ms", "saves in the file")]
    for name, told in part["kills"].items():
        disk, side = name.split("/")
        figures = (short(told[one]) for one in ("p50", "p99", "max"))
        saves = f"{told['landed']} of {told['saves']}" if "saves" in told else "none"
        label = labels.get(side, "the kernel's `flock` by itself")
        rows.append((label, DISKS[disk], str(len(told["ms"])), *figures, saves))
    yield from table(rows)
    yield ""
    yield "### Threads that stand in line behind another process"
    yield ""
    rows = [("side", "threads", "wake-ups in a second, of the busiest", "system calls of all")]
    for side, told in part["queued"].items():
        calls = told["calls"]
        text = "no strace" if calls is None else ", ".join(f"{n} {calls[n]}" for n in sorted(calls))
        woken = short(told["wake_ups_per_second"])
        rows.append((labels[side], str(told["threads"]), woken, text or "none"))
    yield from table(rows)
    yield ""
    yield "### One thread alone, µs for a write"
    yield ""
    rows = [("language", "level", "side", "µs")]
    for language, levels in part["alone"][0].items():
        for level, sides in levels.items():
            for side in sides:
                found = [one[language][level][side] * 1e6 for one in part["alone"]]
                label = labels.get(side, "bare rusqlite")
                rows.append((language, level.upper(), label, short(statistics.median(found))))
    yield from table(rows)
    yield ""


def named(labels: dict[str, str], name: str) -> str:
    """A side and its level."""
    side, level = name.split("/")
    return f"{labels[side]}, {level.upper()}"


def crowds(sides: Iterable[tuple[str, list[Part]]]) -> Iterator[str]:
    """A row for each side, of all its rounds."""
    rows = [("side", *COLUMNS)]
    for label, rounds in sides:
        waits = [one["wait_ms"] for one in rounds if one["wait_ms"]]
        percents = [
            short(choose(one[name] for one in waits)) if waits else "none"
            for name, choose in (
                ("p50", statistics.median),
                ("p99", statistics.median),
                ("max", max),
            )
        ]
        rows.append(
            (
                label,
                *(
                    short(statistics.median(one[name] for one in rounds))
                    for name in ("per_second", "per_second_to_end")
                ),
                *percents,
                f"{statistics.median(one['jain'] for one in rounds):.4f}",
                *(str(max(one[kind] for one in rounds)) for kind in ("failed", "lost", "doubled")),
            )
        )
    yield from table(rows)
