"""What a write costs, in counts: system calls, transactions, instructions. Never in time."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from turnwise import BatchWriter
from writer_support import locked_by_another_process

pytestmark = pytest.mark.filterwarnings("ignore::turnwise.errors.WalResetBugWarning")

SOURCE = Path(__file__).with_name("counting_calls.c")
CALLS = re.findall(r"X\((\w+)\)", SOURCE.read_text(encoding="utf-8"))

# Prints the calls of each of the writes that follow one another, without those that were not made.
CHILD = """
import ctypes, json, sys, warnings
warnings.simplefilter("ignore")
from turnwise import BatchWriter
path, durability, names, turn_lock = sys.argv[1], sys.argv[2], sys.argv[3].split(), sys.argv[4:]
count = ctypes.CDLL(None).calls_counted
count.restype = ctypes.c_long

def counts():
    return [count(name.encode()) for name in names]

assert min(counts()) >= 0
with BatchWriter(path, durability=durability, turn_lock=bool(turn_lock)) as writer:
    writer.execute("CREATE TABLE topic (id INTEGER PRIMARY KEY, revision INTEGER)")
    writer.execute("INSERT INTO topic VALUES (1, 0)")
    writes = []
    for number in range(60):
        before = counts()
        writer.execute("UPDATE topic SET revision = ? WHERE id = 1", (number,))
        after = counts()
        writes.append({n: b - a for n, a, b in zip(names, before, after) if a != b})
    stats = writer.stats()
print(json.dumps({"writes": writes, "inline": stats.inline, "transactions": stats.transactions}))
"""

# A commit of one page to the log is a frame's header and its page. Locks: the mark of the reader's
# slot is taken, set and given back (3), the writer's lock is taken and both are given back (3). The
# path is looked at once, lest it was replaced.
UNCONTENDED = {"pwrite64": 2, "fcntl64": 6, "statx": 1}

# The turn: a side file is locked and unlocked; every 2 ms so is the other, where somebody may stand
# in line. Every 10 ms it is written who has it, and every 0.1 s both files are looked at, open and by
# their paths.
TURN = {"flock": 2}
AFTER_A_WHILE = {"flock": 4}
RECORDED = {"pwrite64": 3, "getpid": 1}
CHECKED = {"statx": 5}


@pytest.mark.parametrize("turn_lock", [False, True])
@pytest.mark.parametrize(
    ("durability", "flushes"), [("full", {"fsync": 1}), ("pipelined", {"fsync": 1}), ("normal", {})]
)
def test_the_system_calls_of_an_uncontended_write(
    tmp_path, counting_calls, durability, flushes, turn_lock
):
    command = [sys.executable, "-c", CHILD, tmp_path / "a.db", durability, " ".join(CALLS)]
    done = subprocess.run(
        [*command, "queue"] if turn_lock else command,
        env={**os.environ, "LD_PRELOAD": str(counting_calls)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    told = json.loads(done.stdout)
    # No write met a checkpoint: all ran alone, and all cost the same.
    assert told["inline"] == told["transactions"] == len(told["writes"]) + 2
    mostly = {**UNCONTENDED, **flushes}
    if not turn_lock:
        assert told["writes"][-50:] == [mostly] * 50
        return
    plain = [{**mostly, **TURN}, {**mostly, **AFTER_A_WHILE}]
    extras = [RECORDED, CHECKED, {**RECORDED, **CHECKED}]
    allowed = [*plain, *({**one, **extra} for extra in extras for one in plain)]
    counts = [allowed.index(write) for write in told["writes"][-50:]]
    assert counts.count(0) + counts.count(1) > 25, counts
    if durability == "normal":
        # A flush may well take 2 ms; a write without one never does, but for a scheduler's whim.
        assert counts.count(0) > 25, counts


def test_writes_that_wait_together_share_a_transaction(tmp_path):
    with BatchWriter(tmp_path / "a.db") as writer:
        writer.execute("CREATE TABLE topic (id INTEGER PRIMARY KEY, title TEXT)")
        before = writer.stats()
        with locked_by_another_process(tmp_path / "a.db"):
            futures = [
                writer.submit("INSERT INTO topic (title) VALUES (?)", (str(number),))
                for number in range(1000)
            ]
        for future in futures:
            future.result(30)
        after = writer.stats()
    assert after.transactions - before.transactions == 1
    assert after.max_group == 1000


# As counted with rustc 1.95.0 and gcc 12.2; the same again to 0.1 % in each run.
INSTRUCTIONS = 25_350
EXTRA_INSTRUCTIONS = 5_300


def instructions(binary, folder, side, writes):
    """Instructions that so many uncontended writes take, with all that comes before and after."""
    done = subprocess.run(
        [
            *("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"),
            *(binary, "loop", folder, side, "normal", str(writes)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    found = re.search(r"Collected : (\d+)", done.stderr)
    assert found is not None, done.stderr
    return int(found.group(1))


def test_the_instructions_of_an_uncontended_write(tmp_path, repository):
    assert shutil.which("valgrind"), "valgrind counts them. Run as root: apt-get install valgrind"
    binary = repository / "target" / "release" / "turnwise-benches"
    assert binary.exists(), "run the tests with make, which builds it"

    def for_each(side):
        few, many = (instructions(binary, tmp_path, side, writes) for writes in (100, 300))
        return (many - few) / 200

    ours, theirs = for_each("turnwise"), for_each("bare")
    print(f"instructions of a write: {ours:.0f} ours, {theirs:.0f} of bare rusqlite")
    assert ours <= 1.1 * INSTRUCTIONS
    # SQLite's part is in both, and depends on the C compiler.
    assert ours - theirs <= 1.1 * EXTRA_INSTRUCTIONS
