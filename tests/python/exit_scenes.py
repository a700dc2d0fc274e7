"""Processes that end while submitted writes are on their way; the first argument names the scene."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import sys
import time
from functools import partial

import turnwise
from process_support import INSERT, Record, locked, play

COUNT = 200


def submit_and_go(writer: turnwise.BatchWriter, party: str, count: int = COUNT) -> None:
    """Leaves writes in the queue and returns without waiting for any."""
    for number in range(count):
        writer.submit(INSERT, (party, number))


def opened(path: str, party: str) -> None:
    """The work of a child that opens the file itself, and keeps the writer in a global until its end."""
    global KEPT  # noqa: PLW0603 - outlives the call, as an application's writer does
    KEPT = turnwise.BatchWriter(path)
    submit_and_go(KEPT, party)


def forgotten(path: str, party: str) -> None:
    """As `opened`, but the writer is garbage before the writes have run."""
    submit_and_go(turnwise.BatchWriter(path), party)


KEPT: turnwise.BatchWriter | None = None


def plain(path: str) -> None:
    """The interpreter ends by itself."""
    opened(path, "plain")


def exits(path: str) -> None:
    """sys.exit in the main thread."""
    opened(path, "exits")
    sys.exit(0)


def garbage(path: str) -> None:
    """The writer is garbage before the interpreter ends."""
    forgotten(path, "garbage")


def inherited(path: str) -> None:
    """Children of multiprocessing that fork has given the parent's writer."""
    writer = turnwise.BatchWriter(path)
    writer.execute(INSERT, ("parent", 0))
    context = multiprocessing.get_context("fork")
    children = [
        context.Process(target=submit_and_go, args=(writer, f"child-{at}")) for at in range(4)
    ]
    for child in children:
        child.start()
    submit_and_go(writer, "parent-late")
    for child in children:
        child.join(30)
        assert child.exitcode == 0, child.exitcode


def processes(path: str, method: str) -> None:
    """Children of multiprocessing that open the file themselves; one drops its writer at once."""
    context = multiprocessing.get_context(method)
    children = [context.Process(target=opened, args=(path, f"child-{at}")) for at in range(3)]
    children.append(context.Process(target=forgotten, args=(path, "child-3")))
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        assert child.exitcode == 0, child.exitcode


def pool(path: str, method: str) -> None:
    """A pool that is closed, as its documentation asks for."""
    with multiprocessing.get_context(method).Pool(3) as workers:
        workers.map(partial(opened, path), [f"task-{at}" for at in range(6)], chunksize=1)
        workers.close()
        workers.join()


def executor(path: str, method: str) -> None:
    """A process pool of concurrent.futures."""
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(3, mp_context=context) as workers:
        list(workers.map(partial(opened, path), [f"task-{at}" for at in range(6)]))


def billiards(path: str) -> None:
    """Children and a pool of billiard, on which Celery is built."""
    import billiard

    writer = turnwise.BatchWriter(path)
    writer.execute(INSERT, ("parent", 0))
    child = billiard.Process(target=submit_and_go, args=(writer, "child"))
    child.start()
    child.join(30)
    assert child.exitcode == 0, child.exitcode
    workers = billiard.Pool(2)
    workers.map(partial(opened, path), [f"task-{at}" for at in range(4)], chunksize=1)
    workers.close()
    workers.join()


def nested_fork(path: str) -> None:
    """Plain children of os.fork that end like a program: by sys.exit, or by returning."""
    writer = turnwise.BatchWriter(path)
    writer.execute(INSERT, ("parent", 0))
    for at in range(2):
        pid = os.fork()
        if pid == 0:
            submit_and_go(writer, f"child-{at}")
            if at:
                sys.exit(0)
            return
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    submit_and_go(writer, "parent-late")


def locked_out(path: str, kind: str, deadline: str) -> None:
    """The database stays locked by somebody else: the end comes in time, and the loss has a name."""
    with locked(path):
        begun = time.monotonic()
        child = multiprocessing.get_context("fork").Process(
            target=impatient, args=(path, kind, deadline)
        )
        child.start()
        child.join(50)
        print(f"{time.monotonic() - begun:.2f}")
        assert child.exitcode == 0, child.exitcode


def impatient(path: str, kind: str, deadline: str) -> None:
    """Submits with a deadline; the writer is open, closed or garbage at the end."""
    global KEPT  # noqa: PLW0603 - as above
    # Opening needs no lock in WAL mode.
    KEPT = turnwise.BatchWriter(path)
    for number in range(3):
        KEPT.submit(INSERT, ("stray", number), timeout=float(deadline))
    if kind == "garbage":
        KEPT = None


def late_release(path: str) -> None:
    """The lock comes free while the process ends: everything lands."""
    with locked(path):
        child = multiprocessing.get_context("fork").Process(target=opened, args=(path, "patient"))
        child.start()
        time.sleep(1)
        assert child.exitcode is None, "the child did not wait"
    child.join(30)
    assert child.exitcode == 0, child.exitcode


def acknowledged_exit(path: str, record_path: str) -> None:
    """os._exit after the acknowledgement loses nothing; what was not acknowledged may be lost."""
    record = Record(record_path)
    writer = turnwise.BatchWriter(path)
    futures = [writer.submit(INSERT, ("told", number)) for number in range(50)]
    for number, future in enumerate(futures):
        future.result(30)
        record.note("told", number)
    submit_and_go(writer, "untold")
    os._exit(0)


SCENES = {
    scene.__name__: scene
    for scene in (
        plain,
        exits,
        garbage,
        inherited,
        processes,
        pool,
        executor,
        billiards,
        nested_fork,
        locked_out,
        late_release,
        acknowledged_exit,
    )
}

if __name__ == "__main__":
    play(SCENES)
