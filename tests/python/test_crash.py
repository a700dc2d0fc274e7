"""Killed at any moment, a process leaves every acknowledged write in the file, once and whole."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import time
from collections import Counter, defaultdict
from contextlib import closing

import pytest

from crash_worker import KINDS, POISON_EVERY, UNIT
from process_support import DELETE, WAL, Record, kill_group, make_database, start

ROUNDS = 50
SOAK_ROUNDS = 1_000
# Rounds that one database lives; then it is checked as a whole, and a fresh one keeps checks short.
LIFE = 50
LONGEST = 0.35


def kill_one(path, journal, record, number, rng) -> None:
    """Lets a process write for a random time, and kills it."""
    with start("crash_worker.py", path, journal, record, number, stdout=subprocess.PIPE) as worker:
        try:
            # Now and then already while it starts: opening recovers what the last one left.
            if rng.random() < 0.8:
                assert worker.stdout.readline() == b"ready\n"
                time.sleep(rng.uniform(0, LONGEST))
            else:
                time.sleep(rng.uniform(0.1, LONGEST))
        finally:
            kill_group(worker)
        assert worker.wait() == -signal.SIGKILL


def read_round(connection: sqlite3.Connection, number: int) -> dict[str, Counter[int]]:
    """How often each row of a round is in the file, by thread."""
    rows = defaultdict(Counter)
    sql = "SELECT party, number, count(*) FROM landed WHERE party GLOB ? GROUP BY 1, 2"
    for party, row, count in connection.execute(sql, (f"{number}-*",)):
        rows[party][row] = count
    return rows


def check_round(rows: dict[str, Counter[int]], acknowledged: list[list[str]]) -> int:
    """Compares the file with the record of a round; counts the acknowledged units."""
    told = defaultdict(set)
    for party, unit in acknowledged:
        told[party].add(int(unit))
    for party, counts in rows.items():
        doubled = [row for row, count in counts.items() if count > 1]
        assert not doubled, f"{party}: rows {doubled[:5]} are there twice"
        size = UNIT[party.rsplit("-", 1)[1]]
        units = Counter(row // size for row in counts)
        torn = [unit for unit, count in units.items() if count != size]
        assert not torn, f"{party}: units {torn[:5]} are there in part"
        if size > 1:
            kept = [unit for unit in units if unit % POISON_EVERY == 0]
            assert not kept, f"{party}: refused units {kept[:5]} are there"
    for party, units in told.items():
        if party.startswith("!"):
            continue
        size = UNIT[party.rsplit("-", 1)[1]]
        lost = sorted(unit for unit in units if unit * size not in rows[party])
        assert not lost, (
            f"{party}: {len(lost)} of {len(units)} acknowledged units are lost, first {lost[:5]}"
        )
    return sum(len(units) for units in told.values())


def test_nothing_acknowledged_is_lost_to_a_kill(tmp_path, soak, journal_and_seed) -> None:
    journal, seed = journal_and_seed
    rng = random.Random(seed)
    rounds = SOAK_ROUNDS if soak else ROUNDS
    threads, units, path = Counter(), 0, None
    for number in range(rounds):
        if number % LIFE == 0:
            path = make_database(tmp_path / f"crash-{number}.db", journal)
            since = number
        kill_one(path, journal, tmp_path / f"acks-{number}", number, rng)
        # After every other kill the first to look is the next worker, which must recover by itself.
        if rng.random() < 0.5 and number % LIFE < LIFE - 1 and number < rounds - 1:
            continue
        with closing(sqlite3.connect(path, timeout=30)) as connection:
            whole = number % LIFE == LIFE - 1
            for at in range(number - number % LIFE if whole else since, number + 1):
                acknowledged = Record.read(tmp_path / f"acks-{at}")
                counted = check_round(read_round(connection, at), acknowledged)
                if at >= since:
                    units += counted
                    threads.update({words[0].rsplit("-", 1)[1] for words in acknowledged})
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("PRAGMA journal_mode").fetchone() == (journal,)
        since = number + 1
    print(f"{journal}: {rounds} kills, {units} acknowledged units, rounds by kind {dict(threads)}")
    # A kill that comes before the first write proves little.
    assert all(threads[kind] > rounds / 2 for kind in KINDS), threads


@pytest.fixture(params=[WAL, DELETE])
def journal_and_seed(request) -> tuple[str, int]:
    """The journal mode, and a seed that the failure report shows."""
    return request.param, random.SystemRandom().randrange(1 << 32)
