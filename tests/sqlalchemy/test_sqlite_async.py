"""Turns of asyncio engines: tasks wait suspended, in SQLAlchemy's greenlets."""

from __future__ import annotations

import asyncio
import gc
import time
import warnings

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from sqlite_support import (
    Item,
    insert,
    is_free,
    make_database,
    names,
    outsider,
    turn_elsewhere,
    with_turns,
)
from turnwise.errors import LockTimeoutError, TurnReenteredError
from turnwise.sqlalchemy.installing import uninstall

COUNT = sa.select(sa.func.count()).select_from(Item)


@pytest.fixture
def path(tmp_path):
    return make_database(tmp_path)


def run(path, work, *, timeout=5.0, **options):
    async def main():
        engine = create_async_engine(f"sqlite+aiosqlite:///{path}", **options)
        layer = with_turns(engine, timeout=timeout)
        try:
            await work(engine, layer)
        finally:
            await engine.dispose()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_tasks_take_turns(path):
    async def write(engine, name):
        async with AsyncSession(engine) as session:
            session.add(Item(name=name))
            await session.commit()

    async def work(engine, layer):
        await asyncio.gather(*(write(engine, str(number)) for number in range(20)))
        (stats,) = layer.stats()
        assert stats.turns.waits > 0
        assert stats.lock_retries == 0
        assert is_free(path)

    run(path, work)
    assert sorted(names(path), key=int) == [str(number) for number in range(20)]


def test_the_loop_goes_on_while_a_task_waits(path):
    async def work(engine, layer):
        steps = 0

        async def count():
            nonlocal steps
            while True:
                await asyncio.sleep(0.005)
                steps += 1

        counting = asyncio.create_task(count())
        for other in (turn_elsewhere(path, 0.2), outsider(path, 0.2)):
            with other:
                steps = 0
                async with engine.begin() as connection:
                    await connection.execute(insert("tea"))
                assert steps > 5
        counting.cancel()

    run(path, work)
    assert names(path) == ["tea", "tea"]


def test_reads_wait_for_nobody(path):
    async def work(engine, layer):
        async with engine.connect() as writer, engine.connect() as reader:
            await writer.execute(insert("tea"))
            start = time.monotonic()
            assert await reader.scalar(COUNT) == 0
            assert time.monotonic() - start < 1
            await writer.commit()
            assert await reader.scalar(COUNT) == 0
            await reader.rollback()
            assert await reader.scalar(COUNT) == 1

    run(path, work)


def test_two_sessions_of_a_task_that_would_wait_for_each_other(path):
    async def work(engine, layer):
        async with AsyncSession(engine) as one, AsyncSession(engine) as other:
            one.add(Item(name="tea"))
            await one.flush()
            other.add(Item(name="coffee"))
            with pytest.raises(sa.exc.OperationalError) as caught:
                await other.flush()
            assert isinstance(caught.value.orig, TurnReenteredError)
            assert str(caught.value.orig).count("test_sqlite_async.py:") == 2
            await one.commit()
            await other.rollback()

    run(path, work)
    assert names(path) == ["tea"]


def test_who_waits_too_long_is_told_who_has_the_turn(path):
    async def work(engine, layer):
        async with engine.connect() as one:
            await one.execute(insert("tea"))

            async def other():
                async with engine.begin() as connection:
                    await connection.execute(insert("coffee"))

            with pytest.raises(sa.exc.OperationalError) as caught:
                await asyncio.create_task(other())
            assert isinstance(caught.value.orig, LockTimeoutError)
            assert "test_sqlite_async.py" in str(caught.value.orig)
            assert not caught.value.connection_invalidated
            await one.commit()

    run(path, work, timeout=0.2)
    assert names(path) == ["tea"]


# Python 3.13 warns of connections that SQLAlchemy terminates: aiosqlite stops, and does not close.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("moment", [0.0, 0.001, 0.003, 0.01, 0.1])
def test_a_cancelled_task_leaves_no_turn_behind(path, moment):
    async def work(engine, layer):
        async def write():
            async with AsyncSession(engine) as session:
                session.add(Item(name="cancelled"))
                await session.flush()
                await asyncio.sleep(moment)
                await session.commit()

        async with engine.connect() as first:
            await first.execute(insert("tea"))
            waiting = [asyncio.create_task(write()) for _ in range(3)]
            await asyncio.sleep(moment)
            waiting[0].cancel()
            await first.commit()
        await asyncio.sleep(moment)
        waiting[1].cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        async with engine.begin() as connection:
            await connection.execute(insert("coffee"))
        assert is_free(path)

    run(path, work)
    landed = names(path)
    assert landed[0] == "tea"
    assert landed[-1] == "coffee"
    assert landed.count("cancelled") >= 1


def test_a_forgotten_connection_gives_its_turn_back(path):
    async def work(engine, layer):
        connection = await engine.connect()
        await connection.execute(insert("tea"))
        assert not is_free(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            del connection
            gc.collect()
        await asyncio.sleep(0.05)
        assert is_free(path)
        async with engine.begin() as connection:
            await connection.execute(insert("coffee"))

    run(path, work)
    assert names(path) == ["coffee"]


def test_commit_waits_for_readers_suspended(path):
    async def work(engine, layer):
        async with engine.connect() as connection:
            await connection.exec_driver_sql("PRAGMA journal_mode = delete")
            with outsider(path, 0.2, sql="BEGIN; SELECT * FROM item"):
                await connection.execute(insert("tea"))
                await connection.commit()
        assert layer.stats()[0].commit_retries > 0

    run(path, work)
    assert names(path) == ["tea"]


def test_autocommit_takes_a_turn_for_each_statement(path):
    async def work(engine, layer):
        async with engine.connect() as connection:
            with turn_elsewhere(path, 0.1):
                await connection.execute(insert("tea"))
            assert is_free(path)
            result = await connection.execute(
                sa.text("INSERT INTO item (name) VALUES ('a'), ('b') RETURNING name")
            )
            assert result.scalars().all() == ["a", "b"]
            await connection.rollback()

    run(path, work, isolation_level="AUTOCOMMIT")
    assert names(path) == ["tea", "a", "b"]


def test_uninstalled(path):
    async def work(engine, layer):
        async with engine.connect() as connection:
            await connection.execute(COUNT)
            uninstall(engine)
            timeout = await connection.exec_driver_sql("PRAGMA busy_timeout")
            assert timeout.scalar() == 5000
            await connection.execute(insert("tea"))
            assert is_free(path)
            await connection.commit()
        with_turns(engine)

    run(path, work)
    assert names(path) == ["tea"]
