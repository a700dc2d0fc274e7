"""What the tests of the drop-in for the standard library's sqlite3 share."""

from __future__ import annotations

import contextlib
import threading

from turnwise import sqlite3
from turnwise._native import NativeTurnLock
from turnwise.errors import LockTimeoutError
from writer_support import in_thread

INSERT = "INSERT INTO topic VALUES (?)"


def turn_is_taken(path):
    """Whether somebody has the turn, seen from another thread."""

    def look():
        try:
            NativeTurnLock(str(path), turn_timeout=None).acquire(0.0, "the test").release()
        except LockTimeoutError:
            return True
        return False

    return in_thread(look)()


@contextlib.contextmanager
def turn_held(path):
    """Another thread has the turn, but not the lock, until the block ends."""
    inside, end = threading.Event(), threading.Event()

    def hold():
        turn = NativeTurnLock(str(path), turn_timeout=None).acquire(10.0, "the_test.py:1")
        inside.set()
        end.wait(60)
        turn.release()

    holder = in_thread(hold)
    assert inside.wait(10)
    try:
        yield end.set
    finally:
        end.set()
        holder()


def make(path, *, mode="wal"):
    """A database with one table."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode={mode}")
        connection.execute("CREATE TABLE topic (title UNIQUE)")
    assert not turn_is_taken(path)
    return path


def traced(connection):
    """The statements that the application sees its connection run."""
    seen = []
    connection.set_trace_callback(seen.append)
    return seen
