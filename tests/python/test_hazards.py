"""Odd moments: the end of the interpreter, callbacks, signals, readers in the way of COMMIT."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from turnwise import BatchWriter
from turnwise.errors import LockTimeoutError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore::turnwise.errors.WalResetBugWarning")

SLOW_CALLBACKS = """
import sys, time
from turnwise import BatchWriter

def told(future):
    time.sleep(0.02)
    print(future.result().lastrowid, flush=True)

writer = BatchWriter(sys.argv[1])
writer.execute("CREATE TABLE t(id INTEGER PRIMARY KEY)")
for _ in range(20):
    writer.submit("INSERT INTO t DEFAULT VALUES").add_done_callback(told)
"""

OUT_OF_SCOPE = """
import sys
from turnwise import BatchWriter

def write():
    writer = BatchWriter(sys.argv[1])
    writer.execute("CREATE TABLE t(id INTEGER PRIMARY KEY)")
    for _ in range(3000):
        writer.submit("INSERT INTO t DEFAULT VALUES")

write()
"""


def run(program: str, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_end_of_the_interpreter_waits_for_callbacks(tmp_path: Path) -> None:
    done = run(SLOW_CALLBACKS, tmp_path / "app.db")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [str(row) for row in range(1, 21)]


def test_the_end_of_the_interpreter_waits_for_writers_out_of_scope(tmp_path: Path) -> None:
    done = run(OUT_OF_SCOPE, tmp_path / "app.db")
    assert (done.returncode, done.stderr) == (0, "")
    reader = sqlite3.connect(tmp_path / "app.db")
    assert reader.execute("SELECT count(*) FROM t").fetchone() == (3000,)
    reader.close()


def test_a_flush_leaves_no_future_open(tmp_path: Path) -> None:
    with BatchWriter(tmp_path / "app.db") as writer:
        writer.execute("CREATE TABLE t(id INTEGER PRIMARY KEY)")
        for _ in range(500):
            future = writer.submit("INSERT INTO t DEFAULT VALUES")
            writer.flush(timeout=1e19)
            assert future.done()


def test_a_flush_in_a_callback_does_not_wait_for_itself(tmp_path: Path) -> None:
    took: list[float] = []
    ended = threading.Event()

    with BatchWriter(tmp_path / "app.db") as writer:

        def flush(_future: object) -> None:
            begun = time.monotonic()
            writer.flush()
            took.append(time.monotonic() - begun)
            ended.set()

        writer.submit("SELECT 1").add_done_callback(flush)
        assert ended.wait(20)
    assert took[0] < 5


@pytest.fixture
def read_locked(tmp_path: Path) -> Iterator[BatchWriter]:
    """A writer whose COMMIT waits for a reader."""
    writer = BatchWriter(tmp_path / "app.db", journal_mode="delete")
    writer.execute("CREATE TABLE t(id INTEGER PRIMARY KEY)")
    reader = sqlite3.connect(tmp_path / "app.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM t").fetchall()
    yield writer
    reader.execute("COMMIT")
    assert writer.execute("SELECT count(*) FROM t").rows == [(0,)]
    reader.close()
    writer.close()


def test_a_time_out_ends_an_inline_commit_that_waits(read_locked: BatchWriter) -> None:
    begun = time.monotonic()
    with pytest.raises(LockTimeoutError):
        read_locked.execute("INSERT INTO t DEFAULT VALUES", timeout=0.3)
    assert time.monotonic() - begun < 5


def test_ctrl_c_ends_an_inline_commit_that_waits(read_locked: BatchWriter) -> None:
    begun = time.monotonic()
    interrupter = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        read_locked.execute("INSERT INTO t DEFAULT VALUES")
    assert time.monotonic() - begun < 5
    interrupter.join()


def test_ctrl_c_in_a_group_that_waits_tells_the_outcome(read_locked: BatchWriter) -> None:
    entered = threading.Event()

    def keep_the_others_waiting() -> None:
        with pytest.raises(InterruptedError), read_locked.transaction():
            entered.set()
            time.sleep(0.3)
            raise InterruptedError

    holder = threading.Thread(target=keep_the_others_waiting)
    holder.start()
    entered.wait()
    interrupter = threading.Timer(0.8, os.kill, (os.getpid(), signal.SIGINT))
    interrupter.start()
    with pytest.raises(KeyboardInterrupt) as interrupted:
        read_locked.execute("INSERT INTO t DEFAULT VALUES", timeout=2)
    notes = getattr(interrupted.value, "__notes__", [])
    assert any("the interrupted write failed: database is locked" in note for note in notes)
    interrupter.join()
    holder.join()


HELD_GIL = """
import asyncio, sys, threading, warnings
warnings.simplefilter("ignore")
from turnwise import BatchWriter

ran, go, stop = [0], threading.Event(), threading.Event()

def hog():
    go.wait()
    while not stop.is_set():
        ran[0] += 1

async def main(writer):
    steps = [writer.aexecute("INSERT INTO t DEFAULT VALUES") for _ in range(3000)]
    threading.Thread(target=hog).start()
    # The hog cannot take the GIL away: it runs if the loop's thread lets go of it.
    sys.setswitchinterval(10)
    go.set()
    let_go = 0
    for step in steps:
        before = ran[0]
        step.send(None)
        let_go += ran[0] != before
        if let_go:
            break
    sys.setswitchinterval(0.005)
    stop.set()
    print("let go:", let_go)
    for step in steps:
        step.close()

with BatchWriter(sys.argv[1]) as writer:
    writer.execute("CREATE TABLE t(id INTEGER PRIMARY KEY)")
    asyncio.run(main(writer))
    writer.flush()
    print(writer.execute("SELECT count(*) FROM t").rows)
"""


def test_a_write_from_an_event_loop_keeps_the_gil(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELD_GIL, str(tmp_path / "a.db")],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout == "let go: 0\n[(3000,)]\n"
