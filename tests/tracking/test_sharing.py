"""One session in several hands: threads, tasks, and what has another owner."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

import turnwise
from servers import until
from shop import Item
from sightings import IDLE_IN_TRANSACTION, codes, is_at, line_of, only

SLOW = sa.text("SELECT pg_sleep(0.3)")
ONE = sa.text("SELECT 1")
DRIVERS = ["psycopg2", "psycopg"]


@pytest.fixture(params=DRIVERS)
def engine(request, shop):
    engine = sa.create_engine(shop.url(request.param))
    yield engine
    engine.dispose()


def in_a_thread(function, *arguments):
    """What a bare thread's call came to: without the context of its maker."""
    result = []

    def run():
        try:
            result.append(function(*arguments))
        except Exception as error:
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    return result[0]


def two_threads(session, other, onlooker):
    """Both results: the second thread executes while the statement of the first one runs."""
    with ThreadPoolExecutor(2) as pool:
        owned = contextvars.copy_context
        first = pool.submit(owned().run, lambda: session.execute(SLOW).all())
        assert until(lambda: "active" in onlooker.states(), 10)
        second = pool.submit(owned().run, lambda: other.execute(ONE).all())  # line: second thread
        return len(first.result(30)), len(second.result(30))


def test_without_turnwise_two_threads_in_one_session_both_succeed(engine, onlooker):
    # Neither SQLAlchemy nor the driver objects: it goes wrong another day.
    with Session(engine) as session:
        session.connection()
        assert two_threads(session, session, onlooker) == (1, 1)


def test_two_threads_in_one_session_are_named(engine, onlooker, watch):
    watch()
    with turnwise.owner("request", "GET /both"), Session(engine) as session:
        session.connection()
        two_threads(session, session, onlooker)
    assert codes() == ["concurrent-use"]
    finding = only("concurrent-use")
    assert (finding.severity, finding.exact) == ("error", True)
    assert finding.owner_name == "GET /both"
    assert is_at(finding.last, line_of(__file__, "second thread"))


def test_two_threads_with_a_session_each_are_clean(engine, onlooker, watch):
    watch()
    with turnwise.owner("request", "GET /each"), Session(engine) as one, Session(engine) as other:
        assert two_threads(one, other, onlooker) == (1, 1)
    assert codes() == []


def test_one_session_that_goes_from_thread_to_thread_is_clean(engine, watch):
    # As the thread pool of a web framework does it: enter, handler and exit in three threads.
    watch()
    with turnwise.owner("request", "GET /pooled"):
        context = contextvars.copy_context()
        with Session(engine) as session:
            for _ in range(3):
                in_a_thread(context.run, session.execute, ONE)
            in_a_thread(context.run, session.commit)
    assert codes() == []


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg_async"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
def test_two_tasks_in_one_asynchronous_connection(shop, watch, driver, shared):
    async def both():
        engine = create_async_engine(shop.url(driver))
        try:
            with turnwise.owner("request", "GET /gather"):
                async with engine.connect() as one, engine.connect() as other:

                    async def use(connection, statement):
                        return (await connection.execute(statement)).all()  # line: task

                    second = one if shared else other
                    await one.execute(ONE)
                    work = (use(one, SLOW), use(second, ONE))
                    return await asyncio.gather(*work, return_exceptions=True)
        finally:
            await engine.dispose()

    unwatched = asyncio.run(both())
    watch()
    asyncio.run(both())
    # SQLAlchemy and psycopg let the second one wait, and say nothing.
    assert [len(result) for result in unwatched] == [1, 1]
    if not shared:
        assert codes() == []
        return
    assert codes() == ["concurrent-use"]
    assert only("concurrent-use").owner_name == "GET /gather"
    assert is_at(only("concurrent-use").last, line_of(__file__, "task"))


def use(session):
    return session.scalars(sa.select(Item)).all()  # line: used elsewhere


def test_a_bare_thread_with_a_requests_session(engine, onlooker, watch):
    with Session(engine) as session:
        session.get(Item, 1)
        assert len(in_a_thread(use, session)) == 2
        assert onlooker.states() == [IDLE_IN_TRANSACTION]
    watch()
    with turnwise.owner("request", "GET /thread"), Session(engine) as session:
        session.get(Item, 1)  # line: begun by the request
        in_a_thread(use, session)
    assert codes() == ["cross-owner-use"]
    finding = only("cross-owner-use")
    assert (finding.severity, finding.exact) == ("warning", True)
    assert finding.owner_name == "GET /thread"
    assert is_at(finding.opened, line_of(__file__, "begun by the request"))
    assert is_at(finding.last, line_of(__file__, "used elsewhere"))


def test_a_bare_thread_with_a_session_of_its_own_is_clean(engine, watch):
    def work():
        with turnwise.owner("job", "recount"), Session(engine) as own:
            return use(own)

    watch()
    with turnwise.owner("request", "GET /thread"), Session(engine) as session:
        session.get(Item, 1)
        assert len(in_a_thread(work)) == 2
        assert len(in_a_thread(contextvars.copy_context().run, use, session)) == 2
    assert codes() == []


def test_a_session_of_one_request_in_another(engine, watch):
    watch()
    session = Session(engine)
    with turnwise.owner("request", "GET /first"):
        session.get(Item, 1)
        context = contextvars.Context()

        def second():
            with turnwise.owner("request", "GET /second"):
                use(session)

        context.run(second)
        session.close()
    assert codes() == ["cross-owner-use"]
    assert "GET /second" in only("cross-owner-use").text
    turnwise.clear_findings()
    with turnwise.owner("request", "GET /second"), Session(engine) as own:
        use(own)
    assert codes() == []


def test_owners_within_one_another_share_sessions(engine, watch):
    watch()
    with turnwise.owner("request", "POST /import"), Session(engine) as session:
        session.get(Item, 1)
        with turnwise.owner("job", "row"):
            use(session)
        use(session)
    assert codes() == []


def test_one_asynchronous_session_for_two_requests(shop, watch):
    watch()

    async def main():
        engine = create_async_engine(shop.url("asyncpg"))
        try:
            async with AsyncSession(engine) as session:
                for name in ("GET /first", "GET /second"):
                    with turnwise.owner("request", name):
                        await session.execute(ONE)  # line: shared async session
        finally:
            await engine.dispose()

    asyncio.run(main())
    assert codes() == ["cross-owner-use"]
    assert is_at(only("cross-owner-use").last, line_of(__file__, "shared async session"))
