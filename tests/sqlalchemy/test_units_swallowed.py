"""An error that was swallowed: PostgreSQL answers COMMIT with ROLLBACK, and drivers say nothing."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker

from turnwise import batch_commit_with_retry, claim, run
from turnwise.errors import TransactionPoisonedError
from units_support import Account, Base

DRIVERS = pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "pg8000"])


@pytest.fixture
def factory(postgresql_database, driver):
    engine = sa.create_engine(postgresql_database.url(driver))
    Base.metadata.create_all(engine)
    yield sessionmaker(engine)
    engine.dispose()


def stored(factory):
    with factory() as session:
        return list(session.scalars(sa.select(Account.id).order_by(Account.id)))


def add(session, number, *, fails):
    session.add(Account(id=number, balance=0))
    session.flush()
    if fails:
        with contextlib.suppress(DBAPIError):
            session.execute(sa.text("SELECT 1 / 0"))


@DRIVERS
def test_run_does_not_pass_for_committed(factory):
    with pytest.raises(TransactionPoisonedError):
        run(lambda session: add(session, 1, fails=True), session_factory=factory)
    assert stored(factory) == []


@DRIVERS
@pytest.mark.parametrize("bad", [1, 2, 3])
def test_an_item_of_a_batch_fails_alone(factory, bad):
    report = batch_commit_with_retry(
        [1, 2, 3],
        lambda session, number: add(session, number, fails=number == bad),
        session_factory=factory,
    )
    assert [failure.item for failure in report.failures] == [bad]
    assert stored(factory) == [number for number in (1, 2, 3) if number != bad]


@DRIVERS
@pytest.mark.parametrize("breaks", [True, False])
def test_a_loop_over_claimed_rows_does_not_pass_for_committed(factory, breaks):
    run(lambda session: add(session, 1, fails=False), session_factory=factory)
    rows = claim(Account, Account.balance == 0, session_factory=factory)
    seen = []
    with pytest.raises(TransactionPoisonedError), rows:
        for row in rows:
            seen.append(row.id)
            row.balance = 1
            add(rows.session, 2, fails=True)
            if breaks or len(seen) > 1:
                break
    assert (seen, stored(factory)) == ([1], [1])


def test_coroutines(postgresql_database):
    async def main():
        engine = create_async_engine(postgresql_database.url("asyncpg"))
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)

        async def swallow(session):
            await session.run_sync(lambda sync: add(sync, 1, fails=True))

        with pytest.raises(TransactionPoisonedError):
            await run(swallow, session_factory=async_sessionmaker(engine))
        async with engine.connect() as connection:
            assert await connection.scalar(sa.select(sa.func.count(Account.id))) == 0
        await engine.dispose()

    asyncio.run(main())
