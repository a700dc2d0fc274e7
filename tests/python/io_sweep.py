"""A process whose system calls fail, at the first, the second, the third …: what its callers are told
and what its files hold. Started by test_fault_sweep.py, with failing_io.c preloaded.
"""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import json
import os
import shutil
import sqlite3
import sys
import tempfile
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path

from turnwise import BatchWriter
from turnwise.errors import CommitOutcomeUnknownError, ConstraintError, TurnwiseError

INSERT = "INSERT INTO t (mark, body) VALUES (?, ?)"
RETURNING = INSERT + " RETURNING id, body"
POISON = "INSERT INTO t (mark, k) VALUES (?, 1)"

# Rows of every unit, by its mark. The poisoned one never lands.
POISONED = 11
MIX = {1: 1, 2: 1, 3: 4, 10: 1, POISONED: 0, 12: 3, 13: 1, 14: 1, 15: 2, 20: 1, 21: 2, 30: 1}
CLOSING = {40: 1, 41: 1}
AFTER = {99: 1}
ROWS = MIX | CLOSING | AFTER
STEPS = {20, 21}

LASTING = 1 << 30
# SQLite makes a checkpoint due after 1,000 frames: the mix needs few more.
FRAMES = 970

faults = ctypes.CDLL(None)


def make_template(path: Path, journal: str) -> None:
    """A database, in WAL mode with a long log that nobody has folded into it."""
    making = path.with_name("making.db")
    with closing(sqlite3.connect(making, isolation_level=None)) as connection:
        connection.execute("PRAGMA page_size = 512")
        connection.execute(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, mark INTEGER NOT NULL, k INTEGER UNIQUE, body BLOB)"
        )
        connection.execute("INSERT INTO t (mark, k) VALUES (0, 1)")
        connection.execute(f"PRAGMA journal_mode = {journal}")
        connection.execute("PRAGMA synchronous = off")
        if journal == "wal":
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            log = making.with_name("making.db-wal")
            while not log.exists() or log.stat().st_size < 32 + FRAMES * (512 + 24):
                connection.execute("UPDATE t SET body = randomblob(8)")
        copy(making, path)


def copy(source: Path, target: Path) -> None:
    """Copies what a crash would leave: the file and its logs."""
    for suffix in ("", "-wal", "-journal"):
        beside = source.with_name(source.name + suffix)
        if beside.exists():
            shutil.copyfile(beside, target.with_name(target.name + suffix))


class Round:
    """A writer on a file of its own, and what its callers were told."""

    def __init__(self, template: Path, folder: Path, journal: str) -> None:
        self.path = folder / "app.db"
        self.journal = journal
        copy(template, self.path)
        self.writer = BatchWriter(self.path, journal_mode=journal)
        self.told: list[tuple[int, TurnwiseError | None]] = []
        self.transactions = Counter()

    def call(self, mark, function, *arguments) -> None:
        """Run a unit; note its one outcome."""
        try:
            function(*arguments)
        except TurnwiseError as error:
            self.told.append((mark, error))
        else:
            self.told.append((mark, None))

    def rows(self, mark, size=10):
        return [(mark, b"x" * size)] * ROWS[mark]

    def one(self, mark, size=10, sql=INSERT) -> None:
        self.call(mark, self.writer.execute, sql, *self.rows(mark, size))

    def many(self, mark) -> None:
        self.call(mark, self.writer.executemany, INSERT, self.rows(mark, 100))

    def submit(self, futures, mark, size=10) -> None:
        futures[mark] = self.writer.submit(INSERT, *self.rows(mark, size))

    def collect(self, futures) -> None:
        for mark, future in futures.items():
            self.call(mark, future.result, 30)

    def mix(self) -> None:
        """Every kind of write, and a flush."""
        self.one(1, 12_000)
        self.one(2, sql=RETURNING)
        self.many(3)
        self.group()
        futures = {}
        self.submit(futures, 30)
        self.writer.flush()
        assert futures[30].done()
        self.collect(futures)

    def group(self) -> None:
        """A transaction, and behind it callers whose writes are held together."""
        futures = {}
        held = threading.Event()
        begun = threading.Event()

        def submit() -> None:
            begun.wait()
            for mark, size in ((10, 10), (13, 3_000), (14, 10)):
                self.submit(futures, mark, size)
            futures[POISONED] = self.writer.submit(POISON, (POISONED,))
            held.set()

        callers = [
            threading.Thread(target=submit),
            threading.Thread(target=lambda: (held.wait(), self.many(12))),
            threading.Thread(target=lambda: (held.wait(), self.many(15))),
        ]
        for caller in callers:
            caller.start()
        steps = {}
        ended = None
        try:
            with self.writer.transaction() as transaction:
                begun.set()
                held.wait()
                # Goes on after an error, as an application may that has caught it.
                for mark in sorted(STEPS):
                    try:
                        transaction.executemany(INSERT, self.rows(mark))
                        steps[mark] = None
                    except TurnwiseError as error:
                        steps[mark] = error
        except TurnwiseError as error:
            ended = error
        self.transactions[ended is None] += 1
        begun.set()
        for mark in STEPS:
            self.told.append((mark, steps.get(mark) or ended))
        for caller in callers:
            caller.join()
        self.collect(futures)

    def closing(self) -> None:
        """Writes that are queued while the writer closes."""
        futures = {}
        for mark in CLOSING:
            self.submit(futures, mark)
        self.writer.close()
        self.collect(futures)

    def check_counters(self, units) -> None:
        stats = self.writer.stats()
        landed = sum(error is None for mark, error in self.told if mark not in STEPS)
        assert stats.committed == landed + self.transactions[True], (stats, self.told)
        assert stats.submitted == len(units - STEPS) + 1, stats
        assert (stats.queue_rows, stats.cancelled) == (0, 0), stats

    def check_file(self, path, units) -> Counter[bool]:
        """What was told is what is there. How many units in doubt are there, and how many are not."""
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            found = dict(connection.execute("SELECT mark, count(*) FROM t GROUP BY 1"))
        assert found.pop(0) == 1
        assert Counter(mark for mark, _ in self.told) == Counter(units), "each has one outcome"
        in_doubt = Counter()
        for mark, error in self.told:
            rows = found.pop(mark, 0)
            if error is None:
                assert rows == ROWS[mark], (mark, rows, "told done")
            elif isinstance(error, CommitOutcomeUnknownError):
                assert rows in {0, ROWS[mark]}, (mark, rows, "in doubt")
                in_doubt[rows > 0] += 1
            else:
                assert rows == 0, (mark, rows, error)
        assert not found, found
        return in_doubt


def play(template: Path, journal: str, call: str, code: int, after: int, times: int):
    """One round: how often the fault struck, the errors that were told, the units left in doubt."""
    folder = Path(tempfile.mkdtemp(dir=template.parent))
    played = Round(template, folder, journal)
    writer = played.writer
    faults.failing_io_arm(os.fsencode(folder), b"", call.encode(), code, 0, after, times)
    played.mix()
    units = set(MIX)
    if not faults.failing_io_struck():
        played.closing()
        units |= set(CLOSING)
    faults.failing_io_disarm()
    copy(played.path, folder / "left.db")
    in_doubt = played.check_file(folder / "left.db", units)
    played.check_counters(units)
    if writer.closed:
        played.writer = BatchWriter(played.path, journal_mode=journal)
    played.one(99)
    assert played.told[-1] == (99, None), "it works on"
    played.writer.close()
    played.check_file(played.path, units | {99})
    shutil.rmtree(folder)
    errors = [error for _, error in played.told if error and not isinstance(error, ConstraintError)]
    return faults.failing_io_struck(), errors, in_doubt


def main(journal: str, call: str, name: str, limit: str) -> None:
    # In memory where there is a place for it: a sync that does not fail need not take its time.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        sweep(Path(folder).resolve(), journal, call, name, int(limit))


def sweep(folder: Path, journal: str, call: str, name: str, limit: int) -> None:
    code = getattr(errno, name)
    template = folder / "template.db"
    make_template(template, journal)
    told, in_doubt = Counter(), Counter()
    counts = {}
    for times in (1, LASTING):
        after, strikes = 0, 0
        while True:
            faulthandler.dump_traceback_later(limit, exit=True)
            try:
                struck, errors, doubts = play(template, journal, call, code, after, times)
            except BaseException:
                print(f"{journal}, {call}, {name}: number {after}, {times} times", file=sys.stderr)
                raise
            told.update(error.kind for error in errors)
            in_doubt += doubts
            strikes += struck
            if not struck:
                break
            after += 1
        counts["once" if times == 1 else "lasting"] = [after, strikes]
    there = {"there": in_doubt[True], "not there": in_doubt[False]}
    print(json.dumps({"swept": counts, "told": told, "in doubt": there}))


if __name__ == "__main__":
    main(*sys.argv[1:])
