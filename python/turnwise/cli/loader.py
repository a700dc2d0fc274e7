"""Threads that take records from a bounded queue and write them through the batch writer."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING

from turnwise.cli.records import Malformed
from turnwise.cli.statement import compile_statement
from turnwise.errors import TurnwiseError

if TYPE_CHECKING:
    from collections.abc import Callable

    from turnwise import BatchWriter, WriteResult
    from turnwise.cli.ledger import Ledger
    from turnwise.cli.records import Record
    from turnwise.cli.rejects import Rejects

QUEUE_RECORDS = 4096
QUEUE_CHARACTERS = 16 * 1024 * 1024
BURST_RECORDS = 64
BURST_CHARACTERS = 1024 * 1024

ROW_FAULTS = frozenset(
    {
        "UnsupportedParameter",
        "ParameterOutOfRange",
        "ParameterMismatch",
        "UnitTooLarge",
        "Constraint",
        "TooBig",
    }
)
"""Kinds of error that the same row would meet again, whatever the state of the database."""

ROLLED_BACK_TRIES = 3


class HandOver:
    """A queue bounded by records and by characters. A burst is what is there, never waited for."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._records: deque[Record] = deque()
        self._characters = 0
        self._finished = False
        self._halted = False

    def put(self, record: Record) -> bool:
        """Waits for room and adds the record; False when the load has halted."""
        with self._changed:
            while not self._halted and (
                len(self._records) >= QUEUE_RECORDS
                or (self._records and self._characters + record.size > QUEUE_CHARACTERS)
            ):
                self._changed.wait()
            if self._halted:
                return False
            self._records.append(record)
            self._characters += record.size
            self._changed.notify_all()
            return True

    def take(self) -> list[Record]:
        """The next burst, in order; empty when there will be none."""
        burst: list[Record] = []
        characters = 0
        with self._changed:
            while not (self._records or self._finished or self._halted):
                self._changed.wait()
            while (
                self._records
                and not self._halted
                and len(burst) < BURST_RECORDS
                and characters < BURST_CHARACTERS
            ):
                record = self._records.popleft()
                burst.append(record)
                characters += record.size
            self._characters -= characters
            self._changed.notify_all()
        return burst

    def finish(self) -> None:
        """No more records will be put."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def halt(self) -> None:
        """What is still in the queue stays there."""
        with self._changed:
            self._halted = True
            self._changed.notify_all()


class Loader:
    """Writes records with `workers` threads until the input ends or `failure` is set.

    A row's own fault goes to `rejects`; anything else (a full disk, a lock that nobody gives back)
    is a `failure` that halts the load. `give_up` is asked before each burst whether to leave the
    queue unwritten; `on_failure` is called by a worker, after `failure` is set.
    """

    def __init__(
        self,
        writer: BatchWriter,
        sql: str,
        names: list[str],
        ledger: Ledger,
        rejects: Rejects,
        *,
        workers: int,
        give_up: Callable[[], bool],
        on_failure: Callable[[], None],
    ) -> None:
        self._writer = writer
        self._sql = sql
        self._names = names
        self._ledger = ledger
        self._rejects = rejects
        self._give_up = give_up
        self._on_failure = on_failure
        self._queue = HandOver()
        self._failed = threading.Lock()
        self.failure: tuple[int | None, Exception] | None = None
        """The first failure, with the line that met it."""
        self._threads: list[threading.Thread] = []
        try:
            for number in range(workers):
                thread = threading.Thread(target=self._work, name=f"turnwise-write-{number}")
                thread.start()
                self._threads.append(thread)
        except RuntimeError:
            self.drain()
            raise

    def accept(self, record: Record | Malformed) -> bool:
        """Takes the next record of the input; False when the load has halted."""
        if self.failure is not None:
            return False
        self._ledger.hand_out(record.line, record.next_line)
        if isinstance(record, Malformed):
            self._reject(record.line, record.kind, record.message, None, record.text)
            return self.failure is None
        return self._queue.put(record)

    def drain(self) -> None:
        """Waits until everything that was accepted has its outcome, or the load has halted."""
        self._queue.finish()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while not self._give_up() and (burst := self._queue.take()):
            try:
                self._write(burst)
            except Exception as error:
                self._fail(None, error)
        if self._give_up():
            self._queue.halt()

    def _write(self, burst: list[Record]) -> None:
        landed: list[int] = []
        unchanged = 0
        pending = (
            [(record, self._begin(record)) for record in burst]
            if len(burst) > 1
            else [(burst[0], None)]
        )
        for record, future in pending:
            if self._is_over() and (future is None or future.cancel()):
                # Never begun, so never applied: the line stays open in the ledger.
                continue
            try:
                # A single write has nobody to share a turn with, and the writer can run it in this
                # thread.
                result = (
                    future.result()
                    if future
                    else self._writer.execute(self._sql, record.parameters)
                )
            except Exception as error:
                self._not_landed(record, error)
            else:
                landed.append(record.line)
                unchanged += result.rowcount == 0
        self._ledger.land(landed, unchanged)

    def _begin(self, record: Record) -> Future[WriteResult] | None:
        """Submits the write; None when the load is over. A refusal is the future's exception."""
        if self._is_over():
            return None
        future: Future[WriteResult] = Future()
        try:
            future = self._writer.submit(self._sql, record.parameters)
        except Exception as error:
            future.set_exception(error)
        return future

    def _is_over(self) -> bool:
        return self.failure is not None or self._give_up()

    def _not_landed(self, record: Record, error: Exception) -> None:
        for _ in range(ROLLED_BACK_TRIES):
            if kind_of(error) != "RolledBack" or self.failure is not None:
                break
            try:
                result = self._writer.execute(self._sql, record.parameters)
            except Exception as again:
                error = again
            else:
                self._ledger.land([record.line], int(result.rowcount == 0))
                return
        if kind_of(error) == "CommitOutcomeUnknown":
            self._ledger.lose_sight(record.line)
            self._fail(record.line, error)
        elif self._is_row_fault(error):
            self._reject(record.line, kind_of(error), str(error), record.parameters, None)
        else:
            self._fail(record.line, error)

    def _is_row_fault(self, error: Exception) -> bool:
        kind = kind_of(error)
        if kind == "Statement":
            # A function may refuse this row's value ("malformed JSON") with the code of a syntax
            # error. If the statement still compiles, the row is at fault; if not, the schema has
            # changed meanwhile.
            try:
                return compile_statement(self._writer, self._sql, self._names)
            except Exception:
                return False
        if isinstance(error, TurnwiseError):
            return kind in ROW_FAULTS
        return isinstance(error, (TypeError, ValueError, OverflowError))

    def _reject(
        self, line: int, kind: str, message: str, row: dict[str, object] | None, text: str | None
    ) -> None:
        try:
            self._rejects.add(line, kind, message, row, text)
        except OSError as error:
            self._fail(line, error)
        else:
            self._ledger.reject(line)

    def _fail(self, line: int | None, error: Exception) -> None:
        with self._failed:
            if self.failure is None:
                self.failure = line, error
        self._queue.halt()
        self._on_failure()


def kind_of(error: Exception) -> str:
    """The error's kind as turnwise names it, or the class of an error of Python's own."""
    return error.kind if isinstance(error, TurnwiseError) else type(error).__name__
