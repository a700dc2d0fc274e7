"""Holders and waiters of the turn are killed at random moments."""

from __future__ import annotations

import os
import random
import signal
import time
from bisect import bisect_right

import pytest

from process_support import Record, assert_rows, landed, make_database, wait_for
from turn_parties import Party, free, locked_by, side

# Forks quickly what is to be killed: it writes in turns, in one of three ways, until then.
VICTIMS = """
import sqlite3, threading
from process_support import Record
def spawn(kind, name, record_path):
    pid = os.fork()
    if pid: return pid
    try:
        be_killed(kind, name, Record(record_path))
    finally:
        os._exit(1)
def be_killed(kind, name, record):
    if kind == "holder":
        lock = TurnLock(path)
        connection = sqlite3.connect(path, isolation_level=None, timeout=30)
        for number in range(10_000):
            with lock.turn():
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(SAVE, (name, number))
                time.sleep(0.002)
                connection.execute("COMMIT")
            record.note(name, number)
    writer = BatchWriter(path, durability=kind)
    def write(thread):
        for number in range(10_000):
            writer.execute(SAVE, (f"{name}-{thread}", number))
            record.note(f"{name}-{thread}", number)
    threads = [threading.Thread(target=write, args=(thread,)) for thread in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
def reap(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""

SURVIVOR = """
import threading
from process_support import Record
writer = BatchWriter(path)
over, commits = threading.Event(), []
def write(name, record_path):
    record, number = Record(record_path), 0
    while not over.is_set():
        writer.execute(SAVE, (name, number))
        commits.append(time.monotonic())
        record.note(name, number)
        number += 1
        time.sleep(0.0005)
def begin(*of):
    global crew
    crew = threading.Thread(target=write, args=of)
    crew.start()
def end():
    over.set()
    crew.join()
    return commits
"""


@pytest.mark.parametrize("journal", ["wal", "delete"])
@pytest.mark.timeout(1800)
def test_whoever_is_killed_nobody_waits_for_it(tmp_path, soak, journal):
    rounds = 1_000 if soak else 100
    path, record = make_database(tmp_path / "a.db", journal), tmp_path / "record"
    rng, kills, held, was_next = random.Random(journal), [], 0, 0
    setup = f"BatchWriter = __import__('functools').partial(BatchWriter, journal_mode={journal!r})"
    with Party(path) as zygote, Party(path) as one, Party(path) as other:
        for party in (zygote, one, other):
            party.do(setup)
        zygote.do(VICTIMS)
        for name, survivor in {"one": one, "other": other}.items():
            survivor.do(SURVIVOR)
            survivor.do(f"begin({name!r}, {str(record)!r})")
        for number in range(rounds):
            kind = rng.choice(["holder", "holder", "full", "pipelined"])
            pid = zygote.do(f"spawn({kind!r}, 'victim-{number}', {str(record)!r})")
            time.sleep(rng.uniform(0.005, 0.06))
            held += pid in locked_by(side(path))
            was_next += pid in locked_by(side(path, "-turn-next"))
            os.kill(pid, signal.SIGKILL)
            kills.append(time.monotonic())
            assert zygote.do(f"reap({pid})") == -signal.SIGKILL
            if number % 20 == 0:
                landed(path)
        time.sleep(0.5)
        commits = sorted(one.do("end()") + other.do("end()"))
        for survivor in (one, other):
            assert survivor.do("writer.stats().turn_fall_throughs") == 0
        wait_for(lambda: free(path), "the turn is free")
    waits = sorted(commits[bisect_right(commits, kill)] - kill for kill in kills)
    p99 = waits[int(0.99 * len(waits))]
    print(
        f"{journal}: {rounds} kills, {held} of holders, {was_next} of who was next; next commit "
        f"after {waits[len(waits) // 2] * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms, "
        f"longest {waits[-1] * 1e3:.1f} ms"
    )
    assert held >= rounds / 20
    assert was_next >= rounds / 20
    assert p99 < 0.5
    assert waits[-1] < 2
    rows = landed(path)
    acknowledged = Record.rows(record)
    assert len(acknowledged) > rounds
    # What was killed before it could tell.
    assert_rows(rows, acknowledged, maybe=rows.keys() - acknowledged)
    unacknowledged = {name for name, _ in rows.keys() - acknowledged}
    assert all(name.startswith("victim-") for name in unacknowledged), unacknowledged
