"""Lock holders, readers and children for the tests of the batch writer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time

HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.readline()
connection.execute("ROLLBACK")
connection.close()
print("released", flush=True)
"""

READ = """
import json, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.text_factory = bytes
def show(value):
    return ["bytes" if isinstance(value, bytes) else type(value).__name__,
            value.hex() if isinstance(value, (bytes, float)) else value]
print(json.dumps([[show(value) for value in row] for row in connection.execute(sys.argv[2])]))
"""

CREATE = "CREATE TABLE topic (id INTEGER PRIMARY KEY, title TEXT NOT NULL UNIQUE)"
INSERT = "INSERT INTO topic (title) VALUES (?)"


@contextlib.contextmanager
def locked_by_another_process(path):
    """Another process has the write lock until the block ends, or until `release()`."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def release():
        if holder.poll() is None and not holder.stdin.closed:
            holder.stdin.close()
            assert holder.stdout.read() == "released\n"

    assert holder.stdout.readline() == "held\n"
    try:
        yield release
    finally:
        release()
        holder.wait(10)
        holder.stdout.close()


def read_elsewhere(path, sql):
    """Read with the standard library in another process: `[type, value]` of every value."""
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path), sql],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        timeout=30,
    )
    return json.loads(done.stdout)


def select(path, sql, *parameters):
    """Read with the standard library in this process."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql, parameters).fetchall()


def titles(path):
    return {title for (title,) in select(path, "SELECT title FROM topic")}


def database_files(folder):
    """The files in a folder, but for those of the turn lock, which stay."""
    names = sorted(os.listdir(folder))
    return [name for name in names if not name.endswith(("-turn", "-turn-next"))]


def check_integrity(path):
    assert select(path, "PRAGMA integrity_check") == [("ok",)]


def wait_until(condition, seconds=10.0):
    """Wait for something that another thread will bring about."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.002)


async def until(condition, seconds=10.0):
    """Wait in an event loop for something that another thread will bring about."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        await asyncio.sleep(0.002)


def together(count, work):
    """Run `work(number)` in so many threads, released together; what each returned or raised."""
    gate = threading.Barrier(count)
    outcomes = [None] * count

    def run(number):
        gate.wait()
        try:
            outcomes[number] = work(number)
        except BaseException as error:
            outcomes[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "a thread hangs"
    return outcomes


def in_thread(work):
    """Start `work()` in a thread; the returned function waits for its result or raises its error."""
    box = []

    def run():
        try:
            box.append((work(), None))
        except BaseException as error:
            box.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def result(timeout=30):
        thread.join(timeout)
        assert not thread.is_alive(), "the thread hangs"
        value, error = box[0]
        if error is not None:
            raise error
        return value

    result.is_alive = thread.is_alive
    return result


@contextlib.contextmanager
def held_by_a_transaction(writer):
    """A transaction in another thread keeps everybody waiting until the block ends, or `release()`."""
    inside, end = threading.Event(), threading.Event()

    def hold():
        with writer.transaction():
            inside.set()
            assert end.wait(30)

    holder = in_thread(hold)
    assert inside.wait(10)
    try:
        yield end.set
    finally:
        end.set()
        holder()


def child(script, *arguments, timeout=60, check=True, **options):
    """Run a script in another process, and give what it did."""
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=check,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        **options,
    )


def interrupted_child(script, *arguments):
    """Send Ctrl-C to a script that has said `waiting`; its output, and the seconds until `interrupted`."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    try:
        assert process.stdout.readline() == "waiting\n"
        time.sleep(0.2)
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        first = process.stdout.readline()
        took = time.monotonic() - sent
        process.stdin.close()
        # Not `communicate`, which loses what `readline` has read ahead.
        rest = process.stdout.read()
        process.wait()
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        process.stdout.close()
        process.stdin.close()
    return first + rest, took
