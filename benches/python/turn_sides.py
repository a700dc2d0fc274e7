"""The sides of the bench across processes: how one process of each opens the file and saves."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import peers
from turnwise.cli.story import SAVE, SCHEMA, SaveFailedError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from turnwise.cli.story import Save

LEVELS = ("normal", "full", "pipelined")
KEYS = 450
"""Rows that one thread writes; the file has as many for each of 64 threads and an outsider."""
THREADS = 65
ENDS = ("", "-wal", "-shm", "-journal", "-turn", "-turn-next")


class InDoubtError(Exception):
    """The save may be in the file or not, and its side says so."""


@dataclass
class Opened:
    """A file that is open in this process."""

    connect: Callable[[int], tuple[Save, Callable[[], None]]]
    """What thread `n` saves with, and what closes that."""
    stats: Callable[[], dict[str, Any]] = dict


@contextmanager
def each_its_own(path: str, connect: Callable[[int], Any]) -> Iterator[Opened]:
    """A connection for every thread."""
    yield Opened(connect)


def timeout(path: str, level: str, stop: threading.Event) -> AbstractContextManager[Opened]:
    """`sqlite3` and its busy handler."""
    return each_its_own(path, lambda thread: peers.with_timeout(path, level))


def handler(path: str, level: str, stop: threading.Event) -> AbstractContextManager[Opened]:
    """The busy handler of Rails 8."""
    return each_its_own(path, lambda thread: peers.with_constant_handler(path, level))


def by_hand(path: str, level: str, stop: threading.Event) -> AbstractContextManager[Opened]:
    """The hand-written loop."""
    return each_its_own(
        path, lambda thread: peers.with_tries(path, level, stop, f"by hand {thread}")
    )


@contextmanager
def peewee(path: str, level: str, stop: threading.Event) -> Iterator[Opened]:
    """One queue for the threads of the process."""
    save, close = peers.with_peewee(path, level)
    try:
        yield Opened(lambda thread: (save, lambda: None))
    finally:
        close()


def dropin(path: str, level: str, stop: threading.Event) -> AbstractContextManager[Opened]:
    """The code of `timeout` with the other import."""
    import turnwise.sqlite3

    if level == "pipelined":
        raise ValueError("a connection of the host's SQLite syncs within its COMMIT")
    return each_its_own(path, lambda thread: peers.with_timeout(path, level, turnwise.sqlite3))


@contextmanager
def batch(path: str, level: str, stop: threading.Event, **settings: object) -> Iterator[Opened]:
    """One batch writer for the threads of the process."""
    from turnwise import BatchWriter
    from turnwise.errors import TurnwiseError

    in_doubt = {"CommitOutcomeUnknown", "FlushFailed"}
    with BatchWriter(path, durability=level, **settings) as writer:

        def save(topic: int, title: str) -> None:
            try:
                writer.execute(SAVE, (topic, title))
            except TurnwiseError as error:
                known = SaveFailedError if error.kind not in in_doubt else InDoubtError
                raise known(f"{error.kind}: {error}") from error

        def stats() -> dict[str, Any]:
            return {
                name: value
                for name, value in vars(writer.stats()).items()
                if isinstance(value, int)
            }

        yield Opened(lambda thread: (save, lambda: None), stats)


@dataclass(frozen=True)
class Side:
    """One way of writing."""

    label: str
    open: Callable[[str, str, threading.Event], AbstractContextManager[Opened]] | None
    """`None`: the Rust program opens it."""
    levels: tuple[str, ...] = LEVELS[:2]


SIDES = {
    "timeout": Side("sqlite3, 5 s timeout", timeout),
    "handler": Side("1 ms busy handler", handler),
    "by_hand": Side("10 tries with jitter", by_hand),
    "peewee": Side("peewee's queue", peewee),
    "dropin": Side("turnwise.sqlite3", dropin),
    "batch": Side("turnwise.BatchWriter", batch, LEVELS),
    "batch_rust": Side("the same in Rust", None, LEVELS),
    "batch_alone": Side("BatchWriter without turns", partial(batch, turn_lock=False), LEVELS),
}


def prepare(path: str) -> None:
    """Makes the file with a row for every key."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(SCHEMA)
        connection.executemany(
            "INSERT INTO topic VALUES (?, 'a new topic', 0)",
            ((key,) for key in range(THREADS * KEYS)),
        )


def landed(path: str, first: int, threads: int) -> int:
    """The saves that so many threads from `first` on have in the file."""
    with closing(sqlite3.connect(path)) as connection:
        (sound,) = connection.execute("PRAGMA quick_check").fetchone()
        if sound != "ok":
            return -1
        found = connection.execute(
            "SELECT sum(revision) FROM topic WHERE id >= ? AND id < ?",
            (first * KEYS, (first + threads) * KEYS),
        )
        return int(found.fetchone()[0])


def remove(path: str) -> None:
    """Removes the file and all that stands beside it."""
    for end in ENDS:
        try:
            os.remove(path + end)
        except FileNotFoundError:
            pass
