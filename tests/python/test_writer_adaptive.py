"""A writer with the adaptive policy, behind a program that knows nothing of turnwise."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import time

import pytest

import turnwise
from turnwise import BatchWriter, RetryPolicy
from writer_support import CREATE, INSERT, in_thread, locked_by_another_process, titles, wait_until

# Holds the lock for 20 ms whenever it is told to, and says when it let go.
HOLD_BRIEFLY = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for _ in sys.stdin:
    connection.execute("BEGIN IMMEDIATE")
    print("held", flush=True)
    time.sleep(0.02)
    connection.execute("ROLLBACK")
    print(time.monotonic(), flush=True)
"""


@pytest.fixture
def writer(tmp_path):
    policy = RetryPolicy(jitter="adaptive")
    with BatchWriter(tmp_path / "topics.db", policy=policy, durability="normal") as writer:
        writer.execute(CREATE)
        yield writer


@contextlib.contextmanager
def brief_holder(path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_BRIEFLY, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    try:
        yield holder
    finally:
        holder.stdin.close()
        holder.wait(10)
        holder.stdout.close()


def test_a_lock_held_for_20_ms_at_a_time_is_asked_for_seldom_and_had_soon(writer):
    idle, held = [], 0.0
    with brief_holder(writer.path) as holder:
        for number in range(60):
            holder.stdin.write("hold\n")
            assert holder.stdout.readline() == "held\n"
            begun = time.monotonic()
            writer.execute(INSERT, (str(number),))
            ended, released = time.monotonic(), float(holder.stdout.readline())
            held += released - begun
            idle.append(ended - released)
    assert len(titles(writer.path)) == 60
    asked = writer.stats().lock_retries
    # A write asks twice at once: its caller, and then the writer thread.
    assert 60 < asked < 2 * 60 + 300 * held, f"{asked} times in {held} s"
    assert statistics.median(idle) < 0.01, idle


def first_delay(writer, name):
    """The delay after the first try of the writer thread for a lock that is held."""
    heard = []
    with turnwise.on_event(heard.append), locked_by_another_process(writer.path) as release:
        written = in_thread(lambda: writer.execute(INSERT, (name,)))
        wait_until(lambda: len(heard) > 2)
        release()
        written()
    return heard[0].delay


def test_what_is_learned_outlives_the_wait(writer):
    """A writer that has had the lock once, for CREATE, sleeps at least half of 5 ms / 1.1³ · 1.1."""
    assert 0.00206 <= first_delay(writer, "new") <= 0.00825
    for number in range(100):
        writer.execute(INSERT, (str(number),))
    assert first_delay(writer, "old") < 0.00206


def test_long_holds_of_ones_own_are_learned_too(writer):
    for number in range(30):
        with writer.transaction() as transaction:
            transaction.execute(INSERT, (str(number),))
            time.sleep(0.04)
    # Half of the hold time is the least mean; a sleep is at least half of that.
    assert first_delay(writer, "after") > 0.008
