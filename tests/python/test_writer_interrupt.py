"""Ctrl-C reaches a main thread wherever it waits; what had not begun is never applied, all else lands."""

from __future__ import annotations

import json
import os

import pytest

from writer_support import interrupted_child, titles

PROMPT = 1.0
"""Seconds; promised is 0.1 on an idle machine. The deadlines are 30, and of locks nobody gives up."""

PRELUDE = """
import asyncio, json, os, signal, sqlite3, sys, threading, time
sys.path.insert(0, sys.argv[2])
from turnwise import BatchWriter, errors
from writer_support import CREATE, INSERT, in_thread, locked_by_another_process, titles, wait_until
path = sys.argv[1]
SLOW = '''INSERT INTO topic (title) WITH RECURSIVE n(v) AS
    (VALUES (1) UNION ALL SELECT v + 1 FROM n WHERE v < 12000000) SELECT 'slow' FROM n
    WHERE v = 12000000'''

def interrupted(wait):
    print("waiting", flush=True)
    try:
        came = wait()
    except KeyboardInterrupt as error:
        print("interrupted", flush=True)
        return getattr(error, "__notes__", [])
    except BaseException as error:
        came = error
    print("not interrupted:", repr(came), flush=True)
    sys.exit(3)
"""


def tell(script, path, prompt=PROMPT):
    """Run a script that is interrupted and then prints one line of JSON."""
    output, took = interrupted_child(PRELUDE + script, path, os.path.dirname(__file__))
    first, _, rest = output.partition("\n")
    assert first == "interrupted"
    assert took < prompt
    return json.loads(rest)


WAIT = """
with BatchWriter(path, max_queue_rows={bound}) as writer:
    writer.execute(CREATE)
    def transaction():
        with writer.transaction() as tx:
            tx.execute(INSERT, ("late",))
    async def coroutine():
        await writer.aexecute(INSERT, ("late",))
    with locked_by_another_process(path) as release:
        queued = [writer.submit(INSERT, (f"queued {{n}}",)) for n in range(3)]
        notes = interrupted(lambda: {wait})
        told = dict(notes=notes, rows=writer.stats().queue_rows, cancelled=writer.stats().cancelled)
        release()
    told["queued"] = [future.result(10).rowcount for future in queued]
    told["after"] = writer.execute(INSERT, ("after",)).rowcount
    told["inside"] = writer.transaction().__enter__().execute("SELECT count(*) FROM topic").rows
print(json.dumps(told))
"""

EXECUTE = 'writer.execute(INSERT, ("late",))'
MANY = 'writer.executemany(INSERT, [("late 1",), ("late 2",)])'
SUBMIT = 'writer.submit(INSERT, ("late",))'
LANDS = {"queued 0", "queued 1", "queued 2", "after"}


@pytest.mark.parametrize("bound", [3, 100])
@pytest.mark.parametrize("wait", [EXECUTE, MANY, SUBMIT, "transaction()"])
def test_a_write_that_waits_is_taken_back(tmp_path, wait, bound):
    if wait == SUBMIT and bound == 100:
        wait = "writer.submit(INSERT, ('late',)).result()"
    path = tmp_path / "topics.db"
    told = tell(WAIT.format(bound=bound, wait=wait), path)
    assert told["queued"] == [1, 1, 1]
    assert told["after"] == 1
    if wait.endswith(".result()"):
        # The future is its owner's: nobody has called it off.
        assert told["rows"] == 4
        assert titles(path) == {*LANDS, "late"}
        return
    assert told["rows"] == 3
    # A transaction takes no room.
    assert told["cancelled"] == (bound == 100 or wait == "transaction()")
    assert titles(path) == LANDS
    if wait in {EXECUTE, MANY}:
        assert told["notes"] == ["the interrupted write had not begun; it is not in the file"]


@pytest.mark.parametrize("bound", [3, 100])
def test_an_event_loop_that_waits_takes_its_write_back(tmp_path, bound):
    path = tmp_path / "topics.db"
    told = tell(WAIT.format(bound=bound, wait="asyncio.run(coroutine())"), path)
    assert told["queued"] == [1, 1, 1]
    assert titles(path) == LANDS


@pytest.mark.parametrize("wait", ["writer.flush()", "writer.flush(20)", "queued[-1].result()"])
def test_who_waits_for_other_writes_is_called_away_alone(tmp_path, wait):
    path = tmp_path / "topics.db"
    told = tell(WAIT.format(bound=100, wait=wait), path)
    assert told == {
        "notes": [],
        "rows": 3,
        "cancelled": told["cancelled"],
        "queued": [1, 1, 1],
        "after": 1,
        "inside": [[4]],
    }
    assert titles(path) == LANDS


@pytest.mark.parametrize("wait", ["writer.close()", "writer.__exit__(None, None, None)"])
def test_a_close_that_is_interrupted_loses_nothing(tmp_path, wait):
    script = f"""
writer = BatchWriter(path)
writer.execute(CREATE)
with locked_by_another_process(path) as release:
    queued = [writer.submit(INSERT, (f"queued {{n}}",)) for n in range(3)]
    interrupted(lambda: {wait})
    told = dict(closed=writer.closed, done=[future.done() for future in queued])
    release()
told["queued"] = [future.result(10).rowcount for future in queued]
with BatchWriter(path) as writer:
    told["after"] = writer.execute(INSERT, ("after",)).rowcount
print(json.dumps(told))
"""
    path = tmp_path / "topics.db"
    assert tell(script, path) == {
        "closed": True,
        "done": [False] * 3,
        "queued": [1, 1, 1],
        "after": 1,
    }
    assert titles(path) == LANDS


def test_opening_a_locked_file(tmp_path):
    """To make it a WAL file takes a lock."""
    script = """
connection = sqlite3.connect(path)
connection.execute(CREATE)
connection.close()
with locked_by_another_process(path) as release:
    interrupted(lambda: BatchWriter(path))
    release()
with BatchWriter(path) as writer:
    print(json.dumps([writer.settings.journal_mode, writer.execute(INSERT, ("after",)).rowcount]))
"""
    path = tmp_path / "topics.db"
    assert tell(script, path) == ["wal", 1]
    assert titles(path) == {"after"}


def test_a_transaction_of_another_thread(tmp_path):
    script = """
with BatchWriter(path) as writer:
    writer.execute(CREATE)
    inside, end = threading.Event(), threading.Event()
    def hold():
        with writer.transaction() as tx:
            tx.execute(INSERT, ("held",))
            inside.set()
            end.wait(20)
    holder = in_thread(hold)
    inside.wait()
    notes = interrupted(lambda: writer.execute(INSERT, ("late",)))
    end.set()
    holder()
    print(json.dumps([notes, writer.execute(INSERT, ("after",)).rowcount]))
"""
    path = tmp_path / "topics.db"
    notes, after = tell(script, path)
    assert notes == ["the interrupted write had not begun; it is not in the file"]
    assert after == 1
    assert titles(path) == {"held", "after"}


def test_an_interrupted_block_of_a_transaction_is_rolled_back(tmp_path):
    script = """
with BatchWriter(path) as writer:
    writer.execute(CREATE)
    def block():
        with writer.transaction() as tx:
            tx.execute(INSERT, ("late",))
            threading.Event().wait(20)
    interrupted(block)
    print(json.dumps([writer.execute(INSERT, ("after",)).rowcount]))
"""
    path = tmp_path / "topics.db"
    assert tell(script, path) == [1]
    assert titles(path) == {"after"}


def test_a_write_that_has_begun_is_waited_for_and_tells_its_fate(tmp_path):
    script = """
with BatchWriter(path) as writer:
    writer.execute(CREATE)
    with locked_by_another_process(path) as release:
        slow = writer.submit(SLOW)
        threading.Timer(0.05, release).start()
        notes = interrupted(lambda: writer.execute(INSERT, ("rides along",)))
        print(json.dumps([notes, slow.done() or slow.result(20).rowcount]))
"""
    path = tmp_path / "topics.db"
    output, took = interrupted_child(PRELUDE + script, path, os.path.dirname(__file__))
    first, _, rest = output.partition("\n")
    assert first == "interrupted"
    assert took < 20
    notes, slow = json.loads(rest)
    assert notes == ["the interrupted write was committed"]
    assert slow == 1
    assert titles(path) == {"slow", "rides along"}


def test_a_coroutine_that_has_begun_is_waited_for(tmp_path):
    script = """
writer = BatchWriter(path)
writer.execute(CREATE)
async def coroutine():
    try:
        await writer.aexecute(SLOW)
    except asyncio.CancelledError as error:
        # Before Python 3.11 the loop is interrupted, and cancels on its way out.
        fates.extend(getattr(error, "__notes__", error.args))
        raise
fates = []
interrupted(lambda: asyncio.run(coroutine()))
print(json.dumps([fates, len(titles(path))]))
"""
    path = tmp_path / "topics.db"
    output, took = interrupted_child(PRELUDE + script, path, os.path.dirname(__file__))
    assert took < 20
    assert output.startswith("interrupted\n")
    assert json.loads(output.partition("\n")[2]) == [
        ["the cancelled write had begun, and was committed"],
        1,
    ]


def test_other_threads_and_their_loops_write_on(tmp_path):
    script = """
with BatchWriter(path) as writer:
    writer.execute(CREATE)
    def work(number):
        if number % 2:
            return writer.execute(INSERT, (f"other {number}",)).rowcount
        return asyncio.run(writer.aexecute(INSERT, (f"other {number}",))).rowcount
    with locked_by_another_process(path) as release:
        others = [in_thread(lambda number=number: work(number)) for number in range(8)]
        wait_until(lambda: writer.stats().queue_rows == 8)
        interrupted(lambda: writer.execute(INSERT, ("late",)))
        alive = [other.is_alive() for other in others]
        release()
    print(json.dumps([alive, [other() for other in others]]))
"""
    path = tmp_path / "topics.db"
    assert tell(script, path) == [[True] * 8, [1] * 8]
    assert titles(path) == {f"other {number}" for number in range(8)}


def test_a_signal_handler_that_does_not_raise_ends_no_wait(tmp_path):
    """It runs in the middle of the wait, may write itself, and the wait goes on to its end."""
    script = """
with BatchWriter(path) as writer:
    writer.execute(CREATE)
    told = []
    def handle(number, frame):
        told.append(writer.submit(INSERT, ("from the handler",)))
        print("interrupted", flush=True)
        threading.Timer(0.3, release).start()
    signal.signal(signal.SIGINT, handle)
    with locked_by_another_process(path) as release:
        print("waiting", flush=True)
        told.append(writer.execute(INSERT, ("waited",)))
    print(json.dumps([told[0].result(10).rowcount, told[1].rowcount]))
"""
    path = tmp_path / "topics.db"
    assert tell(script, path) == [1, 1]
    assert titles(path) == {"from the handler", "waited"}


def test_a_signal_handler_may_wait_for_its_own_write(tmp_path):
    """Between the statements of a blocked `execute`, in the same thread."""
    script = """
with BatchWriter(path) as writer:
    writer.execute(CREATE)
    told = []
    def handle(number, frame):
        print("interrupted", flush=True)
        threading.Timer(0.3, release).start()
        told.append(writer.execute(INSERT, ("from the handler",)).rowcount)
    signal.signal(signal.SIGINT, handle)
    with locked_by_another_process(path) as release:
        print("waiting", flush=True)
        told.append(writer.execute(INSERT, ("waited",)).rowcount)
    print(json.dumps(told))
"""
    path = tmp_path / "topics.db"
    assert tell(script, path) == [1, 1]
    assert titles(path) == {"from the handler", "waited"}


def test_a_flush_that_waits_for_callbacks(tmp_path):
    told = tell(
        """
writer = BatchWriter(path)
writer.execute(CREATE)
goes_on, runs = threading.Event(), threading.Event()
with locked_by_another_process(path):
    future = writer.submit(INSERT, ("a",))
    future.add_done_callback(lambda _: (runs.set(), goes_on.wait(30)))
runs.wait(10)
notes = interrupted(writer.flush)
try:
    writer.flush(timeout=0.1)
except errors.WriteTimeoutError as error:
    late = str(error)
goes_on.set()
writer.flush()
writer.close()
print(json.dumps(dict(notes=notes, late=late)))
""",
        tmp_path / "app.db",
    )
    assert told["notes"] == []
    assert "everything is written" in told["late"]
    assert titles(tmp_path / "app.db") == {"a"}


def test_the_end_of_a_transaction_that_waits_for_a_reader(tmp_path):
    told = tell(
        """
writer = BatchWriter(path, journal_mode="delete", hold_limit=60)
writer.execute(CREATE)
reader = sqlite3.connect(path, isolation_level=None)
reader.execute("BEGIN")
reader.execute("SELECT * FROM topic").fetchall()
def block():
    with writer.transaction() as tx:
        tx.execute(INSERT, ("late",))
notes = interrupted(block)
reader.execute("ROLLBACK")
print(json.dumps(dict(notes=notes, after=writer.execute(INSERT, ("after",)).rowcount)))
""",
        tmp_path / "app.db",
    )
    assert told == {"notes": ["the interrupted transaction failed: database is locked"], "after": 1}
    assert titles(tmp_path / "app.db") == {"after"}


def test_a_write_that_runs_in_its_callers_thread_tells_its_outcome(tmp_path):
    told = tell(
        """
writer = BatchWriter(path)
writer.execute(CREATE)
print(json.dumps(interrupted(lambda: writer.execute(SLOW, timeout=60))))
""",
        tmp_path / "app.db",
        prompt=30,
    )
    assert told == ["the interrupted write was committed"]
    assert titles(tmp_path / "app.db") == {"slow"}
