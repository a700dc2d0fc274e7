"""A coroutine waits for the turn suspended, and gives its place back when it is cancelled."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import resource
import threading
import time
from contextlib import contextmanager
from decimal import Decimal

import pytest

import turnwise.sqlite3
from process_support import landed, make_database
from turn_parties import SAVE, Party, free
from turnwise import TurnLock, errors
from writer_support import in_thread


@pytest.fixture
def path(tmp_path):
    return make_database(tmp_path / "a.db")


@pytest.fixture
def lock(path):
    return TurnLock(path, turn_timeout=None)


@contextmanager
def taken_by_a_thread(lock):
    """Another thread has the turn until the block ends, or until `release()`."""
    inside, over = threading.Event(), threading.Event()

    def hold():
        with lock.turn():
            inside.set()
            over.wait(30)

    holder = in_thread(hold)
    assert inside.wait(10)

    def release():
        over.set()
        holder()

    try:
        yield release
    finally:
        over.set()


@contextmanager
def no_descriptor_left():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    top = max(int(known) for known in os.listdir("/proc/self/fd")) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (top, hard))
    spare = []
    try:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                spare.append(os.dup(0))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in spare:
            os.close(descriptor)


async def enter(lock):
    async with lock.turn(timeout=20):
        raise AssertionError("it was not to get in")


def had_by_another_thread(lock):
    return in_thread(lambda: lock.turn(timeout=5).__enter__().held)()


class TestTheLoop:
    def test_is_never_blocked(self, path, lock):
        async def main(holder):
            gaps, over = [], False

            async def tick():
                last = time.monotonic()
                while not over:
                    await asyncio.sleep(0.001)
                    now = time.monotonic()
                    gaps.append(now - last)
                    last = now

            ticking = asyncio.create_task(tick())
            holder.start("time.sleep(0.3); turn.release()")
            began = time.monotonic()
            async with lock.turn(timeout=20) as turn:
                waited = time.monotonic() - began
                assert turn.held
            over = True
            await ticking
            return waited, max(gaps)

        with Party(path) as holder:
            holder.do("lock = TurnLock(path); turn = lock.turn().__enter__()")
            waited, gap = asyncio.run(main(holder))
            print(f"waited {waited * 1e3:.0f} ms, largest gap of the loop {gap * 1e3:.1f} ms")
        assert waited > 0.25
        assert gap < 0.15

    def test_goes_on_while_a_cancelled_task_leaves_its_place(self, path, lock):
        async def main():
            async def ask():
                async with lock.turn(timeout=20):
                    raise AssertionError("it was cancelled")

            release = threading.Event()
            inside = threading.Event()

            def hold():
                with lock.turn():
                    inside.set()
                    release.wait(10)

            holder = in_thread(hold)
            assert await asyncio.to_thread(inside.wait, 10)
            tasks = [asyncio.create_task(ask()) for _ in range(3)]
            await asyncio.sleep(0.05)
            tasks[1].cancel()
            tasks[0].cancel()
            await asyncio.sleep(0)
            tasks[2].cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {asyncio.CancelledError}
            release.set()
            holder()
            async with lock.turn(timeout=5) as turn:
                assert turn.held
            return outcomes

        asyncio.run(main())
        assert free(path)

    def test_gives_a_turn_back_that_came_with_the_cancellation(self, path, lock):
        """The turn has come, and its task is cancelled before it has run."""

        async def main():
            entered = []

            async def ask():
                async with lock.turn(timeout=20):
                    entered.append(True)
                    await asyncio.sleep(10)

            inside, release = threading.Event(), threading.Event()

            def hold():
                with lock.turn():
                    inside.set()
                    release.wait(10)

            for ready in (True, False):
                inside.clear()
                release.clear()
                holder = in_thread(hold)
                assert await asyncio.to_thread(inside.wait, 10)
                task = asyncio.create_task(ask())
                await asyncio.sleep(0.05)
                release.set()
                # The loop stands still meanwhile.
                holder()
                time.sleep(0.05)  # noqa: ASYNC251
                if ready:
                    # It has seen that the turn has come, and wakes the task in the next round.
                    await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError) as kept:
                    await asyncio.wait_for(task, 5)
                # `kept` holds the error, and the error the frames in which it was raised.
                assert await asyncio.to_thread(lambda: lock.turn(timeout=2).__enter__().held)
                assert kept.value is not None
            assert entered == []

        asyncio.run(main())
        assert free(path)

    def test_takes_turns_at_a_timeout_of_zero(self, path):
        """A turn that may not stand still at all is gone on without, by thread and task."""
        impatient = TurnLock(path, turn_timeout=0)

        async def main():
            async with impatient.turn(timeout=5) as turn:
                return turn.held

        with Party(path) as holder:
            holder.do("lock = TurnLock(path); turn = lock.turn().__enter__()")
            began = time.monotonic()
            with impatient.turn(timeout=5) as turn:
                assert not turn.held
            assert asyncio.run(main()) is False
            assert time.monotonic() - began < 2

    def test_leaks_no_descriptors(self, path, lock):
        async def main():
            async def take(at):
                async with lock.turn(timeout=20):
                    await asyncio.sleep(0)

            async def give_up():
                with pytest.raises(errors.LockTimeoutError):
                    async with lock.turn(timeout=0.001):
                        pass

            async def round_():
                async with lock.turn(timeout=20):
                    waiting = [asyncio.create_task(take(at)) for at in range(8)]
                    impatient = [asyncio.create_task(give_up()) for _ in range(1)]
                    await asyncio.sleep(0)
                    waiting[3].cancel()
                    await asyncio.gather(*impatient)
                await asyncio.gather(*waiting, return_exceptions=True)

            await round_()
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(25):
                await round_()
            return len(os.listdir("/proc/self/fd")) - before

        assert asyncio.run(main()) <= 0
        assert lock.stats().waits >= 200


class Thrown(BaseException):
    """No `Exception`, as `KeyboardInterrupt` is none."""


class TestWhoStopsWaiting:
    @pytest.mark.parametrize("error", [RuntimeError, Thrown, GeneratorExit])
    @pytest.mark.parametrize("moment", ["waits", "coming", "come"])
    def test_for_whatever_reason_gives_up_its_place_and_its_turn(self, path, lock, error, moment):
        kept = []

        async def main():
            with taken_by_a_thread(lock) as release:
                waiting = enter(lock)
                waiting.send(None)
                if moment != "waits":
                    # The loop stands still meanwhile.
                    release()
                    time.sleep(0.05)  # noqa: ASYNC251
                if moment == "come":
                    await asyncio.sleep(0.01)
                with pytest.raises(error) as stopped:
                    waiting.throw(error("it stops"))
                # It keeps the frames in which it was raised.
                kept.append(stopped.value)
                release()
                await asyncio.sleep(0.05)
            return await asyncio.to_thread(had_by_another_thread, lock)

        assert asyncio.run(main())
        assert kept
        assert free(path)

    def test_with_its_loop_gives_up_what_comes_later(self, path, lock):
        kept = []

        async def main():
            kept.append(asyncio.create_task(enter(lock)))
            await asyncio.sleep(0.05)

        loop = asyncio.new_event_loop()
        with taken_by_a_thread(lock) as release:
            loop.run_until_complete(main())
            loop.close()
            release()
        assert had_by_another_thread(lock)
        assert free(path)
        kept.pop()._log_destroy_pending = False

    def test_with_its_loop_gives_up_what_has_come(self, path, lock):
        async def main(release):
            waiting = asyncio.create_task(enter(lock))
            waiting._log_destroy_pending = False
            await asyncio.sleep(0.05)
            release()
            time.sleep(0.05)  # noqa: ASYNC251

        loop = asyncio.new_event_loop()
        with taken_by_a_thread(lock) as release:
            loop.run_until_complete(main(release))
        loop.close()
        gc.collect()
        assert had_by_another_thread(lock)
        assert free(path)


class TestTimeouts:
    @pytest.mark.parametrize("timeout", ["5", -1, math.nan, math.inf, 10**400])
    @pytest.mark.parametrize("taken", [False, True])
    def test_are_checked_alike_before_anything_is_asked_for(self, path, lock, timeout, taken):
        def block():
            with lock.turn(timeout=timeout):
                pass

        async def suspend():
            async with lock.turn(timeout=timeout):
                pass

        def refused(enter):
            with pytest.raises((TypeError, OverflowError, errors.InvalidSettingError)) as refused:
                enter()
            return type(refused.value), str(refused.value)

        def compare():
            assert refused(block) == refused(lambda: asyncio.run(suspend()))

        if taken:
            with taken_by_a_thread(lock):
                compare()
        else:
            compare()
            assert not os.path.exists(f"{path}-turn")
        assert lock.stats().waits == 0

    def test_may_be_any_real_number(self, lock):
        async def main(timeout):
            async with lock.turn(timeout=timeout):
                pass

        with taken_by_a_thread(lock):
            for timeout in (Decimal("0.02"), 0, True):
                with pytest.raises(errors.LockTimeoutError, match="has had the turn"):
                    asyncio.run(main(timeout))


class TestWithoutDescriptors:
    def test_waiters_get_their_turns(self, path, lock):
        async def ask():
            async with lock.turn(timeout=20) as turn:
                await asyncio.sleep(0)
                return turn.held

        async def main():
            with taken_by_a_thread(lock) as release, no_descriptor_left():
                waiting = [asyncio.create_task(ask()) for _ in range(100)]
                await asyncio.sleep(0.05)
                assert not any(task.done() for task in waiting)
                release()
                return await asyncio.gather(*waiting)

        assert asyncio.run(main()) == [True] * 100
        assert lock.stats().fall_throughs == 0

    def test_a_lock_that_was_never_used_is_gone_on_without(self, lock):
        async def main():
            with no_descriptor_left():
                async with lock.turn(timeout=20) as turn:
                    return turn.held

        assert asyncio.run(main()) is False
        assert lock.stats().fall_throughs == 1


class TestATurnThatIsNotTakenUp:
    """It has come to a coroutine that has not run since."""

    @pytest.mark.parametrize("come", [False, True])
    def test_goes_to_its_thread_first(self, path, lock, come):
        order, inside = [], set()

        async def ask(name):
            async with lock.turn(timeout=20) as turn:
                assert turn.held
                assert not inside
                inside.add(name)
                await asyncio.sleep(0.02)
                inside.remove(name)
                order.append(name)

        async def main():
            with taken_by_a_thread(lock) as release:
                waiting = [asyncio.create_task(ask(name)) for name in range(3)]
                await asyncio.sleep(0.05)
                if come:
                    release()
                    time.sleep(0.05)  # noqa: ASYNC251
                else:
                    threading.Timer(0.05, release).start()
                with lock.turn(timeout=10) as turn:
                    assert turn.held
                    assert not free(path)
                    order.append("thread")
                await asyncio.gather(*waiting)

        asyncio.run(main())
        # Once it is given back, the next in line may have it before 0 has run and asked again.
        assert order[0] == "thread"
        assert order.index(0) < order.index(2)
        assert len(order) == 4
        assert free(path)
        assert lock.stats().fall_throughs == 0

    @pytest.mark.filterwarnings("ignore::turnwise.errors.WalResetBugWarning")
    def test_goes_to_a_connection_of_its_thread_first(self, path, lock):
        async def ask():
            async with lock.turn(timeout=20) as turn:
                return turn.held

        async def main():
            connection = turnwise.sqlite3.connect(path)
            with taken_by_a_thread(lock) as release:
                waiting = asyncio.create_task(ask())
                await asyncio.sleep(0.05)
                release()
                time.sleep(0.05)  # noqa: ASYNC251
                with connection:
                    connection.execute(SAVE, ("a", 1))
            connection.close()
            return await waiting

        assert asyncio.run(main())
        assert landed(path) == {("a", 1): 1}

    def test_is_given_up_when_its_thread_has_taken_it(self, path, lock):
        async def main():
            with taken_by_a_thread(lock) as release:
                waiting = asyncio.create_task(enter(lock))
                await asyncio.sleep(0.05)
                release()
                time.sleep(0.05)  # noqa: ASYNC251
                with lock.turn(timeout=10):
                    waiting.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await waiting
                    assert not free(path)

        asyncio.run(main())
        assert free(path)
