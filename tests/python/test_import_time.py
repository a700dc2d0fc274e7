"""`import turnwise` costs next to nothing."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

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


NEEDY = """
import sys
sys.path.insert(0, sys.argv[1])
import turnwise
if len(sys.argv) > 2:
    import types
    from importlib.machinery import ModuleSpec
    sys.modules["sqlalchemy"] = types.ModuleType("sqlalchemy")
    sys.modules["sqlalchemy"].__version__ = sys.argv[2]
    sys.modules["sqlalchemy"].__spec__ = ModuleSpec("sqlalchemy", None)
else:
    import pydoc
    assert "BatchWriter" in pydoc.render_doc(turnwise)
assert turnwise.advisory_key("x") and turnwise.http and turnwise.retry_on_deadlock
for name in ("install", "commit_with_retry", "claim"):
    try:
        getattr(turnwise, name)
    except ImportError as error:
        print(type(error).__name__, error)
try:
    turnwise.flask.Turnwise
except ImportError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("installed", "kind", "what"),
    [
        ([], "ModuleNotFoundError", ": pip install sqlalchemy"),
        (["1.4.54"], "ImportError", "; installed is 1.4.54"),
    ],
)
def test_what_needs_sqlalchemy_says_so_without_it(installed, kind, what):
    folder = str(Path(turnwise.__file__).resolve().parent.parent)
    command = [sys.executable, "-I", "-S", "-c", NEEDY, folder, *installed]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    names = ("install", "commit_with_retry", "claim", "flask.Turnwise")
    assert said.splitlines() == [
        f"{kind} turnwise.{name} needs SQLAlchemy 2.0 or newer{what}" for name in names
    ]
