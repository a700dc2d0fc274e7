"""CPython's own tests of sqlite3 say of `turnwise.sqlite3` what they say of the standard library.

They are those of the installed Python, run in a child process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RUNNER = Path(__file__).with_name("sqlite3_cpython.py")
LOUD = (
    "this Python came without test.test_sqlite3 (Debian has it in libpython3-testsuite): the "
    "drop-in was NOT compared with the standard library"
)

# The line that a warning of C code names is that of the innermost Python function, which is ours.
WARNS_AT_OUR_LINE = {
    "test_execute_named_param_and_sequence",
    "test_sqlite_date",
    "test_sqlite_timestamp",
}
# What the trace callback sees is the change that this is all about: BEGIN IMMEDIATE for BEGIN.
TRACES_BEGIN = {
    "test_autocommit_compat_ctx_mgr",
    "test_isolation_level_begin",
    "test_isolation_level_default",
    "test_isolation_level_deferred",
    "test_isolation_level_deferrred",
    "test_trace_expanded_sql",
}
DIFFERENT = {
    "memory": WARNS_AT_OUR_LINE if sys.version_info >= (3, 12) else set(),
    "files": TRACES_BEGIN | (WARNS_AT_OUR_LINE if sys.version_info >= (3, 12) else set()),
}


def run(module, place):
    done = subprocess.run(
        [sys.executable, "-W", "ignore::RuntimeWarning", RUNNER, module, place],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": ""},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("place", ["memory", "files"])
def test_the_tests_of_cpython_have_the_same_outcomes(place):
    plain = run("plain", place)
    if "missing" in plain:
        pytest.skip(f"{LOUD} ({plain['missing']})")
    turns = run("turns", place)
    assert turns["count"] == plain["count"] > 250
    names = {*plain["outcomes"], *turns["outcomes"]}
    different = {
        name for name in names if plain["outcomes"].get(name) != turns["outcomes"].get(name)
    }
    assert different - DIFFERENT[place] == set()
    if place == "files":
        # So many of them, at least, must have met a turn.
        assert different & TRACES_BEGIN, "no connection had turns: nothing was compared"
