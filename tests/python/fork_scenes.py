"""Scenes around `fork`, each played in a process of its own; the first argument names the scene."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import TimeoutError as FutureTimeoutError
from functools import partial

import turnwise
from forking import CHILD_LIMIT, busy, ended, fork, write_some
from process_support import INSERT, Record, locked, outsider_gets_lock, play, reap, wait_for

LISTER = [
    sys.executable,
    "-c",
    "import os\nfor fd in range(256):\n try: print(os.readlink(f'/proc/self/fd/{fd}'))\n except OSError: pass",
]
SLEEPER = [sys.executable, "-c", "import time; time.sleep(30)"]


def storm(path: str, journal: str, record_path: str, forks: str) -> None:
    """Forks at any moment of 8 writing threads; children write at once, some have children too."""
    record = Record(record_path)
    writer = turnwise.BatchWriter(path, journal_mode=journal)
    rng = random.Random(7)

    def child(at: int) -> None:
        write_some(writer, record, f"child-{at}", 0, 8)
        if at % 5 == 0:
            grandchild = fork(lambda: write_some(writer, record, f"grandchild-{at}", 0, 4))
            write_some(writer, record, f"child-{at}", 8, 4)
            assert reap(grandchild) == 0

    ends = ["_exit", "sys.exit", "kill"]
    with busy(writer, record):
        children = {}
        for at in range(int(forks)):
            end = ends[at % 3]
            pid = fork(lambda at=at: child(at), end=end)
            children[pid] = end
            time.sleep(rng.uniform(0, 0.01))
            while len(children) >= 8:
                pid = next(iter(children))
                ended(reap(pid), children.pop(pid))
        for pid, end in children.items():
            ended(reap(pid), end)
    stats = writer.stats()
    assert stats.failed == stats.cancelled == 0, stats
    writer.close()


def transaction_here(path: str, journal: str, record_path: str) -> None:
    """The forking thread has a transaction open: it stays the parent's, and the lock too."""
    record = Record(record_path)
    writer = turnwise.BatchWriter(path, journal_mode=journal, hold_limit=60)

    def child(tx) -> None:
        try:
            tx.execute(INSERT, ("stray", 0))
        except turnwise.TurnwiseError as refused:
            told = str(refused)
        else:
            told = "nothing"
        assert "fork" in told, (
            f"the child's use of its parent's transaction was answered by: {told}"
        )
        try:
            writer.execute(INSERT, ("stray", 1), timeout=0.2)
        except turnwise.errors.LockTimeoutError:
            pass
        else:
            raise AssertionError("the child wrote while its parent had the lock")

    for end in ("_exit", "sys.exit", "kill"):
        with writer.transaction() as tx:
            tx.execute(INSERT, (end, 0))
            ended(reap(fork(lambda tx=tx: child(tx), end=end)), end)
            assert not outsider_gets_lock(path), f"the child's end ({end}) freed the parent's lock"
            tx.execute(INSERT, (end, 1))
        record.note(end, 0)
        record.note(end, 1)
    # A child that leaves the block by itself.
    pid = 0
    try:
        with writer.transaction() as tx:
            tx.execute(INSERT, ("block", 0))
            pid = os.fork()
            if pid == 0:
                raise KeyError
            assert reap(pid) == 0
            assert not outsider_gets_lock(path), "the child's rollback freed the parent's lock"
    except KeyError:
        os._exit(0)
    except BaseException:
        if pid:
            raise
        os._exit(1)
    record.note("block", 0)
    writer.close()


def child_commits_block(path: str, journal: str, record_path: str) -> None:
    """A child that runs to the end of its parent's block is told that nothing was committed."""
    record = Record(record_path)
    writer = turnwise.BatchWriter(path, journal_mode=journal, hold_limit=60)
    pid, told = -1, ""
    try:
        with writer.transaction() as tx:
            tx.execute(INSERT, ("block", 0))
            pid = os.fork()
            if pid:
                assert reap(pid) == 0
    except turnwise.TurnwiseError as refused:
        told = str(refused)
    if pid == 0:
        os._exit(0 if "fork" in told else 1)
    assert not told, told
    record.note("block", 0)


def transaction_elsewhere(path: str, journal: str, record_path: str) -> None:
    """Another thread has a transaction open: its child waits for the lock, like anybody."""
    record = Record(record_path)
    writer = turnwise.BatchWriter(path, journal_mode=journal, hold_limit=60)
    opened, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with writer.transaction() as tx:
            tx.execute(INSERT, ("holder", 0))
            opened.set()
            assert go_on.wait(30)
            tx.execute(INSERT, ("holder", 1))
        record.note("holder", 0)
        record.note("holder", 1)

    holder = threading.Thread(target=hold)
    holder.start()
    assert opened.wait(30)
    gone = fork(lambda: None, end="sys.exit")
    assert reap(gone) == 0
    assert not outsider_gets_lock(path), "a child's end freed the lock"
    children = [
        fork(lambda at=at: write_some(writer, record, f"child-{at}", 0, 4)) for at in range(4)
    ]
    time.sleep(0.3)
    assert os.waitpid(children[0], os.WNOHANG) == (0, 0), (
        "a child did not wait for its parent's transaction"
    )
    go_on.set()
    holder.join()
    for child in children:
        assert reap(child) == 0
    writer.close()


def while_waiting(path: str, journal: str, record_path: str) -> None:
    """Forks while the queue waits for a lock of another process: nobody writes for the other."""
    record = Record(record_path)
    writer = turnwise.BatchWriter(path, journal_mode=journal)
    with locked(path):
        crew = [
            threading.Thread(target=write_some, args=(writer, record, f"waiting-{at}", 0, 4))
            for at in range(8)
        ]
        for thread in crew:
            thread.start()
        futures = [writer.submit(INSERT, ("submitted", number)) for number in range(50)]
        wait_for(lambda: writer.stats().lock_retries > 3, "the queue waits for the lock")

        def child(at: int) -> None:
            assert not futures[0].cancel(), "a child took its parent's write back"
            write_some(writer, record, f"child-{at}", 0, 4)

        children = [fork(lambda at=at: child(at)) for at in range(4)]
        idle = fork(lambda: None, end="sys.exit")
        assert reap(idle) == 0
    for thread in crew:
        thread.join()
    for number, future in enumerate(futures):
        future.result(30)
        record.note("submitted", number)
    for child_pid in children:
        assert reap(child_pid) == 0
    writer.close()


def end_is_no_delay(path: str, journal: str, record_path: str) -> None:
    """A child's end, and its close of the writer, do not keep the parent from writing."""
    record = Record(record_path)
    writer = turnwise.BatchWriter(path, journal_mode=journal)
    longest = 0.0
    for number in range(30):
        end = ["_exit", "sys.exit", "kill"][number % 3]

        def child(number: int = number) -> None:
            write_some(writer, record, f"child-{number}", 0, 4)
            if number % 2:
                writer.close()

        ended(reap(fork(child, end=end)), end)
        begun = time.monotonic()
        writer.execute(INSERT, ("parent", number))
        longest = max(longest, time.monotonic() - begun)
        record.note("parent", number)
    # Dead in the middle of its transaction.
    for number in range(10):

        def dies(number: int = number) -> None:
            with writer.transaction() as tx:
                tx.execute(INSERT, ("stray", number))
                os.kill(os.getpid(), signal.SIGKILL)

        assert reap(fork(dies)) == -signal.SIGKILL
        begun = time.monotonic()
        writer.execute(INSERT, ("after", number))
        longest = max(longest, time.monotonic() - begun)
        record.note("after", number)
    print(f"{longest * 1e3:.1f}")
    assert longest < 2, f"a write after a child's end took {longest:.2f} s"
    writer.close()


def heirless(path: str, journal: str, record_path: str) -> None:
    """A child that never writes does not keep the locks of its dead parent alive."""

    def parent() -> None:
        writer = turnwise.BatchWriter(path, journal_mode=journal, hold_limit=60)
        with writer.transaction() as tx:
            tx.execute(INSERT, ("stray", 0))
            heir = os.fork()
            if heir == 0:
                time.sleep(30)
                os._exit(0)
            Record(record_path).note(heir, 0)
            os.kill(os.getpid(), signal.SIGKILL)

    assert reap(fork(parent)) == -signal.SIGKILL
    heir = int(Record.read(record_path)[0][0])
    os.kill(heir, 0)
    try:
        # The first attempt counts: closing, it deletes the -shm file, and with it a lock that was left.
        assert outsider_gets_lock(path), "the dead parent's lock is still held"
        os.kill(heir, 0)
    finally:
        os.kill(heir, signal.SIGKILL)


def opening_and_closing(path: str, journal: str, record_path: str) -> None:
    """Forks while other threads open and close writers of the same file and of others."""
    record = Record(record_path)
    over, errors = threading.Event(), []
    # Imported before there are threads: no module survives a fork in the middle of its import.
    open_writer = partial(turnwise.BatchWriter, journal_mode=journal)

    def come_and_go(at: int) -> None:
        try:
            number = 0
            while not over.is_set():
                with open_writer(path) as writer:
                    writer.execute(INSERT, (f"guest-{at}", number))
                    record.note(f"guest-{at}", number)
                with open_writer(f"{path}-{at}-{number % 3}") as writer:
                    writer.execute("CREATE TABLE IF NOT EXISTS t (x)")
                number += 1
        except BaseException as error:
            errors.append(error)

    crew = [threading.Thread(target=come_and_go, args=(at,)) for at in range(4)]
    for thread in crew:
        thread.start()
    try:
        for at in range(40):

            def child(at: int = at) -> None:
                with open_writer(path) as writer:
                    write_some(writer, record, f"child-{at}", 0, 4)

            assert reap(fork(child, end=["_exit", "sys.exit"][at % 2])) == 0
    finally:
        over.set()
        for thread in crew:
            thread.join()
    if errors:
        raise errors[0]


def inherited_future(path: str, journal: str, record_path: str) -> None:
    """A future belongs to the process that submitted: it is completed there, and nowhere else."""
    writer = turnwise.BatchWriter(path, journal_mode=journal)
    with locked(path):
        futures = [writer.submit(INSERT, ("parent", 0))]

        def child() -> None:
            assert not futures[0].cancel()
            try:
                futures[0].result(0.3)
            except FutureTimeoutError:
                return
            raise AssertionError("the child's copy was completed")

        assert reap(fork(child)) == 0
    futures[0].result(30)
    Record(record_path).note("parent", 0)
    futures.clear()
    gc.collect()
    assert reap(fork(gc.collect, end="sys.exit")) == 0
    writer.close()


def threads_fork(path: str, journal: str, record_path: str) -> None:
    """Several threads fork at once, done-callbacks among them."""
    record = Record(record_path)
    writer = turnwise.BatchWriter(path, journal_mode=journal)
    pids, errors = [], []

    def forks(at: int) -> None:
        try:
            for number in range(6):
                pid = fork(
                    lambda number=number: write_some(writer, record, f"child-{at}-{number}", 0, 4)
                )
                pids.append(pid)
                write_some(writer, record, f"forker-{at}", number * 4, 4)
        except BaseException as error:
            errors.append(error)

    def called_back(_future: object) -> None:
        pids.append(fork(lambda: write_some(writer, record, "callback", 0, 4)))

    with busy(writer, record, threads=4):
        crew = [threading.Thread(target=forks, args=(at,)) for at in range(4)]
        for thread in crew:
            thread.start()
        future = writer.submit(INSERT, ("parent", 0))
        future.add_done_callback(called_back)
        future.result(30)
        record.note("parent", 0)
        for thread in crew:
            thread.join()
        wait_for(lambda: len(pids) == 25, "every thread and the callback have forked")
        for pid in pids:
            assert reap(pid) == 0
    if errors:
        raise errors[0]
    writer.close()


def program(path: str, journal: str, record_path: str) -> None:
    """A subprocess of a writing process inherits none of its descriptors."""
    record = Record(record_path)
    writer = turnwise.BatchWriter(path, journal_mode=journal, hold_limit=60)
    with busy(writer, record, threads=4):
        for close_fds in (True, False):
            for preexec in (None, int):
                options = {"close_fds": close_fds, "preexec_fn": preexec, "timeout": CHILD_LIMIT}
                said = subprocess.run(
                    LISTER, capture_output=True, text=True, check=True, **options
                ).stdout
                assert "/dev/null" in said or "pipe:" in said, said
                assert os.path.dirname(path) not in said, (close_fds, preexec, said)
    with writer.transaction() as tx:
        tx.execute(INSERT, ("parent", 0))
        with subprocess.Popen(SLEEPER, close_fds=False) as other:
            other.kill()
        assert not outsider_gets_lock(path)
    record.note("parent", 0)
    writer.close()


SCENES = {
    scene.__name__: scene
    for scene in (
        storm,
        transaction_here,
        child_commits_block,
        transaction_elsewhere,
        while_waiting,
        end_is_no_delay,
        heirless,
        opening_and_closing,
        inherited_future,
        threads_fork,
        program,
    )
}

if __name__ == "__main__":
    play(SCENES)
