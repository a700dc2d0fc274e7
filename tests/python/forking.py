"""Children made by `fork`, and threads that write while they are made."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from process_support import INSERT, Record

if TYPE_CHECKING:
    import turnwise

# Seconds after which a child shows its stacks and dies.
CHILD_LIMIT = 40


def fork(work, *, end: str = "_exit") -> int:
    """Forks a child that does `work` and ends by os._exit, sys.exit or SIGKILL."""
    pid = os.fork()
    if pid:
        return pid
    # The parent's alarm is not inherited; a child that hangs shows its stacks and dies.
    signal.alarm(CHILD_LIMIT)
    if end == "sys.exit":
        try:
            work()
        except Exception:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        sys.exit(0)
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        if end == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(status)


@contextmanager
def busy(writer: turnwise.BatchWriter, record: Record, threads: int = 8):
    """Threads that write in every way for the whole block; an error of theirs ends the scene."""
    over, errors = threading.Event(), []

    def write(party: str) -> None:
        number = 0
        try:
            while not over.is_set():
                write_some(writer, record, party, number, 4)
                number += 4
        except BaseException as error:
            errors.append(error)

    crew = [threading.Thread(target=write, args=(f"parent-{at}",)) for at in range(threads)]
    for thread in crew:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in crew:
            thread.join()
    if errors:
        raise errors[0]


def write_some(writer, record, party: str, first: int, count: int) -> None:
    """`count` rows, each way of writing in turn, each recorded once acknowledged."""
    for number in range(first, first + count):
        way = number % 4
        if way == 0:
            writer.execute(INSERT, (party, number))
        elif way == 1:
            writer.submit(INSERT, (party, number)).result(CHILD_LIMIT)
        elif way == 2:
            writer.executemany(INSERT, [(party, number)])
        else:
            with writer.transaction() as tx:
                tx.execute(INSERT, (party, number))
        record.note(party, number)


def ended(status: int, end: str) -> None:
    assert status == (-signal.SIGKILL if end == "kill" else 0), (status, end)
