"""Opens and closes many writers with few descriptors to spare."""

from __future__ import annotations

import os
import resource
import sqlite3
from contextlib import closing
from pathlib import Path

import turnwise
from process_support import play

LIMIT = 256


def cycles(folder: str, journal: str, fresh: str, count: str) -> None:
    """Opens, writes and closes `count` times: one file, or a temporary one each time."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
    samples = []
    number = int(count)
    for cycle in range(number):
        path = Path(folder, f"{cycle}.db" if fresh == "1" else "a.db")
        with turnwise.BatchWriter(path, journal_mode=journal, durability="normal") as writer:
            if cycle == 0 or fresh == "1":
                writer.execute("CREATE TABLE t (x)")
            writer.execute("INSERT INTO t VALUES (?)", (cycle,))
        if fresh == "1":
            path.unlink()
        if cycle in {number // 5, number - 1}:
            samples.append(len(os.listdir("/proc/self/fd")))
    if fresh == "0":
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT count(*), count(DISTINCT x) FROM t").fetchone() == (
                number,
                number,
            )
    print(samples)
    # A kept descriptor or two more or less is chance; one for each cycle is a leak.
    assert samples[1] <= samples[0] + 8, samples


if __name__ == "__main__":
    play({"cycles": cycles})
