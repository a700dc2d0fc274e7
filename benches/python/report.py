"""Writes what was measured: all raw rounds as JSON, and a page of Markdown."""

from __future__ import annotations

import json
import re
import statistics
from typing import TYPE_CHECKING, Any

import sorted_batches
import turn_report
from table import short, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

Results = dict[str, Any]
TABLES = {
    "alone": "One thread alone, Python",
    "rust": "Rust",
    "decorators": "Decorators, on a call that succeeds",
    "installed": "Installed engines",
    "tracker": "Watched sessions",
}


def write(results: Results, folder: Path) -> tuple[Path, Path]:
    """Writes both files; a run of the same day and kind replaces them."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{results['date']}-{results['what']}{'-quick' if results['quick'] else ''}"
    raw, page = folder / f"{name}.json", folder / f"{name}.md"
    raw.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    page.write_text(as_text(results, reasons(folder / "NOTES.md"), raw.name), encoding="utf-8")
    return raw, page


def reasons(notes: Path) -> dict[str, str]:
    """Why a goal is missed, written by hand: lines such as "- `story-timeout`: because ..."."""
    if not notes.exists():
        return {}
    text = notes.read_text(encoding="utf-8")
    return dict(re.findall(r"^- `([\w-]+)`: (.+)$", text, re.MULTILINE))


def as_text(results: Results, why: dict[str, str], raw_name: str) -> str:
    """The page."""
    lines = [f"# Measured on {results['date']}", ""]
    if results["quick"]:
        lines += ["**A smoke run: too few and too short rounds to say anything about speed.**", ""]
    lines += [*_about(results), ""]
    lines += [f"All raw rounds: [{raw_name}]({raw_name}).", ""]
    if results["goals"]:
        lines += ["## Goals", "", *_goals(results["goals"], why), ""]
    parts = results["parts"]
    if "story" in parts:
        lines += _story(parts["story"])
    for part, title in TABLES.items():
        if part in parts:
            lines += [f"## {title}", "", *_sides(parts[part]["measures"]), ""]
    if "loop" in parts:
        lines += [*_loop(parts["loop"]), ""]
    for part in ("turns", "outsider"):
        if part in parts:
            lines += turn_report.as_lines(parts[part])
    if "sorted-batches" in parts:
        lines += sorted_batches.as_lines(parts["sorted-batches"])
    return "\n".join(lines)


def _about(results: Results) -> Iterator[str]:
    about = results["machine"]
    before, after = results["load"]
    yield f"- machine: {about['processor']}, {about['cpus']} CPUs; {about['system']}"
    yield f"- databases on {about['file_system']}, one flush {about['flush_ms']} ms"
    yield f"- versions: {', '.join(f'{name} {text}' for name, text in results['versions'].items())}"
    yield f"- load of the last minute: {before:.2f} before, {after:.2f} after"
    yield f"- commit: {results['commit']}; rounds: {results['rounds']}, medians unless it says otherwise"


def _goals(goals: Iterable[Results], why: dict[str, str]) -> Iterator[str]:
    rows = [("figure", "goal", "result", "of what", "rounds")]
    notes = []
    for goal in goals:
        unit = goal["unit"]
        bound = ""
        if goal["at_least"] is not None:
            bound = f">= {short(goal['at_least'])}"
        elif goal["at_most"] is not None:
            bound = f"<= {short(goal['at_most'])}"
        met = {None: "", True: "met", False: f"missed by {_missed_by(goal)}"}[goal["met"]]
        what = f"{goal['what']} (`{goal['key']}`)"
        if goal["figure"] is None:
            rows.append(("not measured", bound, "", what, ""))
            continue
        spread = f"{short(min(goal['rounds']))} to {short(max(goal['rounds']))}"
        rows.append((f"{short(goal['figure'])} {unit}".rstrip(), bound, met, what, spread))
        if goal["met"] is False:
            notes.append(f"- `{goal['key']}` is missed: {why.get(goal['key'], 'no reason given')}")
    yield from table(rows)
    if notes:
        yield ""
        yield from notes


def _missed_by(goal: Results) -> str:
    missed = goal["missed_by"] or 0
    return short(missed) if goal["at_most"] == 0 else f"{missed:.0%}"


def _story(story: Results) -> list[str]:
    lines = []
    for measured in story["sizes"].values():
        size, rounds = measured["writes"], measured["rounds"]
        rows = [
            ("side", "time s", "from", "to", "landed", "transactions", "p50 ms", "p99 ms", "max ms")
        ]
        for name, one in rounds[0].items():
            sides = [each[name] for each in rounds]
            seconds = [side["seconds"] for side in sides]
            landed = sorted(side["landed"] for side in sides)
            cut = sum(side["cut"] for side in sides)
            waits = [
                statistics.median(s["wait_ms"][p] for s in sides) for p in ("p50", "p99", "max")
            ]
            rows.append(
                (
                    one["label"] + (f" (cut {cut} times)" if cut else ""),
                    short(statistics.median(seconds)),
                    short(min(seconds)),
                    short(max(seconds)),
                    _range(landed) + f" of {size}",
                    _range(sorted(side["transactions"] for side in sides)),
                    *map(short, waits),
                )
            )
        lines += [f"## {story['threads']} threads, {size} saves", "", *table(rows), ""]
    return lines


def _sides(measures: Results) -> Iterator[str]:
    names: list[str] = []
    for measure in measures.values():
        names += [name for name in measure["rounds"][0] if name not in names]
    rows = [("measure", "unit", *names)]
    for name, measure in measures.items():
        sides = measure["rounds"][0]
        cells = [
            short(statistics.median(one[side] for one in measure["rounds"]))
            if side in sides
            else ""
            for side in names
        ]
        rows.append((name, measure["unit"], *cells))
    yield from table(rows)


def _loop(part: Results) -> Iterator[str]:
    yield "## Steps of an event loop"
    yield ""
    yield (
        "Milliseconds: medians of the rounds for p50 and p99, the highest of all rounds for max. "
        "`blocked` is the wall clock of a step in which the loop's thread slept, and the CPU time of "
        "one in which it did not; `wall` counts preemption by other programs, too."
    )
    yield ""
    rows = [
        ("round", "steps", "blocked p50", "p99", "max", "over 1 ms", "slept", "wall p99", "max")
    ]
    for name, rounds in part["measures"].items():
        blocked = [one["blocked_ms"] for one in rounds]
        wall = [one["wall_ms"] for one in rounds]
        rows.append(
            (
                name.replace("_", ", "),
                str(sum(one["steps"] for one in rounds)),
                short(statistics.median(one["p50"] for one in blocked)),
                short(statistics.median(one["p99"] for one in blocked)),
                short(max(one["max"] for one in blocked)),
                str(sum(one["steps_blocked_over_1_ms"] for one in rounds)),
                str(sum(one["steps_that_slept"] for one in rounds)),
                short(statistics.median(one["p99"] for one in wall)),
                short(max(one["max"] for one in wall)),
            )
        )
    yield from table(rows)


def _range(values: list[int]) -> str:
    return str(values[0]) if values[0] == values[-1] else f"{values[0]} to {values[-1]}"
