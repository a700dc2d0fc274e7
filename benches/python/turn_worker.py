"""One process of a side: `turn_worker.py SPEC`, or `turn_worker.py --probe FOLDER`.

The specification is JSON: see `crowd.Party`. The process opens the file, prints `ready`, reads the
time (seconds since 1970) at which all processes start, writes until the end of the window, and
prints what came of it as JSON. The Rust program's `party` is the same.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
import warnings
from dataclasses import asdict, dataclass, field
from typing import Any

from turn_sides import KEYS, SIDES, InDoubtError, prepare, remove
from turnwise.cli.story import Save, SaveFailedError, SideCutError


@dataclass
class Told:
    """What one thread met."""

    acknowledged: int = 0
    in_window: int = 0
    failed: int = 0
    in_doubt: int = 0
    """Saves that were cut at the end, or of which nobody knows: in the file or not."""
    error: str | None = None
    ended: float = 0.0
    """Seconds from the start to the return of the last save."""
    waits_us: dict[int, int] = field(default_factory=dict)
    """How many waits took so many microseconds."""


def digits(wait: int) -> int:
    """The wait in the four digits that are kept, so that ten minutes of them fit into memory."""
    step = 1
    while wait // step > 9999:
        step *= 10
    return wait // step * step


def write(save: Save, thread: int, spec: dict[str, Any], start: float, told: Told) -> None:
    """Saves until the window ends.

    `pause`: seconds from the end of one save to the next. `every`: seconds from one intended start
    to the next, from which the wait then counts.
    """
    end, every, pause = start + spec["seconds"], spec["every"], spec["pause"]
    draw = random.Random(f"{spec['seed']} {thread}")
    number = 0
    while True:
        begun = time.monotonic()
        if every:
            begun = start + every * (number + draw.random())
            time.sleep(max(0.0, begun - time.monotonic()))
        if begun >= end:
            return
        error = None
        try:
            save(thread * KEYS + number % KEYS, f"topic {number} saved")
            told.acknowledged += 1
        except SaveFailedError as failed:
            told.failed += 1
            error = str(failed)
        except (SideCutError, InDoubtError) as doubt:
            told.in_doubt += 1
            error = str(doubt)
        ended = time.monotonic()
        wait = digits(int((ended - begun) * 1e6))
        told.waits_us[wait] = told.waits_us.get(wait, 0) + 1
        told.ended = ended - start
        told.in_window += error is None and ended <= end
        told.error = told.error or error
        number += 1
        if pause:
            time.sleep(pause)


def work(spec: dict[str, Any]) -> dict[str, Any]:
    """Opens, waits for the start, writes, closes."""
    stop = threading.Event()
    told = [Told() for _ in range(spec["threads"])]
    broken: list[BaseException] = []
    ready = threading.Barrier(spec["threads"] + 1)
    begin = threading.Event()
    start = 0.0
    with SIDES[spec["side"]].open(spec["path"], spec["level"], stop) as opened:

        def run(index: int) -> None:
            try:
                thread = spec["first"] + index
                save, close = opened.connect(thread)
                ready.wait()
                begin.wait()
                time.sleep(max(0.0, start - time.monotonic()))
                write(save, thread, spec, start, told[index])
                close()
            except BaseException as error:  # noqa: BLE001 - raised by the main thread
                broken.append(error)
                ready.abort()

        threads = [threading.Thread(target=run, args=(n,)) for n in range(spec["threads"])]
        for thread in threads:
            thread.start()
        try:
            ready.wait()
        except threading.BrokenBarrierError:
            raise broken[0] from None
        print("ready", flush=True)
        start = time.monotonic() + float(sys.stdin.readline()) - time.time()
        before = opened.stats()
        begin.set()
        time.sleep(max(0.0, start + spec["seconds"] - time.monotonic()))
        stop.set()
        for thread in threads:
            thread.join()
        after = opened.stats()
    if broken:
        raise broken[0]
    return {
        "threads": [asdict(one) | {"waits_us": list(one.waits_us.items())} for one in told],
        "stats": {name: after[name] - before[name] for name in after},
    }


def probe(folder: str) -> dict[str, dict[str, str | None]]:
    """For each side and level why it cannot be measured, or nothing."""
    found: dict[str, dict[str, str | None]] = {}
    for name, side in SIDES.items():
        if side.open is None:
            continue
        for level in side.levels:
            path = os.path.join(folder, f"probe-{name}-{level}.db")
            prepare(path)
            try:
                with side.open(path, level, threading.Event()) as opened:
                    save, close = opened.connect(0)
                    save(0, "a probe")
                    close()
                why = None
            except Exception as error:  # noqa: BLE001 - whatever keeps it from being measured
                why = f"{type(error).__name__}: {error}"
            remove(path)
            found.setdefault(name, {})[level] = why
    return found


def main() -> None:
    """Prints what the command line asks for."""
    warnings.simplefilter("ignore", RuntimeWarning)
    if sys.argv[1] == "--probe":
        print(json.dumps(probe(sys.argv[2])))
    else:
        print(json.dumps(work(json.loads(sys.argv[1]))))


if __name__ == "__main__":
    main()
