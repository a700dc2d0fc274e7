"""How users write without turnwise. Each function connects a thread: its save, and what closes it."""

from __future__ import annotations

import random
import sqlite3
import time
from typing import TYPE_CHECKING

from turnwise.cli.story import (
    BACKOFF_FACTOR,
    FIRST_DELAY,
    JITTER,
    SAVE,
    SaveFailedError,
    SideCutError,
)

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from types import ModuleType

    from turnwise.cli.story import Save

TIMEOUT = 5.0
TRIES = 10


def with_timeout(
    path: str, synchronous: str, library: ModuleType = sqlite3
) -> tuple[Save, Callable[[], None]]:
    """`sqlite3` as its documentation shows it: a connection with the default 5 s, commit."""
    connection = library.connect(path, timeout=TIMEOUT)
    connection.execute(f"PRAGMA synchronous = {synchronous}")

    def save(topic: int, title: str) -> None:
        try:
            with connection:
                connection.execute(SAVE, (topic, title))
        except sqlite3.OperationalError as error:
            raise SaveFailedError(str(error)) from error

    return save, connection.close


def with_constant_handler(path: str, synchronous: str) -> tuple[Save, Callable[[], None]]:
    """A busy handler that sleeps 1 ms each time, for up to 5 s: what Rails 8 does."""
    import apsw

    connection = apsw.Connection(path)
    connection.set_busy_timeout(30_000)
    connection.execute(f"PRAGMA synchronous = {synchronous}")
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


def with_tries(
    path: str, synchronous: str, stop: threading.Event, seed: str
) -> tuple[Save, Callable[[], None]]:
    """The loop that people write by hand: 10 tries, 0.1 s doubling, up to 100 ms of jitter."""
    # Setting the connection up takes locks too; only the saves go without a time-out.
    connection = sqlite3.connect(path, timeout=30, isolation_level=None)
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("PRAGMA busy_timeout = 0")
    draw = random.Random(seed)

    def save(topic: int, title: str) -> None:
        for attempt in range(TRIES):
            try:
                connection.execute(SAVE, (topic, title))
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):
                    raise
                if attempt + 1 == TRIES:
                    raise SaveFailedError(str(error)) from error
                if stop.wait(FIRST_DELAY * BACKOFF_FACTOR**attempt + draw.uniform(0, JITTER)):
                    raise SideCutError from None

    return save, connection.close


def with_peewee(path: str, synchronous: str) -> tuple[Save, Callable[[], None]]:
    """Peewee's queue: one writer thread for a process; each save waits for its result. Raw SQL."""
    from peewee import PeeweeException
    from playhouse.sqliteq import ResultTimeout, SqliteQueueDatabase

    database = SqliteQueueDatabase(
        path, pragmas={"journal_mode": "wal", "synchronous": synchronous}, results_timeout=30
    )
    # Its writer thread opens its connection with the first statement.
    database.execute_sql("PRAGMA user_version = 1").fetchall()

    def save(topic: int, title: str) -> None:
        try:
            # The row count is there once the write is.
            _ = database.execute_sql(SAVE, (topic, title)).rowcount
        except ResultTimeout:
            raise SideCutError from None
        except PeeweeException as error:
            raise SaveFailedError(str(error)) from error

    def close() -> None:
        database.stop()
        database.close()

    return save, close
