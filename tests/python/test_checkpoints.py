"""Checkpoints keep the log short, and keep nobody waiting."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import time

import pytest

from turnwise import BatchWriter
from writer_support import CREATE, INSERT, select, wait_until


@pytest.fixture
def writer(tmp_path):
    with BatchWriter(tmp_path / "topics.db") as writer:
        writer.execute(CREATE)
        yield writer


LARGE = b"x" * 500_000


def grow(writer, rounds):
    for number in range(rounds):
        writer.execute("INSERT INTO bulk VALUES (?, ?)", (number, LARGE))


def test_checkpoints_keep_the_log_short(writer, tmp_path):
    """40 MB are written; SQLite's own bound is 1,000 pages, some 4 MB, and the log is reused."""
    writer.execute("CREATE TABLE bulk (number, content)")
    grow(writer, 80)
    writer.flush()
    wait_until(lambda: writer.stats().checkpoints >= 4)
    assert (tmp_path / "topics.db-wal").stat().st_size < 20_000_000
    assert (tmp_path / "topics.db").stat().st_size > 20_000_000
    assert select(writer.path, "SELECT count(*) FROM bulk") == [(80,)]


def test_small_writes_are_not_each_checkpointed(writer):
    for number in range(100):
        writer.execute(INSERT, (f"{number}",))
    writer.flush()
    assert writer.stats().checkpoints == 0


def test_a_rollback_journal_has_no_checkpoints(tmp_path):
    with BatchWriter(tmp_path / "topics.db", journal_mode="delete") as writer:
        writer.execute("CREATE TABLE bulk (number, content)")
        grow(writer, 20)
        writer.flush()
        assert writer.stats().checkpoints == 0


def test_a_reader_in_the_way_of_the_checkpoint_holds_no_write_up(writer, tmp_path):
    writer.execute("CREATE TABLE bulk (number, content)")
    writer.execute(INSERT, ("seen",))
    with contextlib.closing(sqlite3.connect(writer.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM topic").fetchall() == [(1,)]
        started = time.monotonic()
        grow(writer, 40)
        futures = [
            writer.submit("INSERT INTO bulk VALUES (?, ?)", (number, LARGE))
            for number in range(40, 80)
        ]
        assert [future.result(30).rowcount for future in futures] == [1] * 40
        writer.flush()
        assert time.monotonic() - started < 30
        # Nothing of it can leave the log while the reader looks at an earlier state.
        assert (tmp_path / "topics.db-wal").stat().st_size > 30_000_000
        assert reader.execute("SELECT count(*) FROM bulk").fetchall() == [(0,)]
        # A checkpoint that got nowhere is not tried again after every write.
        assert writer.stats().checkpoints < 40
        reader.execute("COMMIT")
    before = writer.stats().checkpoints
    grow(writer, 40)
    writer.flush()
    wait_until(lambda: writer.stats().checkpoints > before)
    wait_until(lambda: (tmp_path / "topics.db").stat().st_size > 30_000_000)
    assert select(writer.path, "SELECT count(*) FROM bulk") == [(120,)]


# The sync of the database file, which only a checkpoint makes, takes three seconds.
SLOW = """
import os, sys, time
sys.path.insert(0, sys.argv[3])
from turnwise import BatchWriter
from writer_support import wait_until
path, way, _ = sys.argv[1:]
writer = BatchWriter(path)
writer.execute("CREATE TABLE bulk (number, content)")
os.environ["SLOW_SYNC"] = "database"
insert, values = "INSERT INTO bulk VALUES (?, ?)", (1, b"x" * 8_000_000)
started = time.monotonic()
if way == "inline":
    writer.execute(insert, values)
else:
    futures = [writer.submit(insert, values) for _ in range(3)]
    assert [future.result(30).rowcount for future in futures] == [1] * 3
acknowledged = time.monotonic() - started
assert writer.stats().checkpoints == 0
wait_until(lambda: writer.stats().checkpoints == 1, 30)
print(acknowledged < 3 <= time.monotonic() - started, acknowledged)
os._exit(0)
"""


@pytest.mark.parametrize("way", ["inline", "group"])
def test_a_write_is_acknowledged_before_its_checkpoint(tmp_path, counted_sync, way):
    path = tmp_path / "topics.db"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SLOW, path, way, os.path.dirname(__file__)],
        env={**os.environ, "LD_PRELOAD": str(counted_sync)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=90,
    )
    assert done.stdout.startswith("True "), done.stdout
