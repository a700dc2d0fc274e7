"""The parties of the storm, and of the scenes with two copies of SQLite in one process.

The first argument names the scene. Rows that were acknowledged are printed, or recorded in a file.
"""

from __future__ import annotations

import sqlite3
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import turnwise
from process_support import INSERT, Record, outsider_gets_lock, play

OURS, HOST, OTHER = 1_000, 300, 200
GIVE_UP = 60.0


class Crew:
    """Threads whose errors are kept and raised at the end."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.errors: list[BaseException] = []
        self.over = threading.Event()

    def add(self, work, *arguments: object) -> None:
        def guarded() -> None:
            try:
                work(*arguments)
            except BaseException as error:
                self.errors.append(error)

        self.threads.append(threading.Thread(target=guarded))

    def run(self) -> None:
        for thread in self.threads:
            thread.start()
        for thread in self.threads:
            thread.join()
        if self.errors:
            raise self.errors[0]


def ours(writer: turnwise.BatchWriter, record: Record, party: str) -> None:
    """Writes in all ways that block; any error ends the scene."""
    unit = 0
    while unit < OURS:
        if unit % 50 == 0:
            with writer.transaction() as tx:
                tx.execute(INSERT, (party, unit))
                tx.execute(INSERT, (party, unit + 1))
            numbers = [unit, unit + 1]
        elif unit % 50 == 10:
            numbers = list(range(unit, unit + 5))
            writer.executemany(INSERT, [(party, number) for number in numbers])
        elif unit % 50 == 20:
            numbers = list(range(unit, unit + 5))
            futures = [writer.submit(INSERT, (party, number)) for number in numbers]
            for future in futures:
                future.result()
        else:
            numbers = [unit]
            writer.execute(INSERT, (party, unit))
        for number in numbers:
            record.note(party, number)
        unit += len(numbers)


def host(path: str, record: Record, party: str, count: int) -> None:
    """Opens, writes and closes with Python's own SQLite. It may be starved; then it tries again."""
    end = time.monotonic() + GIVE_UP
    number = 0
    for _ in range(count):
        while True:
            number += 1
            try:
                with closing(sqlite3.connect(path, timeout=5)) as connection, connection:
                    connection.execute(INSERT, (party, number))
            except sqlite3.OperationalError as error:
                if "locked" not in str(error):
                    raise
                assert time.monotonic() < end, f"{party} is starved at {number} of {count}"
            else:
                record.note(party, number)
                break


def reader(path: str, over: threading.Event) -> None:
    """Opens, reads and closes with Python's own SQLite, each of which used to drop our locks."""
    while not over.is_set():
        with closing(sqlite3.connect(path, timeout=60)) as connection:
            connection.execute("SELECT count(*) FROM landed WHERE party = 'ours-0'").fetchone()
        time.sleep(0.001)


def storm(path: str, journal: str, record: str) -> None:
    """Everybody in this process: 4 threads of ours, 2 of the host's, 2 readers."""
    crew, readers = Crew(), Crew()
    with turnwise.BatchWriter(path, journal_mode=journal) as writer:
        for at in range(4):
            crew.add(ours, writer, Record(record), f"ours-{at}")
        for at in range(2):
            crew.add(host, path, Record(record), f"host-{at}", HOST)
            readers.add(reader, path, crew.over)
        watch = threading.Thread(target=readers.run)
        watch.start()
        try:
            crew.run()
        finally:
            crew.over.set()
            watch.join()
        if readers.errors:
            raise readers.errors[0]
        stats = writer.stats()
    print(stats.transactions, stats.lock_retries, stats.checkpoints)


def other(path: str, record: str) -> None:
    """Another process that knows nothing of turnwise."""
    host(path, Record(record), "other", OTHER)


def other_ours(path: str, journal: str, record: str) -> None:
    """Another process with a writer of ours."""
    record = Record(record)
    with turnwise.BatchWriter(path, journal_mode=journal) as writer:
        for number in range(OTHER):
            writer.execute(INSERT, ("other-ours", number))
            record.note("other-ours", number)


def lock_survives_readers(path: str, journal: str) -> None:
    """Readers of the host's copy come and go; nobody else gets the lock that we hold."""
    with turnwise.BatchWriter(path, journal_mode=journal, hold_limit=60) as writer:
        with writer.transaction() as tx:
            tx.execute(INSERT, ("ours", 1))
            for _ in range(3):
                with closing(sqlite3.connect(path, timeout=0)) as connection:
                    assert connection.execute("SELECT count(*) FROM landed").fetchone() == (0,)
                assert not outsider_gets_lock(path), "a reader's close dropped our lock"
                # Opened as a plain file: this close drops every POSIX lock of the process, too.
                Path(path).read_bytes()
                assert not outsider_gets_lock(path), "closing a plain file dropped our lock"
        assert outsider_gets_lock(path)


def host_lock_survives_ours(path: str, journal: str) -> None:
    """Our writers come and go; nobody else gets the lock that the host's copy holds."""
    with closing(sqlite3.connect(path, timeout=5, isolation_level=None)) as connection:
        for number in range(3):
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(INSERT, ("host", number))
            begun = time.monotonic()
            try:
                with turnwise.BatchWriter(path, journal_mode=journal) as writer:
                    writer.execute(INSERT, ("ours", number), timeout=0.1)
            except turnwise.errors.LockTimeoutError:
                assert time.monotonic() - begun < 5
            else:
                raise AssertionError("we wrote while the host's copy had the lock")
            assert not outsider_gets_lock(path), "our close dropped the host's lock"
            connection.execute("COMMIT")
            with turnwise.BatchWriter(path, journal_mode=journal) as writer:
                writer.execute(INSERT, ("ours", number))


SCENES = {
    scene.__name__: scene
    for scene in (storm, other, other_ours, lock_survives_readers, host_lock_survives_ours)
}

if __name__ == "__main__":
    sys.setswitchinterval(0.001)
    play(SCENES)
