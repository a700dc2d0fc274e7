"""A coroutine waits for the turn suspended, and gives its place back when it is cancelled."""

from __future__ import annotations

import asyncio
import os
import threading
import time

import pytest

from process_support import make_database
from turn_parties import Party, free
from turnwise import TurnLock, errors
from writer_support import in_thread


@pytest.fixture
def path(tmp_path):
    return make_database(tmp_path / "a.db")


@pytest.fixture
def lock(path):
    return TurnLock(path, turn_timeout=None)


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
