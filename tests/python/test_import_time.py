"""`import turnwise` costs next to nothing."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import turnwise

LIMIT_MS = 5.0
RUNS = 21
# Isolated and without `site`: nothing but the interpreter and turnwise can have imported a module.
PROBE = """
import sys
sys.path.insert(0, sys.argv[1])
from time import perf_counter
begin = perf_counter()
import turnwise
took = perf_counter() - begin
modules = sorted(sys.modules)
import json
print(json.dumps({"ms": took * 1e3, "modules": modules}))
"""


def probe():
    folder = str(Path(turnwise.__file__).resolve().parent.parent)
    command = [sys.executable, "-I", "-S", "-c", PROBE, folder]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def test_the_import_is_fast():
    probe()  # Compiles the modules and fills the page cache.
    # A busy machine only ever adds time, so the best of three medians is the honest one.
    medians = [statistics.median(probe()["ms"] for _ in range(RUNS)) for _ in range(3)]
    assert min(medians) <= LIMIT_MS, f"medians of {RUNS} runs in ms: {medians}"


def test_slow_modules_stay_off_the_import_path():
    slow = {"argparse", "asyncio", "concurrent.futures", "dataclasses", "datetime", "json"}
    slow |= {"logging", "sqlite3", "tqdm", "typing", "inspect", "subprocess"}
    assert slow.isdisjoint(probe()["modules"])
