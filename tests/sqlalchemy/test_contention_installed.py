"""Batches, claims and advisory locks on engines that turnwise is installed on."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker

from contention_models import ASYNC, Account, Job, tables, url_of
from turnwise.sqlalchemy.advisory import advisory_lock
from turnwise.sqlalchemy.batches import batch_commit_with_retry
from turnwise.sqlalchemy.claims import claim
from turnwise.sqlalchemy.installing import install
from turnwise.sqlalchemy.skip_locked import get_for_update_skip_locked

JOBS = insert(Job).values([{"id": number, "state": "new", "runs": 0} for number in range(10)])


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def anywhere(request, tmp_path):
    """A fresh database on each of the servers, and a SQLite file."""
    if request.param == "sqlite":
        return tmp_path / "app.db"
    return request.getfixturevalue(f"{request.param}_database")


def add(session, number):
    session.add(Account(id=number))


async def aadd(session, number):
    session.add(Account(id=number))


def test_sessions(anywhere):
    with tables(anywhere, JOBS) as engine:
        factory = sessionmaker(install(engine))
        for reads_before in (False, True):
            with factory() as session:
                if reads_before:
                    session.get(Job, 9)
                assert len(get_for_update_skip_locked(Job, session=session, limit=3)) == 3
                with advisory_lock(session, "report"):
                    session.get(Job, 1).worker = "me"
                session.commit()
        with claim(Job, Job.state == "new", session_factory=factory) as jobs:
            for job in jobs:
                job.state = "done"
                if job.id == 4:
                    break
        leased = claim(Job, Job.state == "new", session_factory=factory, lease=Job.leased_until)
        for job in leased:
            leased.complete(job, state="done")
        done = select(func.count()).where(Job.state == "done")
        with advisory_lock(engine, "report"), factory() as session:
            assert session.scalar(done) == 10
            assert session.scalar(done.where(Job.worker == "me")) == 1
            session.add(Account(id=3))
            session.commit()
        report = batch_commit_with_retry(range(10), add, 4, session_factory=factory)
        assert tuple(report) == (9, 1)


def test_coroutines(anywhere):
    async def scenario():
        engine = install(create_async_engine(url_of(anywhere, ASYNC)))
        factory = async_sessionmaker(engine)
        async with factory() as session:
            rows = await get_for_update_skip_locked(Job, session=session, limit=3)
            async with advisory_lock(session, "report"):
                rows[0].state = "done"
                await session.commit()
        async with advisory_lock(engine, "report"):
            report = await batch_commit_with_retry([1, 2, 1], aadd, session_factory=factory)
        assert tuple(report) == (2, 1)
        async with claim(Job, Job.state == "new", session_factory=factory, limit=4) as jobs:
            async for job in jobs:
                job.state = "done"
        await engine.dispose()

    with tables(anywhere, JOBS) as engine:
        asyncio.run(scenario())
        with engine.connect() as connection:
            assert connection.scalar(select(func.count()).where(Job.state == "done")) == 10
