"""One thread alone beside `sqlite3`, in a process of its own: `alone.py FOLDER ROUNDS BLOCKS ROWS`.

Prints the raw rounds as JSON. Both sides write files of their own, in blocks that take turns, and
every write changes a value.
"""

from __future__ import annotations

import json
import os
import sqlite3
import statistics
import sys
import time
import warnings
from contextlib import closing
from itertools import count

from turnwise import BatchWriter
from turnwise.cli.story import SAVE, SCHEMA

BLOCK = 50
LISTS = 5


def fresh(folder: str, name: str) -> str:
    """A new file with the story's table."""
    path = os.path.join(folder, name)
    for end in ("", "-wal", "-shm"):
        if os.path.exists(path + end):
            os.remove(path + end)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(SCHEMA)
        connection.commit()
    return path


def verify(path: str, saves: int) -> None:
    """Counts the saves in the file."""
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT sum(revision) FROM topic").fetchone()[0]
    if found != saves:
        raise SystemExit(f"{path}: {found} of {saves} saves")


def uncontended(folder: str, durability: str, blocks: int) -> dict[str, float]:
    """Seconds for a write, median of the blocks."""
    ours, theirs = fresh(folder, "ours.db"), fresh(folder, "theirs.db")
    times: dict[str, list[float]] = {"turnwise": [], "sqlite3": []}
    with (
        BatchWriter(ours, durability=durability) as writer,
        closing(sqlite3.connect(theirs, isolation_level=None)) as connection,
    ):
        connection.execute(f"PRAGMA synchronous = {durability}")

        def save_ours(number: int) -> None:
            writer.execute(SAVE, (number, f"topic {number} saved"))

        def save_theirs(number: int) -> None:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(SAVE, (number, f"topic {number} saved"))
            connection.execute("COMMIT")

        for block in range(blocks):
            for name, save in (("turnwise", save_ours), ("sqlite3", save_theirs)):
                started = time.perf_counter()
                for number in range(block * BLOCK, (block + 1) * BLOCK):
                    save(number)
                times[name].append((time.perf_counter() - started) / BLOCK)
    verify(ours, blocks * BLOCK)
    verify(theirs, blocks * BLOCK)
    return {name: statistics.median(values) for name, values in times.items()}


def many(folder: str, rows: int) -> dict[str, float]:
    """Seconds for a list of tuples through `executemany`, median of a few lists."""
    ours, theirs = fresh(folder, "ours.db"), fresh(folder, "theirs.db")
    times: dict[str, list[float]] = {"turnwise": [], "sqlite3": []}
    numbers = count()
    with BatchWriter(ours) as writer, closing(sqlite3.connect(theirs)) as connection:
        connection.execute("PRAGMA synchronous = FULL")

        def save_ours(values: list[tuple[int, str]]) -> None:
            writer.executemany(SAVE, values)

        def save_theirs(values: list[tuple[int, str]]) -> None:
            with connection:
                connection.executemany(SAVE, values)

        for _ in range(LISTS):
            values = [(row, f"topic {next(numbers)} saved") for row in range(rows)]
            for name, save in (("turnwise", save_ours), ("sqlite3", save_theirs)):
                started = time.perf_counter()
                save(values)
                times[name].append(time.perf_counter() - started)
    verify(ours, LISTS * rows)
    verify(theirs, LISTS * rows)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Measures and prints."""
    folder, rounds, blocks, rows = sys.argv[1], *map(int, sys.argv[2:])
    warnings.simplefilter("ignore", RuntimeWarning)
    measures: dict[str, list[dict[str, float]]] = {
        "uncontended_full": [],
        "uncontended_normal": [],
        "executemany_288": [],
        f"executemany_{rows}": [],
    }
    for _ in range(rounds):
        measures["uncontended_full"].append(uncontended(folder, "full", blocks))
        measures["uncontended_normal"].append(uncontended(folder, "normal", blocks))
        measures["executemany_288"].append(many(folder, 288))
        measures[f"executemany_{rows}"].append(many(folder, rows))
    print(
        json.dumps(
            {
                "settings": {"blocks": blocks, "writes_in_a_block": BLOCK, "lists": LISTS},
                "measures": {
                    name: {"unit": "s/write" if name.startswith("unc") else "s", "rounds": values}
                    for name, values in measures.items()
                },
            }
        )
    )


if __name__ == "__main__":
    main()
