"""How long an event loop is kept from its other work: `loop_time.py FOLDER ROUNDS SECONDS`.

200 coroutines write with `aexecute` while a thread hogs, and every callback and step that the loop
runs is timed on the loop's thread: by the wall clock, by the thread's own CPU time, and by whether
the thread went to sleep in it. A step that never slept and took longer than its CPU time was
preempted by the scheduler, which no code of ours can prevent; the same loop without a write shows
how often that happens. `blocked` is therefore the wall clock of a step that slept, and the CPU time
of one that did not.

The hogs: none; a `writer` thread that keeps the same `BatchWriter` busy with lists of 500 rows; and
a thread of pure `python`, which keeps the GIL for up to its switch interval (5 ms) whenever the
loop's thread lets go of it, in turnwise or anywhere.
"""

from __future__ import annotations

import asyncio
import asyncio.events
import gc
import json
import os
import resource
import sys
import threading
import time
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

from alone import fresh, verify
from turnwise import BatchWriter
from turnwise.cli.story import SAVE, percentiles

if TYPE_CHECKING:
    from collections.abc import Iterator

COROUTINES = 200
HOG_ROWS = 500
HOG_FIRST_KEY = 1_000_000
HOGS = ("none", "writer", "python")


class Steps:
    """Times every handle that a loop runs while the block is open."""

    def __init__(self) -> None:
        self.steps: list[tuple[float, float, int]] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Wraps `Handle._run`, which runs each callback and each step of a task."""
        handle, run, steps = asyncio.events.Handle, asyncio.events.Handle._run, self.steps  # noqa: SLF001
        me = threading.get_ident()

        def timed(self: asyncio.events.Handle) -> None:
            if threading.get_ident() != me:
                return run(self)
            slept = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
            cpu, wall = time.thread_time(), time.perf_counter()
            try:
                return run(self)
            finally:
                wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
                slept = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - slept
                steps.append((wall * 1000, cpu * 1000, slept))

        handle._run = timed  # noqa: SLF001
        try:
            yield
        finally:
            handle._run = run  # noqa: SLF001

    def summary(self) -> dict[str, object]:
        """Milliseconds by percentiles, and how many steps were long."""
        blocked = [wall if slept else cpu for wall, cpu, slept in self.steps]
        return {
            "steps": len(self.steps),
            "wall_ms": percentiles([wall for wall, _, _ in self.steps]),
            "cpu_ms": percentiles([cpu for _, cpu, _ in self.steps]),
            "blocked_ms": percentiles(blocked),
            "steps_that_slept": sum(slept > 0 for _, _, slept in self.steps),
            "steps_blocked_over_1_ms": sum(value > 1 for value in blocked),
        }


def measure(folder: str, hog: str, seconds: float, *, writing: bool) -> dict[str, object]:
    """One round; without `writing` the coroutines only take turns."""
    path = fresh(folder, "loop.db")
    steps, stop, saved = Steps(), threading.Event(), [0, 0]

    def hog_writer(writer: BatchWriter) -> None:
        while not stop.is_set():
            rows = [(HOG_FIRST_KEY + row, f"hog {saved[1]}") for row in range(HOG_ROWS)]
            writer.executemany(SAVE, rows)
            saved[1] += HOG_ROWS

    def hog_python(writer: BatchWriter) -> None:
        while not stop.is_set():
            sum(range(1000))

    async def work(writer: BatchWriter, number: int, until: float) -> None:
        turn = number
        while time.monotonic() < until:
            if writing:
                await writer.aexecute(SAVE, (turn, f"topic {turn} saved"))
                saved[0] += 1
            else:
                await asyncio.sleep(0.002)
            turn += COROUTINES

    async def all_coroutines(writer: BatchWriter) -> None:
        until = time.monotonic() + seconds
        tasks = [asyncio.create_task(work(writer, n, until)) for n in range(COROUTINES)]
        with steps.watching():
            await asyncio.gather(*tasks)

    with BatchWriter(path) as writer:
        hogs = {"writer": hog_writer, "python": hog_python}
        # The hog of the baseline writes too: only the loop does not.
        thread = threading.Thread(target=hogs.get(hog, lambda writer: None), args=(writer,))
        thread.start()
        # A full collection takes milliseconds, and the application's objects are none of ours.
        gc.collect()
        gc.disable()
        try:
            asyncio.run(all_coroutines(writer))
        finally:
            gc.enable()
            stop.set()
            thread.join()
    if writing or hog == "writer":
        verify(path, sum(saved))
    return {**steps.summary(), "writes": saved[0]}


def main() -> None:
    """Measures and prints."""
    folder, rounds, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    warnings.simplefilter("ignore", RuntimeWarning)
    measures: dict[str, list[dict[str, object]]] = {}
    for _ in range(rounds):
        for hog in HOGS:
            for writing in (True, False):
                name = f"{hog}_{'writing' if writing else 'baseline'}"
                measured = measure(folder, hog, seconds, writing=writing)
                measures.setdefault(name, []).append(measured)
    settings = {
        "coroutines": COROUTINES,
        "hog_rows": HOG_ROWS,
        "seconds": seconds,
        "switch_interval_ms": sys.getswitchinterval() * 1000,
        "cpus": os.cpu_count(),
    }
    print(json.dumps({"settings": settings, "measures": measures}))


if __name__ == "__main__":
    main()
