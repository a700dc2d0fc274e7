"""A reset replaces every connection of a pool, and the server never sees more than the pool's size."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import threading
import time

import pytest
from sqlalchemy import create_engine, exc
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from pool_support import COMMON, QUIET, database_of, living, number_of
from servers import ASYNCHRONOUS, until
from turnwise import errors
from turnwise.tracking.resetting import PoolReset, reset_pool

pytestmark = QUIET
SIZE = 4


class Watcher(threading.Thread):
    """Counts the application's connections at the server, again and again.

    ``most`` stayed for 50 ms: a server takes a moment to see off a connection that was closed.
    """

    def __init__(self, database):
        super().__init__()
        self.most, self._database, self._stop_it = 0, database, threading.Event()

    def run(self):
        with self._database.raw(admin=True) as connection:
            cursor = connection.cursor()
            query = {
                "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND usename = 'app'",
                "mariadb": "SELECT count(*) FROM information_schema.processlist WHERE db = '{}' AND user = 'app'",
            }[self._database.dialect].format(self._database.name)
            counts = collections.deque()
            while not self._stop_it.wait(0.003):
                cursor.execute(query)
                counts.append((time.monotonic(), cursor.fetchone()[0]))
                if counts[-1][0] - counts[0][0] > 0.05:
                    self.most = max(self.most, min(count for _, count in counts))
                    counts.popleft()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._stop_it.set()
        self.join()


def work_in_threads(engine):
    """Use every connection of the pool, and reset it meanwhile."""
    over, seen = threading.Event(), set()

    def work():
        while not over.is_set():
            with engine.connect() as connection:
                seen.add(number_of(connection))
                time.sleep(0.01)

    threads = [threading.Thread(target=work) for _ in range(SIZE + 2)]
    for thread in threads:
        thread.start()
    assert until(lambda: len(seen) == SIZE)
    before = set(seen)
    done = reset_pool(engine)
    assert until(lambda: len(seen - before) == SIZE)
    time.sleep(0.2)
    over.set()
    for thread in threads:
        thread.join()
    return before, seen - before, done


async def all_seen(numbers):
    for _ in range(3000):
        if len(numbers()) == SIZE:
            return
        await asyncio.sleep(0.01)


async def work_in_tasks(engine):
    over, seen = asyncio.Event(), set()

    async def work():
        while not over.is_set():
            async with engine.connect() as connection:
                seen.add(await connection.run_sync(number_of))
                await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(work()) for _ in range(SIZE + 2)]
    await all_seen(lambda: seen)
    before = set(seen)
    done = reset_pool(engine)
    await all_seen(lambda: seen - before)
    await asyncio.sleep(0.2)
    over.set()
    await asyncio.gather(*tasks)
    return before, seen - before, done


def under_load(database, driver):
    """The most connections at the server; those before and after; the report."""
    options = {"pool_size": SIZE, "max_overflow": 0}
    url = database.url(driver)
    with Watcher(database) as watcher:
        if driver not in ASYNCHRONOUS:
            engine = create_engine(url, **options)
            before, after, done = work_in_threads(engine)
            left = living(database)
            engine.dispose()
            return watcher.most, before, after, done, left

        async def main():
            engine = create_async_engine(url, **options)
            before, after, done = await work_in_tasks(engine)
            left = living(database)
            await engine.dispose()
            return watcher.most, before, after, done, left

        return asyncio.run(main())


@pytest.mark.parametrize("driver", [*COMMON, "aiomysql"])
def test_a_reset_under_load_replaces_all_within_the_size(request, driver):
    with database_of(request, driver) as database:
        most, before, after, done, left = under_load(database, driver)
    assert len(before) == SIZE
    assert len(after) == SIZE
    assert done.is_done
    assert done.idle + done.in_use == SIZE
    assert left == after
    assert most <= SIZE


@pytest.mark.parametrize("driver", ["psycopg2", "pymysql"])
@pytest.mark.parametrize(
    ("reset", "most"),
    [(reset_pool, 2), (lambda engine: engine.dispose(), 4)],
    ids=["reset", "dispose"],
)
def test_dispose_doubles_what_is_in_use(request, driver, reset, most):
    with database_of(request, driver) as database:
        engine = create_engine(database.url(driver), pool_size=2, max_overflow=0, pool_timeout=0.1)
        connections = [engine.connect() for _ in range(2)]
        reset(engine)
        with contextlib.suppress(exc.TimeoutError):
            connections += [engine.connect() for _ in range(2)]
        assert len(living(database)) == most
        for connection in connections:
            connection.close()
        engine.dispose()


@pytest.mark.parametrize("driver", ["psycopg2", "mysqldb"])
@pytest.mark.parametrize("lifo", [False, True])
def test_idle_ones_are_closed_now_and_the_others_when_they_come_back(request, driver, lifo):
    with database_of(request, driver) as database:
        engine = create_engine(
            database.url(driver), pool_size=3, max_overflow=1, pool_use_lifo=lifo
        )
        connections = [engine.connect() for _ in range(3)]
        numbers = [number_of(connection) for connection in connections]
        for connection in connections[1:]:
            connection.close()
        assert reset_pool(engine) == PoolReset(is_done=True, idle=2, in_use=1)
        assert until(lambda: living(database) == {numbers[0]})
        assert number_of(connections[0]) == numbers[0]
        connections[0].close()
        assert until(lambda: living(database) == set())
        assert (engine.pool.checkedin(), engine.pool.checkedout()) == (3, 0)
        connections = [engine.connect() for _ in range(4)]
        assert not {number_of(connection) for connection in connections} & set(numbers)
        for connection in connections:
            connection.close()
        engine.dispose()


def test_a_second_reset_within_the_time_does_nothing(postgresql_database):
    engine = create_engine(postgresql_database.url("psycopg2"), pool_size=1)
    with engine.connect() as connection:
        first = number_of(connection)
    assert reset_pool(engine, every=0.2).is_done
    with engine.connect() as connection:
        second = number_of(connection)
    assert second != first
    assert reset_pool(engine, every=60) == PoolReset(is_done=False, idle=1, in_use=0)
    with engine.connect() as connection:
        assert number_of(connection) == second
    time.sleep(0.2)
    assert reset_pool(engine, every=0.2).is_done
    with engine.connect() as connection:
        assert number_of(connection) != second
    engine.dispose()


def test_pools_without_idle_connections_and_those_that_hold_all_data():
    assert reset_pool(create_engine("sqlite:///unused.db", poolclass=NullPool)).is_done
    with pytest.raises(TypeError, match="would lose its data"):
        reset_pool(create_engine("sqlite://"))
    with pytest.raises(TypeError, match="an Engine"):
        reset_pool(object())
    with pytest.raises(errors.InvalidSettingError, match="every"):
        reset_pool(create_engine("sqlite:///unused.db"), every=-1)
