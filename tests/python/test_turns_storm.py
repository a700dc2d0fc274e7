"""Many processes with many threads write one file for a while: nothing lost, nobody starved."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from contextlib import ExitStack, closing

import pytest

from process_support import landed, make_database, wait_for
from turn_parties import Party, free, jain

STORM = """
import threading
def storm(name, threads, until):
    told = [None] * threads
    def work(thread):
        count, longest, errors = 0, 0.0, []
        while time.monotonic() < until:
            began = time.monotonic()
            try:
                with contextlib.nullcontext() if count % 8 else writer.transaction() as tx:
                    write = writer if tx is None else tx
                    write.execute(SAVE, (f"{name}-{thread}", count))
                    if tx is not None:
                        tx.execute("UPDATE total SET number = number + 1")
            except Exception as error:
                errors.append(f"{type(error).__name__}: {error}")
                break
            longest = max(longest, time.monotonic() - began)
            count += 1
        told[thread] = [count, longest, errors]
    crew = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
    for thread in crew: thread.start()
    for thread in crew: thread.join()
    stats = writer.stats()
    writer.close()
    return told, {name: getattr(stats, name) for name in
        ("turn_waits", "turn_hand_offs", "turn_fall_throughs", "outsiders", "failed")}
"""

OUTSIDER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=5)
until, waits = time.monotonic() + float(sys.argv[2]), []
while time.monotonic() < until:
    began = time.monotonic()
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT INTO landed (party, number) VALUES ('outsider', ?)", (len(waits),))
    connection.execute("COMMIT")
    waits.append(time.monotonic() - began)
    time.sleep(0.01)
print(len(waits), max(waits))
"""


def storm(path, processes, threads, seconds, **options):
    """What each process did in that time, and the counters of all together."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE total (number INTEGER)")
        connection.execute("INSERT INTO total VALUES (0)")
    with ExitStack() as stack:
        parties = [stack.enter_context(Party(path)) for _ in range(processes)]
        for party in parties:
            party.do(f"writer = BatchWriter(path, **{options!r})")
            party.do(STORM)
        for name, party in enumerate(parties):
            party.start(f"storm({str(name)!r}, {threads}, {time.monotonic() + seconds})")
        told = [party.reply(seconds + 60) for party in parties]
        wait_for(lambda: free(path), "the turn is free")
    return [of for of, _ in told], [stats for _, stats in told]


def check(path, told, others=0):
    rows = landed(path)
    expected = {
        (f"{process}-{thread}", number)
        for process, threads in enumerate(told)
        for thread, (count, _, _) in enumerate(threads)
        for number in range(count)
    }
    errors = [error for threads in told for _, _, errors in threads for error in errors]
    assert errors == []
    of_ours = {row for row in rows if row[0] != "outsider"}
    assert of_ours == expected
    assert set(rows.values()) == {1}
    assert len(rows) - len(of_ours) == others
    updates = sum(-(-count // 8) for threads in told for count, _, _ in threads)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT number FROM total").fetchall() == [(updates,)]


@pytest.mark.parametrize(
    ("journal", "durability"), [("wal", "full"), ("wal", "pipelined"), ("delete", "full")]
)
def test_nothing_is_lost_and_nobody_starves(tmp_path, soak, journal, durability):
    path = make_database(tmp_path / "a.db", journal)
    told, stats = storm(path, 8, 8, 20 if soak else 8, journal_mode=journal, durability=durability)
    shares = [sum(count for count, _, _ in threads) for threads in told]
    longest = max(longest for threads in told for _, longest, _ in threads)
    print(
        f"{journal}, {durability}: {sum(shares)} writes, Jain {jain(shares):.4f}, longest wait "
        f"{longest * 1e3:.0f} ms, {shares}"
    )
    check(path, told)
    assert sum(one["turn_fall_throughs"] for one in stats) == 0
    assert sum(one["outsiders"] for one in stats) == 0
    assert min(one["turn_waits"] for one in stats) > 0
    assert jain(shares) > 0.98, shares
    assert longest < 3


def test_a_writer_that_knows_nothing_of_turns_gets_in(tmp_path, soak):
    path = make_database(tmp_path / "a.db")
    seconds = 20 if soak else 10
    command = [sys.executable, "-c", OUTSIDER, str(path), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as outsider:
        told, stats = storm(path, 4, 4, seconds)
        said, _ = outsider.communicate(timeout=30)
    assert outsider.returncode == 0
    count, longest = said.split()
    noticed = sum(one["outsiders"] for one in stats)
    ours = sum(count for threads in told for count, _, _ in threads)
    print(f"the outsider: {count} writes, longest {longest} s, noticed {noticed}; {ours} of ours")
    check(path, told, int(count))
    assert noticed > 0
    assert int(count) > seconds


def test_threads_that_ask_without_end_pass_the_turn_on(tmp_path):
    """A queue in one process that is never empty leaves the others their turns."""
    path = make_database(tmp_path / "a.db")
    crowd = (
        "import threading\n"
        "lock, counts = TurnLock(path, turn_timeout=None), []\n"
        "def ask(until):\n"
        " while time.monotonic() < until:\n"
        "  with lock.turn(timeout=30): time.sleep(0.001); counts.append(1)\n"
        "def crowd(until):\n"
        " crew = [threading.Thread(target=ask, args=(until,)) for _ in range(4)]\n"
        " for thread in crew: thread.start()\n"
        " for thread in crew: thread.join()\n"
        " return len(counts)"
    )
    with ExitStack() as stack:
        parties = [stack.enter_context(Party(path)) for _ in range(3)]
        for party in parties:
            party.do(crowd)
        until = time.monotonic() + 2
        for party in parties:
            party.start(f"crowd({until})")
        shares = [party.reply() for party in parties]
        wait_for(lambda: free(path), "the turn is free")
    print(f"Jain {jain(shares):.4f}, {shares}")
    assert jain(shares) > 0.9, shares
