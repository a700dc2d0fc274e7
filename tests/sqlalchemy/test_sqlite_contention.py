"""Many processes and threads write one file through ORM sessions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sqlite_support import make_database, names

LOAD = Path(__file__).with_name("sqlite_load.py")
PROCESSES, THREADS, ROWS = 4, 4, 15


@pytest.mark.parametrize("turns", ["on", "off"])
def test_every_row_lands_with_turns_and_some_fail_without(tmp_path, turns):
    path = make_database(tmp_path)
    processes = [
        subprocess.Popen(
            [sys.executable, LOAD, path, str(number), str(THREADS), str(ROWS), turns],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for number in range(PROCESSES)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    failed = sum(int(process.communicate(timeout=120)[0]) for process in processes)
    assert [process.returncode for process in processes] == [0] * PROCESSES
    landed = names(path)
    assert len(set(landed)) == len(landed) == 2 * (PROCESSES * THREADS * ROWS - failed)
    assert (failed == 0) == (turns == "on"), f"{failed} transactions failed"
