"""A process that is stopped while it has the turn, or while it is next."""

from __future__ import annotations

import time

import pytest

from process_support import landed, make_database, wait_for
from turn_parties import Party, free, locked_by, side, waits_in_kernel

LOCK = "lock = TurnLock(path, turn_timeout=None)"
HOLD = "turn = lock.turn().__enter__()"
GIVE_BACK = "turn.release()"


@pytest.fixture
def path(tmp_path):
    return make_database(tmp_path / "a.db")


@pytest.fixture
def party(path):
    """Starts processes, and kills them after the test."""
    parties = []

    def start(setup=LOCK, **options):
        one = Party(path, **options)
        parties.append(one)
        one.do(setup)
        return one

    yield start
    for one in parties:
        one.__exit__()


def test_a_caller_is_told_who_has_the_turn(path, party):
    holder, waiter = party(), party()
    holder.do(HOLD)
    holder.stop()
    took, kind, told = waiter.do("timed(lambda: lock.turn(timeout=0.5).__enter__())")
    assert kind == "LockTimeoutError"
    assert f"process {holder.pid} " in told
    assert 0.5 <= took < 2.5
    holder.go_on()
    holder.do(GIVE_BACK)
    wait_for(lambda: free(path), "the late turn is given back")
    assert waiter.do("lock.turn(timeout=5).__enter__().held")


def test_a_coroutine_is_told_who_has_the_turn(path, party):
    holder, waiter = party(), party()
    holder.do(HOLD)
    holder.stop()
    waiter.do("async def ask():\n async with lock.turn(timeout=0.5): pass")
    waiter.do("import asyncio")
    took, kind, told = waiter.do("timed(lambda: asyncio.run(ask()))")
    assert (kind, f"process {holder.pid} " in told) == ("LockTimeoutError", True), told
    assert 0.5 <= took < 2.5


@pytest.mark.parametrize("timeout", [None, 0.3])
def test_a_writer_is_told_who_has_the_turn(path, party, timeout):
    holder = party()
    waiter = party(f"writer = BatchWriter(path, turn_timeout={timeout and 60})")
    holder.do(HOLD)
    holder.stop()
    took, kind, told = waiter.do("timed(lambda: writer.execute(SAVE, ('a', 1), timeout=0.5))")
    assert kind == "LockTimeoutError"
    assert f"process {holder.pid} " in told
    assert 0.5 <= took < 2.5
    assert not landed(path)


def test_where_the_turn_stands_still_writers_go_on_without(path, party):
    holder = party()
    waiters = [party("writer = BatchWriter(path, turn_timeout=0.3)") for _ in range(2)]
    holder.do(HOLD)
    holder.stop()
    for at, waiter in enumerate(waiters):
        took, kind, told = waiter.do(f"timed(lambda: writer.execute(SAVE, ('a', {at})))")
        assert (kind, told) == (None, None)
        assert took < 3
        assert waiter.do("writer.stats().turn_fall_throughs") == 1
        assert waiter.do("writer.stats().outsiders") == 0
    holder.go_on()
    holder.do(GIVE_BACK)
    wait_for(lambda: free(path), "the late turns are given back")
    for at, waiter in enumerate(waiters):
        waiter.do(f"writer.execute(SAVE, ('b', {at}))")
        assert waiter.do("writer.stats().turn_fall_throughs") == 1
    assert len(landed(path)) == 4


def test_a_lock_is_fallen_through_by_threads_and_tasks(path, party):
    holder, waiter = party(), party("lock = TurnLock(path, turn_timeout=0.3)")
    holder.do(HOLD)
    holder.stop()
    waiter.do("got = []")
    took, kind, _ = waiter.do("timed(lambda: got.append(lock.turn().__enter__().held))")
    assert (kind, took < 3) == (None, True)
    waiter.do("async def ask():\n async with lock.turn() as turn: got.append(turn.held)")
    waiter.do("import asyncio")
    took, kind, _ = waiter.do("timed(lambda: asyncio.run(ask()))")
    assert (kind, took < 3) == (None, True)
    assert waiter.do("got") == [False, False]
    assert waiter.do("lock.stats().fall_throughs") == 2


@pytest.mark.parametrize("turn_timeout", [None, 0.3])
def test_a_holder_that_stops_in_its_transaction_is_named(path, party, turn_timeout):
    holder = party("writer = BatchWriter(path, hold_limit=60)")
    waiter = party(f"writer = BatchWriter(path, turn_timeout={turn_timeout})")
    holder.do("tx = writer.transaction(); tx.__enter__().execute(SAVE, ('holder', 1))")
    holder.stop()
    took, kind, told = waiter.do("timed(lambda: writer.execute(SAVE, ('a', 1), timeout=1.5))")
    assert kind == "LockTimeoutError"
    assert f"process {holder.pid} " in told, told
    assert 1.5 <= took < 4
    assert waiter.do("writer.stats().turn_fall_throughs") == (turn_timeout is not None)
    holder.go_on()
    holder.do("tx.__exit__(None, None, None)")
    waiter.do("writer.execute(SAVE, ('a', 2))")
    assert landed(path) == {("holder", 1): 1, ("a", 2): 1}
    wait_for(lambda: free(path), "nobody has the turn")


def test_a_stopped_process_that_is_next_is_named(path, party):
    holder, following, waiter = party(), party(), party()
    holder.do(HOLD)
    following.start("lock.turn(timeout=60).__enter__().held")
    wait_for(lambda: waits_in_kernel(following.pid), "it waits")
    wait_for(lambda: locked_by(side(path, "-turn-next")) == {following.pid}, "it is next")
    following.stop()
    holder.do(GIVE_BACK)
    took, kind, told = waiter.do("timed(lambda: lock.turn(timeout=0.5).__enter__())")
    assert (kind, 0.5 <= took < 2.5) == ("LockTimeoutError", True)
    assert f"process {following.pid} " in told, told
    # The one who had it last is not the one in the way.
    took, kind, told = holder.do("timed(lambda: lock.turn(timeout=0.5).__enter__())")
    assert kind == "LockTimeoutError"
    assert f"process {following.pid} " in told, told
    waiter.do("writer = BatchWriter(path, turn_timeout=0.3)")
    waiter.do("writer.execute(SAVE, ('a', 1))")
    assert waiter.do("writer.stats().turn_fall_throughs") == 1
    following.go_on()
    assert following.reply() is True
    following.kill()
    assert waiter.do("lock.turn(timeout=5).__enter__().held")


def test_a_stopped_process_that_is_next_and_is_killed_is_no_longer_next(path, party):
    holder, following, waiter = party(), party(), party()
    holder.do(HOLD)
    following.start("lock.turn(timeout=60).__enter__()")
    wait_for(lambda: locked_by(side(path, "-turn-next")) == {following.pid}, "it is next")
    following.stop()
    waiter.start("lock.turn(timeout=60).__enter__().held")
    wait_for(lambda: waits_in_kernel(waiter.pid), "it waits")
    following.kill()
    holder.do(GIVE_BACK)
    assert waiter.reply(5) is True


def damaged(record):
    return {
        "empty": b"",
        "short": b"pid 00000",
        "nonsense": bytes(range(256)),
        "of the future": b"pid 0000000001 since 09999999999.000000000\noutsider 09999999999.000000000\n",
        "of the past": b"pid 0000000001 since 00000000001.000000000\noutsider 00000000001.000000000\n",
        "huge": b"pid 0000000001 since 99999999999.999999999\noutsider 99999999999.999999999\n",
    }[record]


@pytest.mark.parametrize(
    "record", ["empty", "short", "nonsense", "of the future", "of the past", "huge"]
)
def test_a_damaged_record_changes_nothing(path, party, record):
    holder, waiter = party(), party()
    holder.do("turn = lock.turn().__enter__()")
    side(path).write_bytes(damaged(record))
    holder.stop()
    _, kind, told = waiter.do("timed(lambda: lock.turn(timeout=0.3).__enter__())")
    assert (kind, f"process {holder.pid} " in told) == ("LockTimeoutError", True), told
    waiter.do("writer = BatchWriter(path, turn_timeout=0.3)")
    took, kind, told = waiter.do("timed(lambda: writer.execute(SAVE, ('a', 1), timeout=4))")
    assert (kind, told) == (None, None)
    assert took < 3
    holder.go_on()
    holder.do("turn.release()")
    waiter.do("writer.execute(SAVE, ('a', 2))")
    # A record of the past cannot be told from that of a holder that hangs.
    at_most = 2 if record == "of the past" else 1
    assert 1 <= waiter.do("writer.stats().turn_fall_throughs") <= at_most
    # A gap for outsiders that nobody has met would show as time between the turns.
    other = party()
    other.do(
        "def turns(count, hold):\n"
        " began = time.monotonic()\n"
        " for _ in range(count):\n"
        "  with lock.turn(): time.sleep(hold)\n"
        " return time.monotonic() - began"
    )
    side(path).write_bytes(damaged(record))
    turn = "turn = lock.turn(timeout=5).__enter__()"
    holder.do(turn)
    other.start("turns(20, 0.02)")
    wait_for(lambda: waits_in_kernel(other.pid), "it waits")
    side(path).write_bytes(damaged(record))
    holder.do("turn.release()")
    other.reply()
    assert other.do("lock.stats().outsiders") == 0
    # Each gap is waited out by the keeper; without gaps nobody has to wait.
    assert other.do("lock.stats().waits") == 1
    assert len(landed(path)) == 2


@pytest.mark.parametrize("record", ["empty", "nonsense", "of the future"])
def test_who_comes_after_a_pause_waits_where_the_record_tells_nothing(path, party, record):
    holder, late = party(), party("lock = TurnLock(path, turn_timeout=0.6)")
    late.do("turn = lock.turn().__enter__(); turn.release(); time.sleep(0.7)")
    holder.do(HOLD)
    side(path).write_bytes(damaged(record))
    late.start("timed(lambda: lock.turn(timeout=20).__enter__())")
    time.sleep(0.2)
    holder.do(GIVE_BACK)
    assert late.reply()[1] is None
    assert late.do("lock.stats().fall_throughs") == 0


class TestEndsWhileItsKeeperWaits:
    """A process ends, closes or forks while its keeper waits in the kernel for a stopped holder."""

    @pytest.fixture
    def waiter(self, path, party):
        holder = party()
        holder.do(HOLD)
        holder.stop()
        waiter = party("writer = BatchWriter(path, turn_timeout=0.2)")
        waiter.do("writer.execute(SAVE, ('a', 1))")
        assert waits_in_kernel(waiter.pid)
        waiter.holder = holder
        return waiter

    def test_close(self, path, waiter):
        took, kind, _ = waiter.do("timed(writer.close)")
        assert (kind, took < 3) == (None, True)
        assert waiter.do("writer.closed")
        waiter.do("writer = BatchWriter(path, turn_timeout=0.2)")
        waiter.do("writer.execute(SAVE, ('a', 2))")
        waiter.holder.go_on()
        waiter.holder.do(GIVE_BACK)
        wait_for(lambda: free(path), "the late turns are given back")
        assert waiter.do("writer.execute(SAVE, ('a', 3)) and None") is None
        assert len(landed(path)) == 3

    def test_opening_again_and_again_leaves_nothing_behind(self, waiter):
        count = "[len(os.listdir('/proc/self/fd')), len(os.listdir('/proc/self/task'))]"
        again = (
            "for number in range(10):\n"
            " writer.close(); writer = None; writer = BatchWriter(path, turn_timeout=0.05)\n"
            " writer.execute(SAVE, ('b', number))"
        )
        waiter.do(again)
        before = waiter.do(count)
        waiter.do(again)
        after = waiter.do(count)
        assert after == before

    def test_exit(self, path, waiter):
        began = time.monotonic()
        waiter.do("future = writer.submit(SAVE, ('a', 2))")
        waiter.process.stdin.close()
        assert waiter.process.wait(20) == 0
        assert time.monotonic() - began < 10
        assert len(landed(path)) == 2

    def test_fork(self, path, waiter):
        waiter.do(
            "def child():\n"
            " pid = os.fork()\n"
            " if pid: return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\n"
            " try:\n"
            "  writer.execute(SAVE, ('child', 1)); writer.close(); os._exit(0)\n"
            " finally: os._exit(1)"
        )
        assert waiter.do("child()") == 0
        assert len(landed(path)) == 2
        waiter.holder.go_on()
        waiter.holder.do(GIVE_BACK)
        wait_for(lambda: free(path), "the late turn is given back")
