"""Sessions of background work: committed or rolled back, and closed, whatever ends the work."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import sqlite3
import threading
import time

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    mapped_column,
    scoped_session,
    sessionmaker,
)

from turnwise.errors import TransactionNotOwnedError, UnsupportedUnitError
from turnwise.tracking import threads
from turnwise.tracking.scopes import session_scope
from turnwise.tracking.threads import CancelledTooLateError, to_thread


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)


class Sessions(sessionmaker):
    """A sessionmaker of sessions that block, on a file that others may lock."""

    def __init__(self, path):
        self.path = path
        self.engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 0})
        Base.metadata.create_all(self.engine)
        super().__init__(self.engine)

    def ids(self):
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            return [row[0] for row in connection.execute("SELECT id FROM item ORDER BY id")]


@pytest.fixture
def factory(tmp_path):
    made = Sessions(tmp_path / "items.db")
    yield made
    assert made.engine.pool.checkedout() == 0
    made.engine.dispose()


@pytest.fixture
def asynchronous(factory):
    """A function that runs a coroutine function with an async_sessionmaker on the same file."""

    def run(work):
        async def main():
            engine = create_async_engine(
                f"sqlite+aiosqlite:///{factory.path}", connect_args={"timeout": 0}
            )
            try:
                result = await work(async_sessionmaker(engine))
                assert engine.pool.checkedout() == 0
                return result
            finally:
                await engine.dispose()

        return asyncio.run(main())

    return run


def test_a_block_that_ends_is_committed(factory) -> None:
    scope = session_scope(factory)
    with scope as session:
        session.add(Item(id=1))
        assert scope.outcome == "open"
    assert scope.outcome == "committed"
    assert factory.ids() == [1]
    assert not session.in_transaction()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, asyncio.CancelledError])
def test_any_error_rolls_back(factory, error) -> None:
    scope = session_scope(factory)
    with pytest.raises(error) as caught, scope as session:
        session.add(Item(id=1))
        session.flush()
        raise error("the application's")
    assert caught.value.__context__ is None
    assert scope.outcome == "rolled_back"
    assert factory.ids() == []
    assert not session.in_transaction()


def test_a_generator_that_is_left_rolls_back(factory) -> None:
    def rows():
        with session_scope(factory) as session:
            session.add(Item(id=1))
            session.flush()
            yield 1
            yield 2

    generator = rows()
    next(generator)
    generator.close()
    assert factory.ids() == []


def test_a_commit_that_fails_is_raised_and_leaves_nothing_behind(factory) -> None:
    with contextlib.closing(sqlite3.connect(factory.path)) as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM item").fetchall()
        scope = session_scope(factory)
        # The reader keeps COMMIT from taking the lock; SQLite leaves the transaction open then.
        with pytest.raises(sa.exc.OperationalError, match="locked"), scope as session:
            item = Item(id=1)
            session.add(item)
        assert scope.outcome == "rolled_back"
        # Added again it would be written.
        assert sa.inspect(item).transient
        other.rollback()
    with session_scope(factory) as session:
        session.add(Item(id=2))
    assert factory.ids() == [2]


def test_a_rollback_that_fails_does_not_hide_the_error(factory) -> None:
    with pytest.raises(ValueError), session_scope(factory) as session:
        session.add(Item(id=1))
        session.flush()
        session.connection().connection.dbapi_connection.close()
        raise ValueError
    assert not session.in_transaction()
    assert factory.ids() == []


@pytest.mark.parametrize("error", [None, KeyError])
def test_closing_that_fails_neither_hides_an_error_nor_undoes_a_commit(factory, error) -> None:
    def fail():
        raise ValueError("the close's")

    scope = session_scope(factory)
    with contextlib.nullcontext() if error is None else pytest.raises(error), scope as session:
        session.add(Item(id=1))
        session.close = fail
        if error is not None:
            raise error
    assert scope.outcome == ("committed" if error is None else "rolled_back")
    assert factory.ids() == ([1] if error is None else [])
    assert not session.in_transaction()


def test_a_session_of_somebody_else_is_refused_and_left_alone(factory) -> None:
    with factory() as session:
        session.add(Item(id=1))
        with (
            pytest.raises(TransactionNotOwnedError, match="is in a transaction"),
            session_scope(lambda: session),
        ):
            raise AssertionError
        session.commit()
        kept = session.get(Item, 1)
        session.rollback()
        with (
            pytest.raises(TransactionNotOwnedError, match="holds objects"),
            session_scope(lambda: session),
        ):
            raise AssertionError
        assert kept in session
    assert factory.ids() == [1]


def test_the_session_of_a_registry_is_refused_while_it_is_in_use(factory) -> None:
    registry = scoped_session(factory)
    registry.add(Item(id=1))
    with (
        pytest.raises(TransactionNotOwnedError, match="session_factory"),
        session_scope(registry),
    ):
        raise AssertionError
    assert registry.new
    with session_scope(registry.session_factory) as session:
        assert session is not registry()
    registry.remove()


def test_what_makes_no_session_of_the_right_kind_is_refused(factory, asynchronous) -> None:
    with factory() as session, pytest.raises(TypeError, match="not Session"):
        session_scope(session)

    async def work(maker):
        with pytest.raises(UnsupportedUnitError, match="async with"), session_scope(maker):
            raise AssertionError
        with pytest.raises(UnsupportedUnitError, match="`with`"):
            async with session_scope(factory):
                raise AssertionError

    asynchronous(work)


def test_a_scope_is_entered_once(factory) -> None:
    scope = session_scope(factory)
    with scope, pytest.raises(TransactionNotOwnedError, match="entered once"), scope:
        raise AssertionError
    with pytest.raises(TransactionNotOwnedError, match="entered once"), scope:
        raise AssertionError


def test_an_asynchronous_block_is_committed_or_rolled_back(factory, asynchronous) -> None:
    async def work(maker):
        scope = session_scope(maker)
        async with scope as session:
            assert isinstance(session, AsyncSession)
            session.add(Item(id=1))
        assert scope.outcome == "committed"
        with pytest.raises(ValueError):
            async with session_scope(maker) as session:
                session.add(Item(id=2))
                await session.flush()
                raise ValueError
        assert not session.in_transaction()

    asynchronous(work)
    assert factory.ids() == [1]


def test_a_task_that_is_cancelled_again_and_again_still_ends_its_session(
    factory, asynchronous
) -> None:
    async def work(maker):
        entered = asyncio.Event()

        async def background():
            async with session_scope(maker) as session:
                session.add(Item(id=1))
                await session.flush()
                entered.set()
                await asyncio.sleep(60)

        task = asyncio.create_task(background())
        await entered.wait()
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
        assert task.cancelled()

    asynchronous(work)
    assert factory.ids() == []


def test_a_commit_is_not_cut_short(factory, asynchronous, monkeypatch) -> None:
    outcomes = []
    commit = AsyncSession.commit

    async def work(maker):
        begun = asyncio.Event()

        async def slow(session):
            begun.set()
            await asyncio.sleep(0.1)
            await commit(session)

        monkeypatch.setattr(AsyncSession, "commit", slow)

        async def background():
            scope = session_scope(maker)
            try:
                async with scope as session:
                    session.add(Item(id=1))
            finally:
                outcomes.append(scope.outcome)

        task = asyncio.create_task(background())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asynchronous(work)
    assert outcomes == ["committed"]
    assert factory.ids() == [1]


def test_a_commit_that_the_end_of_the_loop_cuts_short_is_unknown(factory, monkeypatch) -> None:
    scopes = []

    async def main():
        engine = create_async_engine(f"sqlite+aiosqlite:///{factory.path}")
        begun = asyncio.Event()

        async def never(session):
            begun.set()
            await asyncio.sleep(60)

        monkeypatch.setattr(AsyncSession, "commit", never)

        async def background():
            scopes.append(session_scope(async_sessionmaker(engine)))
            async with scopes[0] as session:
                session.add(Item(id=1))
                await session.flush()

        task = asyncio.create_task(background())
        await begun.wait()
        for one in asyncio.all_tasks() - {asyncio.current_task()}:
            one.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert engine.pool.checkedout() == 0
        await engine.dispose()

    asyncio.run(main())
    assert scopes[0].outcome == "unknown"
    assert factory.ids() == []


def test_cancellation_by_anyio_ends_the_session(factory, asynchronous) -> None:
    import anyio

    async def work(maker):
        with anyio.move_on_after(0.05) as limit:
            async with session_scope(maker) as session:
                session.add(Item(id=1))
                await session.flush()
                await anyio.sleep(60)
        assert limit.cancelled_caught
        assert not session.in_transaction()

    asynchronous(work)
    assert factory.ids() == []


def test_a_thread_has_its_own_session_and_the_context_of_its_caller(factory) -> None:
    variable = contextvars.ContextVar("variable")

    def save(session, number, *, seen):
        seen.append((variable.get(), threading.current_thread().name))
        session.add(Item(id=number))
        return number * 2

    async def main():
        variable.set("the owner")
        seen = []
        assert await to_thread(save, 4, seen=seen, session_factory=factory) == 8
        assert seen[0][0] == "the owner"
        assert seen[0][1].startswith("turnwise")
        assert await to_thread(len, "four") == 4

    asyncio.run(main())
    assert factory.ids() == [4]


def test_an_error_in_a_thread_rolls_back_and_is_raised(factory) -> None:
    def save(session):
        session.add(Item(id=1))
        session.flush()
        raise ValueError("the application's")

    with pytest.raises(ValueError, match="the application's"):
        asyncio.run(to_thread(save, session_factory=factory))
    assert factory.ids() == []


def test_a_coroutine_function_is_refused_in_a_thread(factory) -> None:
    async def save(session):
        raise AssertionError

    with pytest.raises(UnsupportedUnitError):
        asyncio.run(to_thread(save, session_factory=factory))
    with pytest.raises(UnsupportedUnitError):
        asyncio.run(to_thread(save, None))


def test_the_loop_goes_on_meanwhile() -> None:
    async def main():
        work = asyncio.create_task(to_thread(time.sleep, 0.3))
        turns = 0
        while not work.done():
            turns += 1
            await asyncio.sleep(0.01)
        return turns

    assert asyncio.run(main()) > 5


def in_a_task(work, *, cancel):
    """Cancel a task with `to_thread` when `cancel`, a coroutine function, has returned."""

    async def main():
        task = asyncio.create_task(work())
        await cancel()
        task.cancel()
        await task

    return asyncio.run(main())


async def until(event):
    while not event.is_set():  # noqa: ASYNC110 - a thread sets it
        await asyncio.sleep(0.005)


def test_cancelled_before_commit_nothing_is_committed(factory) -> None:
    flushed, cancelled = threading.Event(), threading.Event()

    def save(session):
        session.add(Item(id=1))
        session.flush()
        flushed.set()
        assert cancelled.wait(10)

    async def cancel():
        await until(flushed)
        # The thread goes on only after the task was cancelled.
        asyncio.get_running_loop().call_later(0.1, cancelled.set)

    with pytest.raises(asyncio.CancelledError) as caught:
        in_a_task(lambda: to_thread(save, session_factory=factory), cancel=cancel)
    assert not isinstance(caught.value, CancelledTooLateError)
    # Nothing of it is still under way.
    assert factory.engine.pool.checkedout() == 0
    assert factory.ids() == []


def test_cancelled_in_commit_the_result_is_told(factory) -> None:
    committing, cancelled = threading.Event(), threading.Event()

    @sa.event.listens_for(factory, "before_commit")
    def wait(session):
        committing.set()
        assert cancelled.wait(10)

    def save(session):
        session.add(Item(id=1))
        return "saved"

    async def cancel():
        await until(committing)
        asyncio.get_running_loop().call_later(0.1, cancelled.set)

    with pytest.raises(CancelledTooLateError) as caught:
        in_a_task(lambda: to_thread(save, session_factory=factory), cancel=cancel)
    assert caught.value.result == "saved"
    assert factory.ids() == [1]


def test_who_waits_with_a_time_limit_is_told_as_well(factory) -> None:
    def save(session):
        session.add(Item(id=1))
        time.sleep(0.4)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(asyncio.wait_for(to_thread(save, session_factory=factory), 0.1))
    assert factory.ids() == []


@pytest.mark.parametrize("fails", [False, True])
def test_what_a_function_has_committed_by_itself_is_not_denied(factory, fails) -> None:
    committed, cancelled = threading.Event(), threading.Event()

    def save(session):
        session.add(Item(id=1))
        session.commit()
        session.add(Item(id=2))
        committed.set()
        assert cancelled.wait(10)
        if fails:
            raise ValueError

    async def cancel():
        await until(committed)
        asyncio.get_running_loop().call_later(0.1, cancelled.set)

    with pytest.raises(ValueError if fails else CancelledTooLateError):
        in_a_task(lambda: to_thread(save, session_factory=factory), cancel=cancel)
    assert factory.ids() == ([1] if fails else [1, 2])


def test_cancelled_without_a_session_the_task_waits_for_the_end() -> None:
    begun, done = threading.Event(), threading.Event()

    def work():
        begun.set()
        time.sleep(0.2)
        done.set()
        return "done"

    with pytest.raises(CancelledTooLateError) as caught:
        in_a_task(lambda: to_thread(work), cancel=lambda: until(begun))
    assert done.is_set()
    assert caught.value.result == "done"


def test_an_error_of_a_cancelled_thread_is_the_cause() -> None:
    begun = threading.Event()

    def work():
        begun.set()
        time.sleep(0.1)
        raise ValueError

    with pytest.raises(asyncio.CancelledError) as caught:
        in_a_task(lambda: to_thread(work), cancel=lambda: until(begun))
    chain, link = [], caught.value
    while link is not None:
        chain.append(type(link))
        link = link.__cause__ or link.__context__
    assert ValueError in chain


def test_at_most_ten_threads_and_the_waiting_can_be_cancelled(factory) -> None:
    let_go, ran = threading.Event(), []

    def occupy():
        assert let_go.wait(10)

    async def main():
        holders = [asyncio.create_task(to_thread(occupy)) for _ in range(threads.THREADS)]
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(to_thread(ran.append, 1))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting  # At once: its function has not begun.
        assert not any(holder.done() for holder in holders)
        let_go.set()
        await asyncio.gather(*holders)

    asyncio.run(main())
    assert ran == []


def test_threads_that_use_threads_do_not_wait_for_each_other() -> None:
    all_taken = threading.Barrier(threads.THREADS)

    def outer():
        all_taken.wait(10)
        return asyncio.run(to_thread(threading.get_ident))

    async def main():
        return await asyncio.gather(*(to_thread(outer) for _ in range(threads.THREADS)))

    assert len(asyncio.run(main())) == threads.THREADS


def test_a_coroutine_that_outlives_its_loop_drops_its_connection(factory) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{factory.path}")

    async def background(held):
        async with session_scope(async_sessionmaker(engine)) as session:
            session.add(Item(id=1))
            await session.flush()
            held.append(session)
            await asyncio.Event().wait()

    loop, held = asyncio.new_event_loop(), []
    coroutine = background(held)

    async def start():
        step = coroutine.send(None)
        while not held:
            await asyncio.sleep(0.005)
            if step is None or step.done():
                step = coroutine.send(None)
            else:
                await asyncio.wait({step})
                step = coroutine.send(None)

    loop.run_until_complete(start())
    loop.close()
    coroutine.close()
    assert not held[0].in_transaction()
    gc.collect()
    assert factory.ids() == []
