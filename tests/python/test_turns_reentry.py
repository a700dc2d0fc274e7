"""Who has the turn and asks again fails at once; who waits beside it gets it."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from contextlib import contextmanager

import pytest

import turnwise.sqlite3
from process_support import landed, make_database
from turn_parties import SAVE, Party, free
from turnwise import BatchWriter, TurnLock, errors
from writer_support import in_thread, wait_until

pytestmark = pytest.mark.filterwarnings("ignore::turnwise.errors.WalResetBugWarning")

HERE = os.path.basename(__file__)


@pytest.fixture
def path(tmp_path):
    return make_database(tmp_path / "a.db")


@pytest.fixture
def lock(path):
    return TurnLock(path, turn_timeout=None)


@contextmanager
def refused_at_once(*places):
    began = time.monotonic()
    with pytest.raises(errors.TurnReenteredError) as refused:
        yield
    assert time.monotonic() - began < 1
    for place in places:
        assert str(refused.value).count(place) >= places.count(place), refused.value


class TestSameThread:
    def test_a_second_lock_over_another_path(self, path, lock, tmp_path):
        (tmp_path / "link").symlink_to(path)
        with lock.turn():
            for again in (lock, TurnLock(path), TurnLock(tmp_path / "link")):
                with refused_at_once(HERE, HERE), again.turn():
                    pass
        with TurnLock(tmp_path / "link").turn(timeout=5) as turn:
            assert turn.held

    def test_a_writer(self, path, lock):
        with BatchWriter(path, turn_timeout=None) as writer:
            for refused in (
                lambda: writer.execute(SAVE, ("a", 1)),
                lambda: writer.executemany(SAVE, [("a", 1)]),
                lambda: writer.transaction().__enter__(),
            ):
                with lock.turn(), refused_at_once(HERE):
                    refused()
            writer.execute(SAVE, ("a", 2))
        assert landed(path) == {("a", 2): 1}

    @pytest.mark.timeout(30)
    def test_a_flush_that_would_wait_for_itself(self, path, lock):
        with BatchWriter(path, turn_timeout=None) as writer:
            with lock.turn():
                future = writer.submit(SAVE, ("a", 1))
                with refused_at_once(HERE):
                    writer.flush(5)
            future.result(5)
            with lock.turn():
                writer.submit(SAVE, ("a", 2))
                with refused_at_once(HERE):
                    writer.close(5)
            writer.flush()
            with lock.turn():
                writer.flush()
        assert landed(path) == {("a", 1): 1, ("a", 2): 1}

    def test_a_lock_in_a_transaction(self, path, lock):
        with BatchWriter(path) as writer, writer.transaction() as tx:
            tx.execute(SAVE, ("a", 1))
            with refused_at_once(HERE, HERE), lock.turn():
                pass
            tx.execute(SAVE, ("a", 2))
        assert len(landed(path)) == 2

    def test_after_an_error_in_the_block(self, lock):
        with pytest.raises(KeyError), lock.turn():
            raise KeyError
        with lock.turn(timeout=5) as turn:
            assert turn.held

    def test_a_context_that_is_used_again(self, lock):
        context = lock.turn()
        for _ in range(3):
            with context as turn:
                assert turn.held


class TestAnother:
    def test_thread_waits_and_gets_it(self, path, lock):
        with BatchWriter(path, turn_timeout=None) as writer:
            with lock.turn():
                asks = [
                    in_thread(lambda: lock.turn(timeout=20).__enter__().held),
                    in_thread(lambda: writer.execute(SAVE, ("a", 1)).rowcount),
                ]
                time.sleep(0.1)
                assert all(ask.is_alive() for ask in asks)
            assert [ask() for ask in asks] == [True, 1]

    def test_task_waits_and_gets_it(self, path, lock):
        async def main():
            order = []

            async def take(name):
                async with lock.turn(timeout=20) as turn:
                    assert turn.held
                    order.append(name)
                    await asyncio.sleep(0.02)
                    order.append(name)

            await asyncio.gather(*(take(name) for name in range(5)))
            return order

        order = asyncio.run(main())
        assert order == [name for name in range(5) for _ in range(2)]
        assert free(path)

    def test_task_beside_a_thread(self, lock):
        async def main():
            async with lock.turn(timeout=20):
                ask = asyncio.create_task(
                    asyncio.to_thread(lambda: lock.turn(timeout=20).__enter__().held)
                )
                await asyncio.sleep(0.1)
                assert not ask.done()
            return await ask

        assert asyncio.run(main())


class TestSameTask:
    def test_asks_again(self, path, lock):
        async def main():
            async with lock.turn():
                with refused_at_once(HERE, HERE):
                    async with TurnLock(path).turn():
                        pass
            async with lock.turn(timeout=5) as turn:
                return turn.held

        assert asyncio.run(main())

    def test_blocks_the_loop(self, path, lock):
        async def main(writer):
            async with lock.turn():
                with refused_at_once(HERE, HERE), lock.turn():
                    pass
                with refused_at_once(HERE):
                    writer.execute(SAVE, ("a", 1))

            async def hold(inside):
                async with lock.turn():
                    inside.set()
                    await asyncio.sleep(0.3)

            inside = asyncio.Event()
            holder = asyncio.create_task(hold(inside))
            await inside.wait()
            # In this thread nobody could ever give it back.
            with refused_at_once(HERE, HERE), lock.turn():
                pass
            await holder
            with lock.turn(timeout=5) as turn:
                assert turn.held

        with BatchWriter(path, turn_timeout=None) as writer:
            asyncio.run(main(writer))
        assert not landed(path)

    @pytest.mark.timeout(30)
    def test_suspends_in_its_own_blocking_turn(self, lock):
        async def main():
            with lock.turn(), refused_at_once(HERE, HERE):
                async with lock.turn(timeout=10):
                    pass

            async def hold():
                with lock.turn():
                    await asyncio.sleep(0.1)

            async def ask():
                async with lock.turn(timeout=10) as turn:
                    return turn.held

            return (await asyncio.gather(hold(), ask()))[1]

        assert asyncio.run(main())

    def test_suspends_in_a_writers_transaction(self, path, lock):
        async def main(writer):
            with writer.transaction() as tx:
                tx.execute(SAVE, ("a", 1))
                with refused_at_once(HERE, HERE):
                    async with lock.turn(timeout=10):
                        pass
            async with lock.turn(timeout=5) as turn:
                return turn.held

        with BatchWriter(path, turn_timeout=None) as writer:
            assert asyncio.run(main(writer))
        assert landed(path) == {("a", 1): 1}

    def test_awaits_a_write_in_its_turn(self, path, lock):
        async def main(writer):
            async with lock.turn():
                with refused_at_once(HERE):
                    await writer.aexecute(SAVE, ("a", 1))
                neighbour = asyncio.create_task(writer.aexecute(SAVE, ("a", 2)))
                await asyncio.sleep(0.05)
                assert not neighbour.done()
            await neighbour

        with BatchWriter(path, turn_timeout=None) as writer:
            asyncio.run(main(writer))
        assert landed(path) == {("a", 2): 1}

    def test_suspends_in_a_transaction_of_the_drop_in(self, path, lock):
        async def main():
            connection = turnwise.sqlite3.connect(path)
            with connection:
                connection.execute(SAVE, ("a", 1))
                with refused_at_once(HERE, HERE):
                    async with lock.turn(timeout=10):
                        pass
            connection.close()

        asyncio.run(main())
        assert landed(path) == {("a", 1): 1}

    @pytest.mark.parametrize("for_a", ["turn", "write"])
    def test_that_has_ended_is_not_taken_for_another(self, path, lock, for_a):
        async def enter(context):
            return await context.__aenter__()

        async def turn(_writer):
            with pytest.raises(errors.LockTimeoutError):
                async with lock.turn(timeout=0.001):
                    pass

        async def write(writer):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(writer.aexecute(SAVE, ("a", 1)), 0.001)

        async def main(writer):
            asks = {"turn": turn, "write": write}[for_a]
            context = lock.turn()
            await asyncio.create_task(enter(context))
            # One of them has the `id` that the ended task had.
            for _ in range(50):
                await asyncio.create_task(asks(writer))
            await context.__aexit__(None, None, None)

        with BatchWriter(path, turn_timeout=None) as writer:
            asyncio.run(main(writer))
        assert not landed(path)

    @pytest.mark.timeout(30)
    def test_blocks_while_its_neighbour_stands_in_line(self, path, lock):
        with Party(path) as holder:
            holder.do("turn = TurnLock(path).turn().__enter__()")

            async def suspend():
                async with lock.turn(timeout=20) as turn:
                    return turn.held

            async def main():
                neighbour = asyncio.create_task(suspend())
                await asyncio.sleep(0.05)
                in_thread(lambda: (time.sleep(0.2), holder.do("turn.release()")))
                # No fall-through, no error: the neighbour comes after it.
                with lock.turn(timeout=20) as turn:
                    assert turn.held
                return await neighbour

            assert asyncio.run(main())


def test_locks_that_are_dropped_leave_nothing_behind(path):
    def count():
        gc.collect()
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    def contend():
        lock = TurnLock(path)
        with lock.turn():
            ask = in_thread(lambda: lock.turn(timeout=20).__enter__().held)
            wait_until(lambda: lock.stats().waits)
        assert ask()

    contend()
    # What earlier tests have left behind may end meanwhile.
    descriptors, threads = count()
    for _ in range(30):
        contend()
    wait_until(lambda: count()[0] <= descriptors and count()[1] <= threads)


def test_a_queued_thread_neither_polls_nor_sleeps(path, counting_calls):
    """Threads of another process stand in line: none of them makes a system call meanwhile."""
    look = (
        "def look():\n"
        " found = {}\n"
        " for task in os.listdir('/proc/self/task'):\n"
        "  if int(task) == os.getpid(): continue\n"
        "  with open(f'/proc/self/task/{task}/comm') as comm: name = comm.read().strip()\n"
        "  with open(f'/proc/self/task/{task}/syscall') as call: call = call.read().split()\n"
        "  with open(f'/proc/self/task/{task}/status') as status: status = status.read()\n"
        "  switches = [line.split()[1] for line in status.splitlines() if 'ctxt_switches' in line]\n"
        "  found[task] = [name, call[0], switches]\n"
        " return found"
    )
    with Party(path) as holder, Party(path, preload=counting_calls) as waiter:
        holder.do("lock = TurnLock(path); turn = lock.turn().__enter__()")
        waiter.do("import ctypes, threading")
        waiter.do("lock = TurnLock(path, turn_timeout=None)")
        waiter.do("writer = BatchWriter(path, turn_timeout=None)")
        waiter.do(
            "got = []\n"
            "def ask(): got.append(lock.turn(timeout=60).__enter__().held)\n"
            "def write(): got.append(writer.execute(SAVE, ('a', 1), timeout=60).rowcount == 1)\n"
            "crew = [threading.Thread(target=work) for work in [ask, write] * 4]\n"
            "for thread in crew: thread.start()"
        )
        waiter.do(look)
        time.sleep(0.5)
        first = waiter.do("look()")
        time.sleep(1)
        second = waiter.do("look()")
        assert len(first) >= 9, first
        # Neither run nor woken in a whole second.
        assert first == second
        calls = {of[1] for of in first.values()}
        assert calls <= {FUTEX, FLOCK_CALL}, first
        assert [of[1] for of in first.values()].count(FLOCK_CALL) == 1
        for name in ("usleep", "nanosleep", "clock_nanosleep", "sched_yield"):
            count = f"ctypes.CDLL(None).calls_counted({name.encode()!r})"
            assert waiter.do(count) == 0, name
        holder.do("turn.release()")
        waiter.do("for thread in crew: thread.join(20)")
        assert waiter.do("got") == [True] * 8


FLOCK_CALL, FUTEX = {"x86_64": ("73", "202"), "aarch64": ("32", "98")}[os.uname().machine]
