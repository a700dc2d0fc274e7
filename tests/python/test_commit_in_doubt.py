"""COMMIT failed with an I/O error: what SQLite says of the transaction, and what the file says."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys

import pytest

from turnwise import _native

pytestmark = [
    pytest.mark.skipif(sys.version_info < (3, 11), reason="no extended codes before Python 3.11"),
    pytest.mark.skipif(sys.platform != "linux", reason="the fault is injected by LD_PRELOAD"),
]

# Syncs of a journal or a directory fail once the database file was synced.
FAIL = """
import ctypes, errno, json, os, sqlite3, sys
def fail(path, file):
    once_synced = file in {"journal", "directory"}
    folder = os.path.dirname(path).encode()
    ctypes.CDLL(None).failing_io_arm(folder, file.encode(), b"sync", errno.EIO, once_synced, 0, 1000)
"""

# Ends without closing, as a crash does.
CHILD = (
    FAIL
    + """
path, journal, synchronous, failing = sys.argv[1:]
writer = sqlite3.connect(path, isolation_level=None)
writer.execute(f"PRAGMA journal_mode={journal}")
writer.execute(f"PRAGMA synchronous={synchronous}")
writer.execute("CREATE TABLE topic (title)")
writer.execute("BEGIN IMMEDIATE")
writer.execute("INSERT INTO topic VALUES ('in doubt')")
fail(path, failing)
try:
    writer.execute("COMMIT")
except sqlite3.Error as error:
    print(json.dumps([error.sqlite_errorcode, writer.in_transaction]), flush=True)
os._exit(0)
"""
)

WRITER = (
    FAIL
    + """
import turnwise
path, journal, failing = sys.argv[1:]
writer = turnwise.BatchWriter(path, journal_mode=journal)
writer.execute("CREATE TABLE topic (title)")
fail(path, failing)
try:
    writer.execute("INSERT INTO topic VALUES ('in doubt')")
except turnwise.TurnwiseError as error:
    print(error.kind, flush=True)
os._exit(0)
"""
)


@pytest.mark.parametrize(
    ("journal", "synchronous", "failing", "rule", "fate", "rows"),
    [
        ("wal", "full", "wal", "sqlite.ioerr.commit", "unknown", 1),
        ("persist", "full", "journal", "sqlite.ioerr.commit", "unknown", 1),
        ("truncate", "full", "journal", "sqlite.ioerr.commit", "unknown", 1),
        ("delete", "extra", "directory", "sqlite.ioerr.commit_end", "unknown", 1),
        # The same words of SQLite, and nothing was kept.
        ("persist", "full", "database", "sqlite.ioerr.commit", "unknown", 0),
        ("truncate", "full", "database", "sqlite.ioerr.commit", "unknown", 0),
        ("delete", "full", "database", "sqlite.ioerr", "rolled_back", 0),
    ],
)
def test_a_failed_commit_is_not_called_rolled_back_where_it_may_be_kept(
    tmp_path, failing_io, journal, synchronous, failing, rule, fate, rows
) -> None:
    path = tmp_path / "topics.db"
    done = subprocess.run(
        [sys.executable, "-c", CHILD, path, journal, synchronous, failing],
        env={**os.environ, "LD_PRELOAD": str(failing_io)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout, "COMMIT did not fail"
    code, in_transaction = json.loads(done.stdout)
    # SQLite's own words are the same, whether the rows are there or not.
    assert (code & 0xFF, in_transaction) == (10, False)
    verdict = _native.classify_code(
        "sqlite", code, phase="commit", in_transaction=in_transaction, journal=journal
    )
    assert (verdict.rule, verdict.fate) == (rule, fate)
    reader = sqlite3.connect(path)
    assert reader.execute("SELECT count(*) FROM topic").fetchone() == (rows,)
    reader.close()


# The last is the sync of the folder after the journal was deleted, which is the commit.
@pytest.mark.parametrize(
    ("journal", "failing"), [("wal", "wal"), ("truncate", "journal"), ("delete", "directory")]
)
def test_full_durability_syncs_what_makes_a_commit_last(
    tmp_path, failing_io, journal, failing
) -> None:
    path = tmp_path / "topics.db"
    done = subprocess.run(
        [sys.executable, "-c", WRITER, path, journal, failing],
        env={**os.environ, "LD_PRELOAD": str(failing_io)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "CommitOutcomeUnknown\n"
