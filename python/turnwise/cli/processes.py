"""One side of the story in several processes, all released together."""

from __future__ import annotations

import multiprocessing
import signal
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Protocol

from turnwise.cli.output import plain_warnings
from turnwise.cli.story import Side, Threads

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier

STARTUP = 60.0
"""Seconds that all processes have to be ready."""


class Run(Protocol):
    """Does the saves of one process; goes to another process by pickling."""

    def __call__(self, path: str, side: Side, threads: Threads) -> None:
        """Fill in `side` and `threads`."""


def run_in_processes(run: Run, path: str, side: Side, threads: Threads, processes: int) -> None:
    """Splits the threads' work between processes and adds up what came of it.

    Raises `RuntimeError` with what a process met.
    """
    context = multiprocessing.get_context("spawn")
    release = context.Barrier(processes)
    ends: list[Connection] = []
    children = []
    try:
        for number in range(processes):
            ours, theirs = context.Pipe(duplex=False)
            part = (number, processes)
            arguments = (run, path, side, threads.plan(), part, release, theirs)
            child = context.Process(target=_work, args=arguments, daemon=True)
            child.start()
            theirs.close()
            children.append(child)
            ends.append(ours)
        waiting = list(ends)
        while waiting:
            for end in wait(waiting):
                waiting.remove(end)  # type: ignore[arg-type]
                _add(end, side, threads)  # type: ignore[arg-type]
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.join()
        for end in ends:
            end.close()


def _add(end: Connection, side: Side, threads: Threads) -> None:
    try:
        error, part, outcomes = end.recv()
    except EOFError:
        raise RuntimeError("a process of the demo was killed") from None
    if error is not None:
        raise RuntimeError(error)
    side.transactions += part.transactions
    side.sqlite_version = part.sqlite_version
    threads.add(outcomes)


def _work(
    run: Run,
    path: str,
    side: Side,
    plan: tuple[int, int, float],
    part: tuple[int, int],
    release: Barrier,
    end: Connection,
) -> None:
    # The parent, which gets the same Ctrl-C, ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threads = Threads(*plan, part=part, release=lambda: release.wait(STARTUP))
    try:
        with plain_warnings(shown=part[0] == 0):
            run(path, side, threads)
    except Exception as failed:
        release.abort()
        end.send((f"{type(failed).__name__}: {failed}", None, None))
    else:
        end.send((None, side, threads.outcomes()))
