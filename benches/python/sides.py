"""One side of the story, in a process of its own: `sides.py NAME FILE WRITES TIME_LIMIT`.

Each side does the same saves on a fresh file, in WAL mode with synchronous FULL, as its users write
it: threads, schema and statement are those of `turnwise demo`. What landed is read from the file.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
import warnings
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

from turnwise.cli.story import (
    JITTER,
    SAVE,
    SCHEMA,
    SaveFailedError,
    Side,
    SideCutError,
    Threads,
    finish,
    run_batched,
    run_by_hand,
)

if TYPE_CHECKING:
    from collections.abc import Callable

THREADS = 58
TIMEOUT = 5.0


def run_with_timeout(path: str, side: Side, threads: Threads) -> None:
    """`sqlite3` as its documentation shows it: a connection with the default 5 s, commit."""
    side.sqlite_version = sqlite3.sqlite_version

    def connect(worker: int) -> tuple[Callable[[int, str], None], Callable[[], None]]:
        connection = sqlite3.connect(path, timeout=TIMEOUT)
        connection.execute("PRAGMA synchronous = FULL")

        def save(topic: int, title: str) -> None:
            try:
                with connection:
                    connection.execute(SAVE, (topic, title))
            except sqlite3.OperationalError as error:
                raise SaveFailedError(str(error)) from error

        return save, connection.close

    # The last connection to close folds the log into the file; while this one is open none is.
    with closing(sqlite3.connect(path)) as keeper:
        keeper.execute("SELECT count(*) FROM topic").fetchone()
        threads.run(connect)
    side.transactions = len(threads.acknowledged)


def run_constant_handler(path: str, side: Side, threads: Threads) -> None:
    """A busy handler that sleeps 1 ms each time, for up to 5 s: what Rails 8 does."""
    import apsw

    side.sqlite_version = apsw.sqlite_lib_version()

    def connect(worker: int) -> tuple[Callable[[int, str], None], Callable[[], None]]:
        connection = apsw.Connection(path)
        connection.set_busy_timeout(30_000)
        connection.execute("PRAGMA synchronous = FULL")
        waits_since = 0.0

        def wait(prior_calls: int) -> bool:
            nonlocal waits_since
            if prior_calls == 0:
                waits_since = time.monotonic()
            time.sleep(0.001)
            return time.monotonic() - waits_since < TIMEOUT

        connection.set_busy_handler(wait)

        def save(topic: int, title: str) -> None:
            try:
                connection.execute(SAVE, (topic, title))
            except apsw.BusyError as error:
                raise SaveFailedError(str(error)) from error

        return save, connection.close

    # Not Python's sqlite3: a second copy of SQLite in the process would break these locks.
    with closing(apsw.Connection(path)) as keeper:
        keeper.execute("SELECT count(*) FROM topic").fetchall()
        threads.run(connect)
    side.transactions = len(threads.acknowledged)


def run_peewee(path: str, side: Side, threads: Threads) -> None:
    """Peewee's queue: one writer thread; each save waits for its result. Raw SQL, no model."""
    from peewee import PeeweeException
    from playhouse.sqliteq import ResultTimeout, SqliteQueueDatabase

    side.sqlite_version = sqlite3.sqlite_version
    database = SqliteQueueDatabase(
        path, pragmas={"journal_mode": "wal", "synchronous": "full"}, results_timeout=30
    )

    def save(topic: int, title: str) -> None:
        try:
            # The row count is there once the write is.
            _ = database.execute_sql(SAVE, (topic, title)).rowcount
        except ResultTimeout:
            raise SideCutError from None
        except PeeweeException as error:
            raise SaveFailedError(str(error)) from error

    try:
        # Its writer thread opens its connection with the first statement.
        database.execute_sql("PRAGMA user_version = 1").fetchall()
        threads.run(lambda worker: (save, lambda: None))
    finally:
        database.stop()
        database.close()
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
