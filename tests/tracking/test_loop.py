"""Synchronous sessions in coroutines: every other request waits with them."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import time

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.util import greenlet_spawn

import turnwise
from servers import until
from sightings import codes, is_at, line_of, only

PAUSE = 0.05
STATEMENTS = {
    "psycopg2": f"SELECT pg_sleep({PAUSE})",
    "psycopg": f"SELECT pg_sleep({PAUSE})",
    "pymysql": f"SELECT SLEEP({PAUSE})",
    "pysqlite": f"SELECT pause({PAUSE})",
}
ASYNCHRONOUS = {
    "psycopg_async": STATEMENTS["psycopg"],
    "asyncpg": STATEMENTS["psycopg"],
    "aiosqlite": STATEMENTS["pysqlite"],
}


def pausing(connection, record):
    connection.create_function("pause", 1, time.sleep)


def url_of(request, driver, tmp_path):
    if driver in {"pysqlite", "aiosqlite"}:
        return sa.make_url(f"sqlite+{driver}:///{tmp_path}/shop.db")
    shop = request.getfixturevalue("mariadb_shop" if driver == "pymysql" else "shop")
    return shop.url(driver)


@pytest.fixture(params=list(STATEMENTS))
def slow(request, tmp_path):
    """An engine of a synchronous driver, and a statement that takes a while."""
    engine = sa.create_engine(url_of(request, request.param, tmp_path))
    if request.param == "pysqlite":
        sa.event.listen(engine, "connect", pausing)
    yield engine, sa.text(STATEMENTS[request.param])
    engine.dispose()


async def others_wait(work):
    """For how many seconds a coroutine beside ``work`` could not run."""
    longest, last, stop = 0.0, time.monotonic(), False

    async def beat():
        nonlocal longest, last
        while not stop:
            now = time.monotonic()
            longest, last = max(longest, now - last), now
            await asyncio.sleep(0)

    beating = asyncio.ensure_future(beat())
    await asyncio.sleep(0)
    try:
        await work
        await asyncio.sleep(0)
    finally:
        stop = True
        await beating
    return longest


async def report(engine, statement):
    with turnwise.owner("request", "GET /report") as owner:
        with Session(engine) as session:
            session.execute(statement)  # line: sync on loop
        return owner.blocked


def read(engine, statement):
    with Session(engine) as session:
        session.execute(statement)


def test_without_turnwise_the_loop_stands_still_and_nobody_says_so(slow):
    assert asyncio.run(others_wait(report(*slow))) >= PAUSE


def test_a_synchronous_session_on_the_loop_is_named_with_the_time(slow, watch):
    watch()
    blocked = asyncio.run(report(*slow))
    assert PAUSE <= blocked < 10
    finding = only("sync-on-loop")
    assert codes() == ["sync-on-loop"]
    assert (finding.severity, finding.exact) == ("warning", True)
    assert (finding.owner_kind, finding.owner_name) == ("request", "GET /report")
    assert finding.phase == "running"
    assert is_at(finding.last, line_of(__file__, "sync on loop"))
    (ms,) = re.findall(r"([\d.]+) ms", finding.detail)
    assert PAUSE * 1e3 <= float(ms) < 10_000


def test_the_same_statement_in_a_thread_is_clean(slow, watch):
    watch()

    async def report_in_a_thread():
        with turnwise.owner("request", "GET /report") as owner:
            await asyncio.to_thread(read, *slow)
            await asyncio.get_running_loop().run_in_executor(None, read, *slow)
            return owner.blocked

    assert asyncio.run(report_in_a_thread()) == 0
    assert codes() == []


def test_a_synchronous_engine_below_an_asynchronous_session_is_still_synchronous(slow, watch):
    watch()

    async def report_in_a_greenlet():
        with turnwise.owner("request", "GET /report"):
            await greenlet_spawn(read, *slow)

    asyncio.run(report_in_a_greenlet())
    assert codes() == ["sync-on-loop"]


@pytest.mark.parametrize("driver", ASYNCHRONOUS)
def test_an_asynchronous_session_is_clean(request, tmp_path, driver, watch):
    watch()

    async def report_asynchronously():
        engine = create_async_engine(url_of(request, driver, tmp_path))
        if driver == "aiosqlite":
            sa.event.listen(engine.sync_engine, "connect", pausing)
        statement = sa.text(ASYNCHRONOUS[driver])
        try:
            with turnwise.owner("request", "GET /report") as owner:
                async with AsyncSession(engine) as session:
                    await session.execute(statement)
                    await session.run_sync(lambda session: session.execute(statement))
                    await session.commit()
                return owner.blocked
        finally:
            await engine.dispose()

    assert asyncio.run(report_asynchronously()) == 0
    assert codes() == []


@contextlib.contextmanager
def pool_of_one(url, **options):
    options = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 0.3, **options}
    engine = sa.create_engine(url, **options)
    try:
        yield engine
    finally:
        engine.dispose()


async def three_coroutines(engine):
    """What each of three requests came to, while each of them keeps a connection over an await."""

    async def request(number):
        with turnwise.owner("request", f"GET /{number}"), Session(engine) as session:
            session.execute(sa.text("SELECT 1"))  # line: takes the only connection
            await asyncio.sleep(0)

    return await asyncio.gather(*map(request, range(3)), return_exceptions=True)


def test_three_coroutines_at_a_pool_of_one_lock_each_other_out(shop):
    # The holder cannot run, and so cannot give back, while another one blocks the loop.
    with pool_of_one(shop.url("psycopg2")) as engine:
        results = asyncio.run(three_coroutines(engine))
    assert [type(result) for result in results] == [
        type(None),
        sa.exc.TimeoutError,
        sa.exc.TimeoutError,
    ]


def test_the_waiting_is_named_with_who_holds_the_connection(shop, watch, caplog):
    watch(log=True)
    with pool_of_one(shop.url("psycopg2")) as engine, caplog.at_level("INFO", "turnwise.findings"):
        asyncio.run(three_coroutines(engine))
    found = [finding for finding in turnwise.findings() if finding.code == "pool-wait-on-loop"]
    assert [finding.owner_name for finding in found] == ["GET /1", "GET /2"]
    for finding in found:
        assert (finding.severity, finding.exact) == ("warning", True)
        assert finding.age >= 0.3
        assert re.search(r"[\d.]+ ms", finding.detail)
        assert is_at(finding.last or finding.opened, line_of(__file__, "takes the only connection"))
    exhausted = [finding for finding in turnwise.findings() if finding.code == "pool-exhausted"]
    assert [finding.owner_name for finding in exhausted] == ["GET /1", "GET /2"]
    assert {finding.severity for finding in exhausted} == {"error"}
    # The table of holders: whose the connection is, and from which line.
    (table, *_) = [message for message in caplog.messages if "GET /0" in message]
    assert line_of(__file__, "takes the only connection") in table


def test_a_pool_of_one_in_threads_only_waits(shop, watch):
    watch()
    with pool_of_one(shop.url("psycopg2"), pool_timeout=20) as engine:

        async def in_threads():
            work = [asyncio.to_thread(read, engine, sa.text("SELECT 1")) for _ in range(3)]
            await asyncio.gather(*work)

        asyncio.run(in_threads())
    assert codes() == []


def test_who_waits_too_long_for_a_connection_is_told_while_it_waits(shop, watch):
    watch(pool_wait=0.05)
    with pool_of_one(shop.url("psycopg2"), pool_timeout=30) as engine:
        with turnwise.owner("job", "holds all"), engine.connect():
            waiter = threading.Thread(target=read, args=(engine, sa.text("SELECT 1")))
            waiter.start()
            assert until(lambda: codes() == ["pool-exhausted"], 10)
        waiter.join(30)
    finding = only("pool-exhausted")
    assert finding.severity == "warning"
    assert finding.age >= 0.05
