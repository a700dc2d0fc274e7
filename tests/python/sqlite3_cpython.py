"""Run the installed Python's own tests of sqlite3, and print what became of each.

Arguments: `plain` or `turns`, `memory` or `files`. With `files` a database in memory becomes a file,
so that the tests meet the turn at all.
"""

from __future__ import annotations

import importlib
import json
import os
import sqlite3
import sys
import tempfile
import unittest
from pathlib import Path
from sqlite3 import dbapi2

NAMES = ("connect", "Connection", "Cursor")


def put_in_place(names):
    for module in (sqlite3, dbapi2):
        for name, value in names.items():
            setattr(module, name, value)


def with_turns():
    from turnwise import sqlite3 as ours

    put_in_place({name: getattr(ours, name) for name in NAMES})


def on_files(folder):
    made = []
    connect = sqlite3.connect

    class Connection(sqlite3.Connection):
        def __init__(self, database, *args, **kwargs):
            if database == ":memory:":
                made.append(database)
                database = os.path.join(folder, f"{len(made)}.db")
            super().__init__(database, *args, **kwargs)

    def connect_to_file(*args, **kwargs):
        if len(args) < 6:
            kwargs.setdefault("factory", Connection)
        return connect(*args, **kwargs)

    put_in_place({"connect": connect_to_file, "Connection": Connection})


def find():
    """The tests' folder, the pattern of its modules and the folder that its package is in."""
    try:
        package, pattern = importlib.import_module("test.test_sqlite3"), "test*.py"
    except ModuleNotFoundError:
        # Where Python 3.10 has them.
        package, pattern = importlib.import_module("sqlite3.test"), "[a-z]*.py"
    folder = Path(package.__file__).parent
    return str(folder), pattern, str(folder.parents[1])


def main(module, place):
    if module == "turns":
        with_turns()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        if place == "files":
            on_files(folder)
        try:
            folder_of_tests, pattern, top = find()
        except ModuleNotFoundError as error:
            print(json.dumps({"missing": str(error)}))
            return
        suite = unittest.TestLoader().discover(folder_of_tests, pattern, top)
        result = unittest.TextTestRunner(verbosity=0).run(suite)
        os.chdir("/")
    told = {}
    for outcome in ("failures", "errors", "skipped", "expectedFailures"):
        for test, _ in getattr(result, outcome):
            told[str(test).replace(" ", "\n").splitlines()[0]] = outcome
    print(json.dumps({"count": result.testsRun, "outcomes": told}))


main(*sys.argv[1:])
