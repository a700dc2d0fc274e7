"""Claims: each row to one worker, whoever dies or comes late."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from datetime import datetime, timedelta, timezone

import pytest
from sqlalchemy import create_engine, event, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from contention_models import ASYNC, SYNC, Account, Child, Job, Queue, tables, url_of
from proxy import AFTER
from turnwise import errors
from turnwise.sqlalchemy.claims import claim
from turnwise.sqlalchemy.skip_locked import check_skip_locked, get_for_update_skip_locked

EVERYWHERE = ["sqlite", "postgresql", "mariadb"]


def jobs(count):
    return insert(Job).values(
        [{"id": number, "state": "new", "runs": 0} for number in range(count)]
    )


@pytest.fixture(params=EVERYWHERE)
def anywhere(request, tmp_path):
    """A fresh database on each of the servers, and a SQLite file."""
    if request.param == "sqlite":
        return tmp_path / "app.db"
    return request.getfixturevalue(f"{request.param}_database")


def states(engine):
    with engine.connect() as connection:
        found = connection.execute(select(Job.state, func.count()).group_by(Job.state))
        return dict(tuple(row) for row in found)


def numbers(rows):
    return [row.id for row in rows]


def test_locked_rows_are_skipped_until_their_transaction_ends(database):
    with tables(database, jobs(6)) as engine, Session(engine) as first, Session(engine) as second:
        mine = get_for_update_skip_locked(Job, Job.state == "new", session=first, limit=2)
        assert numbers(mine) == [0, 1]
        theirs = get_for_update_skip_locked(Job, Job.state == "new", session=second, limit=3)
        assert numbers(theirs) == [2, 3, 4]
        mine[0].state = "done"
        first.commit()
        rest = get_for_update_skip_locked(Job, Job.state == "new", session=first)
        assert numbers(rest) == [1, 5]
        second.rollback()
        newest = get_for_update_skip_locked(Job, session=first, limit=2, order_by=Job.id.desc())
        assert numbers(newest) == [5, 4]
        first.rollback()


def test_rows_come_as_they_are_stored_now(database):
    with tables(database, jobs(2)) as engine, Session(engine, autoflush=False) as session:
        job = session.get(Job, 0)
        session.rollback()
        assert job.runs == 0
        session.commit()
        known = session.get(Job, 0)
        with engine.begin() as other:
            other.execute(update(Job).where(Job.id == 0).values(runs=7))
        session.get(Job, 1).worker = "mine"
        first, second = get_for_update_skip_locked(Job, session=session)
        assert first is known
        assert (first.runs, second.worker) == (7, "mine")
        session.rollback()


def test_only_the_model_s_rows_are_locked(postgresql_database):
    rows = (insert(Queue).values(id=1), insert(Job).values(id=1, queue_id=1, state="new", runs=0))
    with tables(postgresql_database, *rows) as engine, Session(engine) as session:
        (job,) = get_for_update_skip_locked(
            Job, Job.queue_id == Queue.id, Queue.id == 1, session=session
        )
        assert job.queue.id == 1
        with Session(engine) as other:
            assert numbers(get_for_update_skip_locked(Queue, session=other)) == [1]
        session.rollback()
        get_for_update_skip_locked(Job, Job.queue_id == Queue.id, session=session, of=Queue)
        with Session(engine) as other:
            assert get_for_update_skip_locked(Queue, session=other) == []
            assert numbers(get_for_update_skip_locked(Job, session=other)) == [1]


def test_what_a_server_cannot_do_is_said(mariadb_database):
    with tables(mariadb_database) as engine, Session(engine) as session:
        with pytest.raises(errors.UnsupportedServerError, match="MariaDB 10.* all tables"):
            get_for_update_skip_locked(Job, session=session, of=Job)
        dialect = engine.dialect
        dialect.server_version_info = (10, 5, 29)
        with pytest.raises(
            errors.UnsupportedServerError, match="needs MariaDB 10.6; this is MariaDB 10.5.29"
        ):
            get_for_update_skip_locked(Job, session=session)


@pytest.mark.parametrize(
    ("url", "version", "message"),
    [
        ("postgresql://", (9, 4, 26), "needs PostgreSQL 9.5; this is PostgreSQL 9.4.26"),
        ("mysql://", (5, 7, 44), "needs MySQL 8.0.1; this is MySQL 5.7.44"),
        ("mysql://", (8, 0, 0), "needs MySQL 8.0.1; this is MySQL 8.0.0"),
        ("mssql+pymssql://", (16, 0), "this is mssql 16.0"),
    ],
)
def test_versions_without_skip_locked_are_named(url, version, message):
    from sqlalchemy.engine import make_url

    dialect = make_url(url).get_dialect()()
    dialect.server_version_info = version
    with pytest.raises(errors.UnsupportedServerError, match=message):
        check_skip_locked(dialect)


def test_what_is_no_model_no_factory_and_no_number_is_refused(tmp_path):
    with tables(tmp_path / "app.db") as engine, Session(engine) as session:
        for model in (Job.__table__, "Job"):
            with pytest.raises(TypeError, match="mapped class"):
                get_for_update_skip_locked(model, session=session)
            with pytest.raises(TypeError, match="mapped class"):
                claim(model, session_factory=lambda: session)
        for limit in (-1, "10"):
            with pytest.raises(errors.InvalidSettingError, match="limit"):
                get_for_update_skip_locked(Job, limit=limit, session=session)
            with pytest.raises(errors.InvalidSettingError, match="limit"):
                claim(Job, limit=limit, session_factory=lambda: session)
        with pytest.raises(TypeError, match="session_factory"):
            claim(Job, session_factory=session)
        with pytest.raises(TypeError, match="lease is a mapped column"):
            claim(Job, lease="lease", session_factory=lambda: session)


def test_autocommit_is_refused(anywhere):
    with tables(anywhere, jobs(1)) as engine:
        committing = engine.execution_options(isolation_level="AUTOCOMMIT")
        with (
            Session(committing) as session,
            pytest.raises(errors.UnsupportedUnitError, match="AUTOCOMMIT"),
        ):
            get_for_update_skip_locked(Job, session=session)


def test_on_sqlite_the_write_lock_is_held_before_it_reads(tmp_path):
    with tables(tmp_path / "app.db", jobs(3)) as engine, Session(engine) as session:
        impatient = create_engine(engine.url, connect_args={"timeout": 0.1})
        assert numbers(get_for_update_skip_locked(Job, session=session, limit=2)) == [0, 1]
        with Session(impatient) as other:
            other.get(Job, 0)  # Who only reads does not wait.
            with pytest.raises(OperationalError, match="locked"):
                get_for_update_skip_locked(Job, session=other)
        session.commit()
        with Session(impatient) as other:
            assert len(get_for_update_skip_locked(Job, session=other)) == 3
        impatient.dispose()


def test_on_sqlite_a_transaction_that_read_before_is_told_what_to_do(tmp_path):
    with tables(tmp_path / "app.db", jobs(3)) as engine:
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")

        @event.listens_for(engine, "connect")
        def by_hand(connection, record):
            connection.isolation_level = None

        @event.listens_for(engine, "begin")
        def begin(connection):
            connection.exec_driver_sql("BEGIN")

        engine.dispose()
        with Session(engine) as session, Session(engine) as other:
            session.get(Job, 0)
            assert len(get_for_update_skip_locked(Job, session=session)) == 3  # Nothing changed.
            session.commit()
            session.get(Job, 0)
            other.execute(update(Job).values(runs=1))
            other.commit()
            with pytest.raises(OperationalError, match="locked") as caught:
                get_for_update_skip_locked(Job, session=session)
            assert any("lock first" in note for note in caught.value.__notes__)


def test_a_claim_is_committed_when_the_next_is_asked_for(anywhere):
    with tables(anywhere, jobs(5)) as engine:
        seen = []
        claimed = claim(Job, Job.state == "new", session_factory=sessionmaker(engine), limit=2)
        for job in claimed:
            seen.append((job.id, states(engine).get("done", 0)))
            job.state = "done"
            claimed.session.execute(update(Job).where(Job.id == job.id).values(runs=Job.runs + 1))
        assert seen == [(0, 0), (1, 0), (2, 2), (3, 2), (4, 4)]
        assert states(engine) == {"done": 5}
        with pytest.raises(errors.UnsupportedUnitError, match="no rows"):
            _ = claimed.session
        with pytest.raises(errors.UnsupportedUnitError, match="by the loop"):
            claimed.complete(job)


def test_an_error_gives_the_rows_back_and_a_break_commits(anywhere, caplog):
    with tables(anywhere, jobs(5)) as engine:

        def claimed():
            return claim(Job, Job.state == "new", session_factory=sessionmaker(engine), limit=2)

        with pytest.raises(ValueError, match="bad"), claimed() as rows:
            for job in rows:
                job.state = "done"
                raise ValueError("bad")
        assert states(engine) == {"new": 5}
        with claimed() as rows:
            for job in rows:
                job.state = "done"
                break
        assert states(engine) == {"new": 4, "done": 1}
        assert caplog.records == []
        for job in claimed():
            job.state = "done"
            break
        assert states(engine) == {"new": 4, "done": 1}
        (record,) = caplog.records
        assert (record.levelno, record.name) == (logging.WARNING, "turnwise")
        assert "2 claimed rows of Job were given back" in record.getMessage()
        assert engine.pool.checkedout() == 0


def test_a_batch_that_lost_a_deadlock_is_claimed_again(database):
    with tables(database, jobs(1), insert(Account).values(id=1, balance=0)) as engine:
        deadlocks = [0]

        def work():
            rows = claim(Job, Job.state == "new", session_factory=sessionmaker(engine))
            for attempt, job in enumerate(rows):
                job.state, job.runs = "done", attempt
                if attempt == 0:
                    rows.session.info["fail"] = True

        @event.listens_for(Session, "before_commit")
        def fail(session):
            if session.info.pop("fail", False):
                deadlocks[0] += 1
                _deadlock(database, engine, session)

        try:
            work()
        finally:
            event.remove(Session, "before_commit", fail)
        assert deadlocks == [1]
        assert states(engine) == {"done": 1}
        with engine.connect() as connection:
            assert connection.scalar(select(Job.runs)) == 1


def _deadlock(database, engine, session):
    """Make the session's transaction the victim of a deadlock."""
    import threading

    other = engine.connect()
    # The server ends the one that closes the circle (PostgreSQL), or has written less (InnoDB).
    heavy = insert(Account).values([{"id": number} for number in range(10, 60)])
    other.execute(heavy)
    other.execute(update(Account).where(Account.id == 1).values(balance=1))
    session.flush()
    blocked = threading.Thread(
        target=lambda: other.execute(update(Job).where(Job.id == 0).values(worker="other"))
    )
    blocked.start()
    time.sleep(0.5)
    try:
        session.execute(update(Account).where(Account.id == 1).values(balance=2))
    finally:
        session.connection().get_transaction()
        with contextlib.suppress(DBAPIError):
            session.connection().exec_driver_sql("ROLLBACK")
        blocked.join()
        other.rollback()
        other.close()


def test_a_commit_in_doubt_is_said(database, proxy):
    with tables(database, jobs(2)) as engine:
        cut = create_engine(proxy.url(database.url(SYNC[database.dialect])))
        try:
            proxy.cut_next_commit(AFTER)
            with pytest.raises(errors.CommitOutcomeUnknownError):
                for job in claim(Job, Job.state == "new", session_factory=sessionmaker(cut)):
                    job.state = "done"
            assert states(engine) == {"new": 1, "done": 1}
        finally:
            cut.dispose()


@pytest.mark.parametrize(("worker", "count"), [("work", 400), ("work_with_lease", 60)])
def test_four_processes_share_the_rows_and_each_row_has_one(anywhere, worker, count):
    with (
        tables(anywhere, jobs(count)) as engine,
        Child("claim_parties", "share", url_of(anywhere), worker) as child,
    ):
        done = [tuple(row) for rows in json.loads(child.end()[-1]) for row in rows]
        with engine.connect() as connection:
            rows = select(Job.state, Job.runs, func.count()).group_by(Job.state, Job.runs)
            assert [tuple(row) for row in connection.execute(rows)] == [("done", 1, count)]
            stored = [tuple(row) for row in connection.execute(select(Job.worker, Job.id))]
        if worker == "work_with_lease":
            assert sorted(done) == sorted(stored)


def test_the_rows_of_a_killed_process_are_free_at_once(anywhere):
    with tables(anywhere, jobs(6)) as engine:
        with Child("claim_parties", "hold", url_of(anywhere), 4) as child:
            assert child.line() == "4"
            if engine.dialect.name != "sqlite":  # There nobody else can have a row.
                with Session(engine) as session:
                    rows = get_for_update_skip_locked(Job, Job.state == "new", session=session)
                    assert numbers(rows) == [4, 5]
            child.kill()
        until = time.monotonic() + 10
        while time.monotonic() < until:
            with Session(engine) as session:
                rows = get_for_update_skip_locked(Job, Job.state == "new", session=session)
                if len(rows) == 6:
                    break
            time.sleep(0.05)
        assert numbers(rows) == [0, 1, 2, 3, 4, 5]


def leasing(engine, **settings):
    return claim(
        Job,
        Job.state == "new",
        session_factory=sessionmaker(engine),
        lease=Job.leased_until,
        **settings,
    )


def first_leased(engine):
    """A loop over leases and its first row, as soon as there is one."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        claimed = leasing(engine, lease_for=60)
        row = next(claimed, None)
        if row is not None:
            return claimed, row
        time.sleep(0.1)
    raise TimeoutError


def test_a_lease_outlives_its_process_and_then_runs_out(anywhere):
    with tables(anywhere, jobs(1)) as engine:
        with Child("claim_parties", "hold_lease", url_of(anywhere), 1) as child:
            assert child.line() == "0"
            child.kill()
        assert list(leasing(engine)) == []
        claimed, row = first_leased(engine)
        claimed.complete(row, state="done")
        assert states(engine) == {"done": 1}


def test_leased_rows_are_worked_on_outside_of_a_transaction(anywhere):
    with tables(anywhere, jobs(3)) as engine:
        claimed = leasing(engine, limit=2, lease_for=60)
        first, second = next(claimed), next(claimed)
        assert engine.pool.checkedout() == 0
        ahead = first.leased_until.replace(tzinfo=timezone.utc) - datetime.now(timezone.utc)
        assert timedelta(seconds=50) < ahead < timedelta(seconds=70)
        assert numbers(leasing(engine)) == [2]

        def change(session, job):
            job.worker = f"{job.state} {job.id}"
            session.add(Account(id=9, balance=job.id))

        claimed.complete(first, change, state="done")
        claimed.release(second)
        with pytest.raises(errors.UnsupportedUnitError, match="not leased"):
            claimed.release(second)
        with pytest.raises(TypeError, match="statte"):
            row = next(leasing(engine))
            leasing(engine).complete(row, statte="done")
        with Session(engine) as session:
            assert session.get(Job, 0).worker == "done 0"
            assert session.get(Job, 0).leased_until is None
            assert session.get(Account, 9).balance == 0
        assert states(engine) == {"new": 2, "done": 1}


def test_who_lost_the_lease_can_complete_nothing(anywhere):
    with tables(anywhere, jobs(1)) as engine:
        late = leasing(engine, lease_for=1)
        slow = next(late)
        quick, taken = first_leased(engine)
        for attempt in (late.complete, late.release, late.renew):
            with pytest.raises(errors.HoldLimitExceededError, match="nothing was written"):
                attempt(slow)
        quick.renew(taken)
        quick.complete(taken, state="done", worker="quick")
        with Session(engine) as session:
            assert session.get(Job, 0).worker == "quick"


def test_a_renewed_lease_does_not_run_out(tmp_path):
    with tables(tmp_path / "app.db", jobs(1)) as engine:
        claimed = leasing(engine, lease_for=1)
        row = next(claimed)
        time.sleep(0.6)
        claimed.renew(row)
        time.sleep(0.6)
        assert list(leasing(engine)) == []
        claimed.complete(row, state="done")


def test_leased_rows_come_back_when_the_block_fails(anywhere):
    with tables(anywhere, jobs(3)) as engine:
        with pytest.raises(ValueError, match="bad"), leasing(engine, limit=3) as rows:
            rows.complete(next(rows), state="done")
            next(rows)
            raise ValueError("bad")
        assert numbers(leasing(engine, limit=5)) == [1, 2]
        with leasing(engine) as rows:
            assert list(rows) == []


def test_a_lease_may_be_a_number(tmp_path):
    with tables(tmp_path / "app.db", jobs(1)) as engine:
        first = claim(Job, session_factory=sessionmaker(engine), lease=Job.runs, lease_for=60)
        with engine.begin() as connection:
            connection.execute(text("UPDATE job SET runs = 0"))
        row = next(first)
        assert 50 < row.runs - time.time() < 70
        assert list(claim(Job, session_factory=sessionmaker(engine), lease=Job.runs)) == []
        with pytest.raises(TypeError, match="lease column"):
            claim(Job, session_factory=sessionmaker(engine), lease=Job.state)


def test_coroutines(anywhere):
    async def scenario(engine):
        made = create_async_engine(url_of(anywhere, ASYNC))
        factory = async_sessionmaker(made)
        async with factory() as session:
            rows = await get_for_update_skip_locked(Job, Job.id < 2, session=session)
            assert numbers(rows) == [0, 1]
        async for job in claim(Job, Job.id < 2, Job.state == "new", session_factory=factory):
            job.state = "done"
        with pytest.raises(ValueError, match="bad"):
            async with claim(Job, Job.state == "new", session_factory=factory) as claimed:
                async for job in claimed:
                    job.state = "lost"
                    raise ValueError("bad")
        async with claim(Job, Job.state == "new", session_factory=factory, limit=2) as claimed:
            async for job in claimed:
                assert isinstance(claimed.session, AsyncSession)
                job.state = "done"
                break
        assert states(engine) == {"done": 3, "new": 3}

        async def change(session, job):
            await session.execute(update(Job).where(Job.id == job.id).values(worker="me"))

        leased = claim(
            Job, Job.state == "new", session_factory=factory, lease=Job.leased_until, limit=2
        )
        async for job in leased:
            await leased.renew(job)
            await leased.complete(job, change, state="done")
        assert states(engine) == {"done": 6}
        await made.dispose()

    with tables(anywhere, jobs(6)) as engine:
        asyncio.run(scenario(engine))
