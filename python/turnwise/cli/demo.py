"""`turnwise demo`: the story on this machine, three sides in one screen."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
import tempfile
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from turnwise.cli import ALL_LANDED, COULD_NOT_RUN, SOME_REJECTED
from turnwise.cli.machine import MEMORY_FILE_SYSTEMS, machine
from turnwise.cli.output import complain, is_terminal, show
from turnwise.cli.story import JITTER, Side, Threads, finish, run_batched, run_by_hand

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

    from turnwise.cli.processes import Run

# The table fits 80 columns.
HEADINGS = ("side", "time", "landed", "errors", "transactions", "p50 ms", "p99 ms", "max ms")


def demo(arguments: Namespace) -> int:
    """Runs the command and returns the exit status."""
    from turnwise.errors import TurnwiseError

    # Ends like Ctrl-C: the threads stop and the folder is removed.
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory(prefix="turnwise-demo-", dir=arguments.dir) as folder:
            about = machine(folder)
            sides = [_measure(arguments, folder, side, run) for side, run in _sides(arguments)]
    except (TurnwiseError, sqlite3.Error, OSError, RuntimeError) as error:
        complain(str(error))
        return COULD_NOT_RUN
    finally:
        signal.signal(signal.SIGTERM, previous)
    show(_as_json(arguments, about, sides) if arguments.json else _as_text(arguments, about, sides))
    return ALL_LANDED if sides[-1].complete else SOME_REJECTED


def _sides(arguments: Namespace) -> list[tuple[Side, Run]]:
    def by_hand(tries: int, jitter: float) -> Run:
        return partial(run_by_hand, tries=tries, jitter=jitter, seed=arguments.seed)

    writes = arguments.writes
    return [
        (
            Side("as_it_was", "(a) as it was", "5 tries, no jitter", writes),
            by_hand(5, 0.0),
        ),
        (
            Side("cure_by_hand", "(b) by hand", "10 tries, up to 0.1 s of jitter", writes),
            by_hand(10, JITTER),
        ),
        (
            Side("turnwise", "(c) turnwise", "the same saves through BatchWriter", writes),
            run_batched,
        ),
    ]


def _measure(arguments: Namespace, folder: str, side: Side, run: Run) -> Side:
    path = os.path.join(folder, f"{side.name}.db")
    threads = Threads(arguments.workers, arguments.writes, arguments.time_limit)
    with _running(side.label):
        if arguments.processes == 1:
            run(path, side, threads)
        else:
            from turnwise.cli.processes import run_in_processes

            run_in_processes(run, path, side, threads, arguments.processes)
        finish(path, side, threads)
    return side


@contextmanager
def _running(label: str) -> Iterator[None]:
    """Says which side runs, where a person watches."""
    text = f"running {label} ..."
    watched = is_terminal(sys.stderr)
    if watched:
        print(text, end="\r", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if watched:
            print(" " * len(text), end="\r", file=sys.stderr, flush=True)


def _as_json(arguments: Namespace, about: dict[str, object], sides: list[Side]) -> str:
    settings = {
        name: getattr(arguments, name)
        for name in ("workers", "processes", "writes", "seed", "time_limit")
    }
    return json.dumps(
        {
            "settings": {**settings, "journal_mode": "wal", "synchronous": "full"},
            "machine": about,
            "sides": [side.as_json() for side in sides],
        },
        indent=2,
    )


def _as_text(arguments: Namespace, about: dict[str, object], sides: list[Side]) -> str:
    where = about["file_system"] or "unknown file system"
    lines = [
        f"{arguments.workers} threads{_in_processes(arguments)}, {arguments.writes} saves in all, "
        "one SQLite file, WAL, synchronous FULL",
        f"{about['cpus']} CPUs, {where} (one flush {about['flush_ms']} ms), "
        f"Python {about['python']}",
        *(f"{side.label}: {side.about}, SQLite {side.sqlite_version}" for side in sides),
        "",
        *_table([HEADINGS, *(_row(side) for side in sides)]),
        *_remarks(arguments, sides),
        "",
        _closing("As it was:", sides[0]),
        _closing("turnwise: ", sides[-1]),
    ]
    if where in MEMORY_FILE_SYSTEMS:
        lines.append("In memory a flush costs nothing; try --dir with a folder on a disk.")
    return "\n".join(lines)


def _in_processes(arguments: Namespace) -> str:
    return f" in {arguments.processes} processes" if arguments.processes > 1 else ""


def _row(side: Side) -> tuple[str, ...]:
    waits = [
        _three_digits(side.wait_ms[name]) if side.wait_ms else "-" for name in ("p50", "p99", "max")
    ]
    landed = f"{side.landed}/{side.writes}"
    time = f"{_three_digits(side.seconds)} s" + (" CUT" if side.cut else "")
    return (side.label, time, landed, str(side.errors), str(side.transactions), *waits)


def _three_digits(value: float) -> str:
    decimals = 3 if value < 0.1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{decimals}f}"


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _remarks(arguments: Namespace, sides: list[Side]) -> Iterator[str]:
    for side in sides:
        if side.cut:
            yield (
                f"{side.label}: cut after {arguments.time_limit:g} s, "
                f"{side.unfinished} saves without an outcome"
            )
        if side.first_error:
            yield f"{side.label}: first error: {side.first_error}"
        if not side.consistent:
            yield (
                f"{side.label}: {side.acknowledged} saves were acknowledged, "
                f"{side.landed} are in the file, {side.twice} of them twice"
            )


def _closing(name: str, side: Side) -> str:
    return (
        f"{name} {side.landed} of {side.writes} saves landed in {_three_digits(side.seconds)} s"
        f"{' (cut)' if side.cut else ''} and {side.transactions} transactions."
    )
