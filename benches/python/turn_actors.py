"""Processes of the scenes: `turn_actors.py waiter|holders|queued|alone ARGUMENTS`.

- `waiter SIDE PATH`: for each line it reads it saves once and prints the monotonic time after it.
- `holders SIDE PATH`: for each line a child takes the lock, saves, prints its process id, and stays.

  `flock` is a side of these two: the kernel's lock by itself, without a database.
- `queued SIDE PATH THREADS`: so many threads save once; `ready` is printed before they begin.
- `alone FOLDER BLOCKS`: one thread's saves with and without the turn lock, as JSON.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import statistics
import sys
import threading
import time
import warnings
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

from turn_sides import SIDES, Opened, Side, prepare
from turnwise.cli.story import SAVE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from turnwise.cli.story import Save

BLOCK = 50


@contextmanager
def bare_flock(path: str, level: str, stop: threading.Event) -> Iterator[Opened]:
    """The kernel's lock by itself."""
    with open(path, "rb") as file:

        def save(topic: int, title: str) -> None:
            fcntl.flock(file, fcntl.LOCK_EX)
            fcntl.flock(file, fcntl.LOCK_UN)

        yield Opened(lambda thread: (save, lambda: None))


KILLED = {**SIDES, "flock": Side("bare flock", bare_flock)}


def waiter(side: str, path: str) -> None:
    """Saves when told to."""
    with KILLED[side].open(path, "full", threading.Event()) as opened:  # type: ignore[misc]
        save, close = opened.connect(os.getpid())
        print("ready", flush=True)
        for number, _ in enumerate(sys.stdin):
            save(0, f"waiter {os.getpid()} {number}")
            print(time.monotonic(), flush=True)
        close()


def hold(side: str, path: str) -> None:
    """Takes the lock and keeps it."""
    if side == "batch":
        from turnwise import BatchWriter

        with BatchWriter(path) as writer, writer.transaction() as transaction:
            transaction.execute(SAVE, (1, "never committed"))
            print(os.getpid(), flush=True)
            time.sleep(60)
    elif side == "flock":
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            print(os.getpid(), flush=True)
            time.sleep(60)
    elif side == "dropin":
        from turnwise import sqlite3 as library
    else:
        library = sqlite3
    with closing(library.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(SAVE, (1, "never committed"))
        print(os.getpid(), flush=True)
        time.sleep(60)


def holders(side: str, path: str) -> None:
    """A child for each line; the next when it has been killed."""
    print("ready", flush=True)
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                hold(side, path)
            finally:
                os._exit(1)
        os.waitpid(child, 0)


def queued(side: str, path: str, threads: str) -> None:
    """Threads that each save once, while the main thread waits for them."""
    # Who waits too long behind a turn that stands still goes on without it, and polls.
    patient = {"turn_timeout": None} if side == "batch" else {}
    with SIDES[side].open(path, "full", threading.Event(), **patient) as opened:  # type: ignore[misc]

        def save_once(thread: int) -> None:
            save, close = opened.connect(thread)
            gate.wait()
            save(thread, "queued")
            close()

        gate = threading.Barrier(int(threads) + 1)
        workers = [threading.Thread(target=save_once, args=(n,)) for n in range(int(threads))]
        for worker in workers:
            worker.start()
        gate.wait()
        print("ready", flush=True)
        for worker in workers:
            worker.join()
    print("ended", flush=True)


def alone(folder: str, blocks: str) -> None:
    """Blocks of saves of each side in turn, each on a file of its own."""
    told = {
        level: {name: statistics.median(times) for name, times in sides.items()}
        for level in ("full", "normal")
        for sides in [alone_at(folder, level, int(blocks) * (1 if level == "full" else 4))]
    }
    print(json.dumps(told))


def alone_at(folder: str, level: str, blocks: int) -> dict[str, list[float]]:
    """Seconds for a save, a figure for each block."""
    names = ("batch", "batch_alone", "timeout", "dropin")
    saves: dict[str, Save] = {}
    with ExitStack() as stack:
        for name in names:
            path = os.path.join(folder, f"alone-{level}-{name}.db")
            prepare(path)
            try:
                opened = stack.enter_context(SIDES[name].open(path, level, threading.Event()))  # type: ignore[misc]
                saves[name], close = opened.connect(0)
            except ImportError:
                continue
            stack.callback(close)
            saves[name](0, "the first")
        times: dict[str, list[float]] = {name: [] for name in saves}
        for block in range(blocks):
            for name in (*saves, *reversed(saves)):
                save = saves[name]
                started = time.perf_counter()
                for number in range(BLOCK):
                    save(number, f"topic {block} {number} {len(times[name])}")
                times[name].append((time.perf_counter() - started) / BLOCK)
    return times


ACTORS = {"waiter": waiter, "holders": holders, "queued": queued, "alone": alone}

if __name__ == "__main__":
    warnings.simplefilter("ignore", RuntimeWarning)
    ACTORS[sys.argv[1]](*sys.argv[2:])
