"""One side of the story, in a process of its own: `sides.py NAME FILE WRITES TIME_LIMIT`.

Each side does the same saves on a fresh file, in WAL mode with synchronous FULL, as its users write
it: threads, schema and statement are those of `turnwise demo`. What landed is read from the file.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import warnings
from contextlib import closing
from functools import partial

import peers
from turnwise.cli.story import (
    JITTER,
    SCHEMA,
    Side,
    Threads,
    finish,
    run_batched,
    run_by_hand,
)

THREADS = 58


def run_with_timeout(path: str, side: Side, threads: Threads) -> None:
    """Each thread with a connection of `sqlite3`."""
    side.sqlite_version = sqlite3.sqlite_version
    # The last connection to close folds the log into the file; while this one is open none is.
    with closing(sqlite3.connect(path)) as keeper:
        keeper.execute("SELECT count(*) FROM topic").fetchone()
        threads.run(lambda worker: peers.with_timeout(path, "FULL"))
    side.transactions = len(threads.acknowledged)


def run_constant_handler(path: str, side: Side, threads: Threads) -> None:
    """Each thread with a busy handler that sleeps 1 ms."""
    import apsw

    side.sqlite_version = apsw.sqlite_lib_version()
    # Not Python's sqlite3: a second copy of SQLite in the process would break these locks.
    with closing(apsw.Connection(path)) as keeper:
        keeper.execute("SELECT count(*) FROM topic").fetchall()
        threads.run(lambda worker: peers.with_constant_handler(path, "FULL"))
    side.transactions = len(threads.acknowledged)


def run_peewee(path: str, side: Side, threads: Threads) -> None:
    """All threads with one queue of peewee's."""
    side.sqlite_version = sqlite3.sqlite_version
    save, close = peers.with_peewee(path, "FULL")
    try:
        threads.run(lambda worker: (save, lambda: None))
    finally:
        close()
    side.transactions = len(threads.acknowledged)


SIDES = {
    "stdlib_timeout": ("sqlite3, 5 s timeout", run_with_timeout),
    "by_hand": ("5 tries, 0.1 s doubling", partial(run_by_hand, tries=5, jitter=0.0, seed=0)),
    "by_hand_jitter": (
        "10 tries with jitter",
        partial(run_by_hand, tries=10, jitter=JITTER, seed=0),
    ),
    "constant_handler": ("1 ms busy handler", run_constant_handler),
    "peewee": ("peewee's queue", run_peewee),
    "turnwise": ("turnwise", run_batched),
}


def prepare(path: str) -> None:
    """Makes the file with its empty table."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(SCHEMA)
    connection.commit()
    connection.close()


def main() -> None:
    """Runs one side and prints what came of it."""
    name, path, writes, time_limit = sys.argv[1:]
    warnings.simplefilter("ignore", RuntimeWarning)
    label, run = SIDES[name]
    side = Side(name, label, "", int(writes))
    threads = Threads(THREADS, int(writes), float(time_limit))
    if name not in {"by_hand", "by_hand_jitter", "turnwise"}:  # They make it themselves.
        prepare(path)
    run(path, side, threads)
    finish(path, side, threads)
    print(json.dumps(side.as_json()))


if __name__ == "__main__":
    main()
