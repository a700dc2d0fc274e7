"""A fork while the turn is held."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

import pytest

from forking import fork
from process_support import landed, make_database, reap, wait_for
from turn_parties import Party, free, locked_by, side
from turnwise import BatchWriter, TurnLock

SLEEPING_CHILD = """
def sleeping_child(work=lambda: None):
    pid = os.fork()
    if pid: return pid
    try:
        work()
        time.sleep(60)
    finally:
        os._exit(0)
"""

HOLD = {
    "lock": "lock = TurnLock(path); held = lock.turn(); held.__enter__()",
    "writer": "writer = BatchWriter(path); held = writer.transaction(); tx = held.__enter__()",
    "coroutine": (
        "import asyncio\nlock = TurnLock(path)\n"
        "async def enter():\n global held\n held = lock.turn()\n await held.__aenter__()\n"
        "loop = asyncio.new_event_loop(); loop.run_until_complete(enter())"
    ),
}


@pytest.fixture
def path(tmp_path):
    return make_database(tmp_path / "a.db")


@pytest.mark.parametrize("way", HOLD)
def test_a_child_does_not_keep_its_killed_parents_turn(path, way):
    with Party(path) as parent, Party(path) as other:
        other.do("lock = TurnLock(path, turn_timeout=None)")
        parent.do(HOLD[way])
        parent.do(SLEEPING_CHILD)
        child = parent.do("sleeping_child()")
        try:
            assert locked_by(side(path)) == {parent.pid}
            other.start("timed(lambda: lock.turn(timeout=20).__enter__())")
            time.sleep(0.2)
            parent.kill()
            killed = time.monotonic()
            _, kind, told = other.reply()
            assert (kind, told) == (None, None)
            assert time.monotonic() - killed < 2
            os.kill(child, 0)
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("way", HOLD)
def test_a_child_cannot_free_its_parents_turn(path, way):
    leave = {
        "lock": "lambda: held.__exit__(None, None, None)",
        "writer": "lambda: contextlib.suppress(Exception).__enter__() or held.__exit__(KeyError, None, None)",
        "coroutine": "lambda: held.__exit__(None, None, None)",
    }[way]
    with Party(path) as parent, Party(path) as other:
        other.do("lock = TurnLock(path, turn_timeout=None)")
        parent.do(HOLD[way])
        parent.do(
            "def child(work):\n"
            " pid = os.fork()\n"
            " if pid: return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\n"
            " try:\n"
            "  work(); globals().pop('held'); __import__('gc').collect(); os._exit(0)\n"
            " finally: os._exit(1)"
        )
        assert parent.do(f"child({leave})") == 0
        assert parent.do("child(lambda: None)") == 0
        assert locked_by(side(path)) == {parent.pid}
        _, kind, told = other.do("timed(lambda: lock.turn(timeout=0.3).__enter__())")
        assert (kind, f"process {parent.pid} " in told) == ("LockTimeoutError", True)
        parent.do("held.__exit__(None, None, None)")
        assert other.do("lock.turn(timeout=5).__enter__().held")


def test_a_child_queues_behind_its_parent(path):
    lock = TurnLock(path, turn_timeout=None)
    begun, told = os.pipe()

    def child():
        os.write(told, b"b")
        with lock.turn(timeout=20) as turn:
            assert turn.held
            assert locked_by(side(path)) == {os.getpid()}
            os.write(told, b"h")

    with lock.turn():
        pid = fork(child)
        assert os.read(begun, 1) == b"b"
        time.sleep(0.2)
        os.set_blocking(begun, False)
        with pytest.raises(BlockingIOError):
            os.read(begun, 1)
    os.set_blocking(begun, True)
    assert os.read(begun, 1) == b"h"
    assert reap(pid) == 0
    with lock.turn(timeout=5) as turn:
        assert turn.held
    os.close(begun)
    os.close(told)
    wait_for(lambda: free(path), "the turn is free")


def test_a_coroutine_is_woken_though_a_child_has_its_descriptors(path):
    with Party(path) as party, Party(path) as holder:
        holder.do("lock = TurnLock(path); turn = lock.turn().__enter__()")
        party.do(SLEEPING_CHILD)
        party.do("import asyncio; lock = TurnLock(path, turn_timeout=None)")
        party.do(
            "async def main():\n"
            " async def wait():\n"
            "  async with lock.turn(timeout=20): return time.monotonic()\n"
            " task = asyncio.create_task(wait())\n"
            " await asyncio.sleep(0.1)\n"
            " pid = sleeping_child()\n"
            " print(pid, flush=True)\n"
            " return await task"
        )
        party.start("asyncio.run(main())")
        wait_for(lambda: b"\n" in party_output(party), "it has forked")
        line, party._read = party._read.split(b"\n", 1)
        child = int(line)
        try:
            holder.do("turn.release()")
            released = time.monotonic()
            assert party.reply(15) - released < 2
        finally:
            os.kill(child, signal.SIGKILL)


def party_output(party):
    with contextlib.suppress(BlockingIOError):
        os.set_blocking(party.process.stdout.fileno(), False)
        party._read += os.read(party.process.stdout.fileno(), 65_536)
    os.set_blocking(party.process.stdout.fileno(), True)
    return party._read


def test_forks_beside_storming_threads(path, soak):
    """Threads take turns by lock and by writer while the process forks; each child takes one too."""
    lock, writer = TurnLock(path, turn_timeout=None), BatchWriter(path, turn_timeout=None)
    over, errors, rows = threading.Event(), [], []

    def storm(name):
        number = 0
        try:
            while not over.is_set():
                if name % 2:
                    with lock.turn(timeout=30) as turn:
                        assert turn.held
                else:
                    writer.execute("INSERT INTO landed VALUES (?, ?)", (f"thread-{name}", number))
                    rows.append((f"thread-{name}", number))
                number += 1
        except BaseException as error:
            errors.append(error)

    def child(number):
        with lock.turn(timeout=30) as turn:
            assert turn.held
        writer.execute("INSERT INTO landed VALUES ('child', ?)", (number,))
        with writer.transaction() as tx:
            tx.execute("INSERT INTO landed VALUES ('child in a transaction', ?)", (number,))

    crew = [threading.Thread(target=storm, args=(name,)) for name in range(8)]
    for thread in crew:
        thread.start()
    children = 500 if soak else 60
    for number in range(children):
        end = ("_exit", "kill")[number % 2]
        pid = fork(lambda number=number: child(number), end=end)
        assert reap(pid, 60) == (-signal.SIGKILL if end == "kill" else 0)
    over.set()
    for thread in crew:
        thread.join(60)
        assert not thread.is_alive()
    assert errors == []
    writer.close()
    found = landed(path)
    assert set(found.values()) == {1}
    of_children = {
        (name, n) for name in ("child", "child in a transaction") for n in range(children)
    }
    assert found.keys() == {*rows, *of_children}
    wait_for(lambda: free(path), "the turn is free")
