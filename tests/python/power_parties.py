"""The processes whose disk loses its power: each writes, and notes in the record what was acknowledged.
Started by test_power_cut.py, with recorded_io.c preloaded.
"""

from __future__ import annotations

import ctypes
import random
import sqlite3
import sys
import threading
import time
from contextlib import closing

import turnwise.errors
from power_recovery import INSERT, SCHEMA, rows
from process_support import play

libraries = ctypes.CDLL(None)
PAGE = 512


def acknowledge(party: str, unit: int) -> None:
    note = f"{party} {unit}".encode()
    libraries.recorded_io_note(note, len(note))


def make(path: str, journal: str) -> None:
    """Pages are small, so that a checkpoint is due (1,000 frames) before much is written."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"PRAGMA page_size = {PAGE}")
        connection.execute(f"PRAGMA journal_mode = {journal}")
        connection.execute("PRAGMA synchronous = extra")
        connection.executescript(f"BEGIN; {SCHEMA} COMMIT;")
    acknowledge("schema", 0)


class Thread(threading.Thread):
    """Writes units in every way that the writer offers."""

    def __init__(self, writer, party: str, units: range, size: int) -> None:
        super().__init__()
        self.writer, self.party, self.units, self.size = writer, party, units, size
        self.rng = random.Random(f"{party} {units}")
        self.told: list[tuple[int, BaseException | None]] = []

    def run(self) -> None:
        for unit in self.units:
            # Any page of an index may be next.
            party = f"{self.rng.randrange(40)}-{self.party}"
            try:
                self.write(party, unit)
            except turnwise.TurnwiseError as error:
                self.told.append((unit, error))
            else:
                acknowledge(party, unit)
                self.told.append((unit, None))

    def write(self, party: str, unit: int) -> None:
        way = self.rng.choice(["execute", "executemany", "submit", "transaction"])
        parts = 1 if way in {"execute", "submit"} else self.rng.randint(2, 4)
        values = rows(party, unit, parts, self.rng.randint(1, 2 * self.size) // parts)
        if way == "execute":
            self.writer.execute(INSERT, values[0])
        elif way == "executemany":
            self.writer.executemany(INSERT, values)
        elif way == "submit":
            self.writer.submit(INSERT, values[0]).result(60)
        else:
            with self.writer.transaction() as transaction:
                for row in values:
                    transaction.execute(INSERT, row)


def write(path, journal, durability, party, threads, units, size, opens) -> list[Thread]:
    """Writes with so many threads, and opens the file anew so many times."""
    units, done = int(units), []
    for number in range(int(opens)):
        with turnwise.BatchWriter(path, journal_mode=journal, durability=durability) as writer:
            part = range(number * units, (number + 1) * units)
            crew = [Thread(writer, f"{party}.{at}", part, int(size)) for at in range(int(threads))]
            for thread in crew:
                thread.start()
            for thread in crew:
                thread.join()
            done += crew
    return done


def writes(*arguments: str) -> None:
    sys.stdin.readline()
    failed = [error for thread in write(*arguments) for _, error in thread.told if error]
    assert not failed, failed


def once(path: str, journal: str, durability: str, units: str) -> None:
    """Makes sure of rows that others make sure of at the same time."""
    with turnwise.BatchWriter(path, journal_mode=journal, durability=durability) as writer:
        sys.stdin.readline()
        for unit in range(int(units)):
            writer.execute("INSERT INTO once VALUES (?) ON CONFLICT DO NOTHING", (unit,))
            acknowledge("once", unit)


def outsider(path: str, party: str, way: str) -> None:
    """A program that knows nothing of turnwise: writes, checkpoints, closes and opens again, until
    its input ends, and for some rounds at least.
    """
    sys.stdin.readline()
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    unit, rounds, rng = 0, 0, random.Random(party)
    while rounds < 8 or not over.is_set():
        rounds += 1
        with closing(sqlite3.connect(path, isolation_level=None, timeout=60)) as connection:
            connection.execute("PRAGMA wal_autocheckpoint = 10")
            for _ in range(5):
                if way == "checkpoints" and rng.random() < 0.7:
                    kind = rng.choice(["PASSIVE", "FULL", "RESTART", "TRUNCATE"])
                    connection.execute(f"PRAGMA wal_checkpoint({kind})")
                else:
                    connection.execute("BEGIN IMMEDIATE")
                    connection.executemany(INSERT, rows(party, unit, 2, rng.randint(1, 400)))
                    connection.execute("COMMIT")
                    acknowledge(party, unit)
                    unit += 1
                time.sleep(rng.uniform(0, 0.003))


def failing(path, journal, durability, party, threads, units, size, after) -> None:
    """Writes on while a sync of the log fails, after so many others."""
    sys.stdin.readline()
    if int(after) >= 0:
        libraries.recorded_io_fail(int(after))
    crew = write(path, journal, durability, party, threads, units, size, "1")
    failed = {error.kind for thread in crew for _, error in thread.told if error}
    print(libraries.recorded_io_failures(), *sorted(failed))


def holed(path: str, durability: str) -> None:
    """Writes a row whose sync fails while somebody has the lock, and so leaves the log as it is."""
    with turnwise.BatchWriter(path, journal_mode="wal", durability=durability) as writer:
        # The log is new, and its header synced before the first commit.
        writer.execute(INSERT, rows("holed", 0, 1, 10)[0])
        sys.stdin.readline()
        libraries.recorded_io_fail(0)
        try:
            writer.execute(INSERT, rows("failed", 0, 1, 10)[0])
        except turnwise.errors.FlushFailedError as error:
            print(error.kind, flush=True)
        sys.stdin.read()


def holder(path: str) -> None:
    """Takes the lock as soon as the row is there that `holed` writes."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=60)) as connection:
        sys.stdin.readline()
        while not connection.execute("SELECT 1 FROM landed WHERE party = 'failed'").fetchone():
            pass
        connection.execute("BEGIN IMMEDIATE")
        print("locked", flush=True)
        sys.stdin.read()
        connection.execute("ROLLBACK")


if __name__ == "__main__":
    play({f.__name__: f for f in (make, writes, once, outsider, failing, holed, holder)})
