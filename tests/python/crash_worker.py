"""The process that the crash test kills: threads that write in every way the writer offers.

Arguments: database, journal mode, record of acknowledgements, round. Prints "ready" once all
threads write.
"""

from __future__ import annotations

import sys
import threading
from functools import partial
from typing import TYPE_CHECKING

import turnwise
from process_support import INSERT, Record

if TYPE_CHECKING:
    from concurrent.futures import Future

# Rows of a unit by the thread's number, for the check that a unit is there whole or not at all.
UNIT = {"execute": 1, "executemany": 5, "submit": 1, "transaction": 3}
KINDS = (
    "execute",
    "execute",
    "executemany",
    "executemany",
    "submit",
    "submit",
    "transaction",
    "transaction",
    "execute",
)
# Every so often a unit is poisoned, and must leave nothing.
POISON_EVERY = 7
WINDOW = 16


class RefusedError(Exception):
    """The application changes its mind inside a transaction."""


class Thread:
    """One writing thread; its units are numbered, and a unit's rows follow each other."""

    def __init__(self, writer: turnwise.BatchWriter, record: Record, party: str) -> None:
        self.writer, self.record, self.party = writer, record, party
        self.slots = threading.BoundedSemaphore(WINDOW)

    def rows(self, unit: int, count: int) -> list[tuple[str, int]]:
        return [(self.party, unit * count + part) for part in range(count)]

    def execute(self, unit: int) -> None:
        self.writer.execute(INSERT, (self.party, unit))
        self.record.note(self.party, unit)

    def executemany(self, unit: int) -> None:
        rows = self.rows(unit, UNIT["executemany"])
        if unit % POISON_EVERY == 0:
            try:
                self.writer.executemany(INSERT, [*rows[:-1], (self.party, -1)])
            except turnwise.errors.ConstraintError:
                self.record.note("!" + self.party, unit)
            return
        self.writer.executemany(INSERT, rows)
        self.record.note(self.party, unit)

    def submit(self, unit: int) -> None:
        self.slots.acquire()
        self.writer.submit(INSERT, (self.party, unit)).add_done_callback(partial(self.told, unit))

    def told(self, unit: int, future: Future[object]) -> None:
        if future.exception() is None:
            self.record.note(self.party, unit)
        self.slots.release()

    def transaction(self, unit: int) -> None:
        rows = self.rows(unit, UNIT["transaction"])
        try:
            with self.writer.transaction() as tx:
                for row in rows:
                    tx.execute(INSERT, row)
                if unit % POISON_EVERY == 0:
                    raise RefusedError
        except RefusedError:
            self.record.note("!" + self.party, unit)
        else:
            self.record.note(self.party, unit)

    def run(self, kind: str, barrier: threading.Barrier) -> None:
        write = getattr(self, kind)
        barrier.wait()
        unit = 0
        while True:
            unit += 1
            write(unit)


def main(path: str, journal: str, record: str, number: str) -> None:
    writer = turnwise.BatchWriter(path, journal_mode=journal)
    barrier = threading.Barrier(len(KINDS) + 1)
    for at, kind in enumerate(KINDS):
        thread = Thread(writer, Record(record), f"{number}-{at}-{kind}")
        threading.Thread(target=thread.run, args=(kind, barrier), daemon=True).start()
    barrier.wait()
    print("ready", flush=True)
    threading.Event().wait(60)


if __name__ == "__main__":
    main(*sys.argv[1:])
