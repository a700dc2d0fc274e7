"""Advisory locks: one holder, for as long as it lives, whatever the database."""

from __future__ import annotations

import asyncio
import glob
import threading
import time

import pytest
from sqlalchemy import create_engine, func, insert, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import StaticPool

from contention_models import ASYNC, Account, Child, Job, tables, url_of
from turnwise import errors
from turnwise.sqlalchemy.advisory import advisory_lock
from turnwise.sqlalchemy.advisory_keys import advisory_key

EVERYWHERE = ["sqlite", "postgresql", "mariadb"]
OTHER_DRIVERS = [
    ("postgresql", "psycopg"),
    ("postgresql", "pg8000"),
    ("mariadb", "mysqldb"),
    ("mariadb", "mysqlconnector"),
]


@pytest.fixture(params=EVERYWHERE)
def anywhere(request, tmp_path):
    """A fresh database on each of the servers, and a SQLite file."""
    if request.param == "sqlite":
        return tmp_path / "app.db"
    return request.getfixturevalue(f"{request.param}_database")


def take(lock):
    with lock:
        pass


def is_free(target, key="report", **settings):
    """Whether another thread could have it at once, on a connection of its own."""
    found = []

    def ask():
        try:
            with advisory_lock(target, key, timeout=0, **settings):
                found.append(True)
        except errors.LockTimeoutError:
            found.append(False)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return found[0]


def comes_free(*target, **settings):
    """As `is_free`, give or take a moment: somebody who has just given up may get it, and gives it back."""
    until = time.monotonic() + 5
    while not is_free(*target, **settings):
        if time.monotonic() > until:
            return False
    return True


def test_an_engine_s_lock_ends_with_its_block(anywhere):
    with tables(anywhere) as engine:
        with advisory_lock(engine, "report") as lock:
            assert lock.number == advisory_key("report")
            assert not is_free(engine)
            assert comes_free(engine, "other")
            assert comes_free(engine, namespace="billing")
        assert comes_free(engine)
        with pytest.raises(ValueError, match="bad"), advisory_lock(engine, "report"):
            raise ValueError("bad")
        assert comes_free(engine)
        assert engine.pool.checkedout() == 0


@pytest.mark.parametrize("end", ["commit", "rollback", "close"])
def test_a_session_s_lock_ends_with_its_transaction(anywhere, end):
    with tables(anywhere) as engine:
        session = Session(engine)
        with advisory_lock(session, "report"):
            session.add(Account(id=1))
            with advisory_lock(session, "report"):  # Whoever has it may have it again.
                pass
            assert not is_free(engine)
        assert not is_free(engine)
        getattr(session, end)()
        assert comes_free(engine)
        with advisory_lock(session, "report"):
            getattr(session, end)()
            assert comes_free(engine)
        session.close()
        assert engine.pool.checkedout() == 0


def test_a_connection_in_the_pool_holds_no_lock(anywhere):
    with tables(anywhere) as made:
        engine = create_engine(made.url, pool_size=1, max_overflow=0)
        with engine.begin() as connection, advisory_lock(connection, "report"):
            pass
        with engine.connect() as connection, advisory_lock(connection, "report"):
            connection.execute(select(func.count()).select_from(Account))
            connection.commit()
        assert comes_free(made)
        with Session(engine) as session:
            with advisory_lock(session, "report"), advisory_lock(session, "second"):
                session.commit()
            session.scalars(select(Account)).all()  # The same connection again.
            assert comes_free(made)
            assert comes_free(made, "second")
        engine.dispose()


def test_scoped_sessions(tmp_path):
    with tables(tmp_path / "app.db") as engine:
        scoped = scoped_session(sessionmaker(engine))
        with advisory_lock(scoped, "report"):
            assert not is_free(engine)
        scoped.remove()
        assert comes_free(engine)


def hold(engine, held):
    with advisory_lock(engine, "report"):
        held.set()
        time.sleep(0.3)


def test_a_time_out_leaves_the_transaction_as_it_was(database):
    with tables(database) as engine, Session(engine) as session:
        session.add(Account(id=1))
        session.flush()
        settings = {
            "postgresql": "SELECT current_setting('lock_timeout')",
            "mariadb": "SELECT @@lock_wait_timeout",
        }[database.dialect]
        before = session.scalar(text(settings))
        with advisory_lock(engine, "report"):
            began = time.monotonic()
            with (
                pytest.raises(errors.LockTimeoutError, match="held by another for 0.4 s") as caught,
                advisory_lock(session, "report", timeout=0.4),
            ):
                pass
            assert 0.3 < time.monotonic() - began < 10
            assert caught.value.state == "transient" or caught.value.kind == "LockTimeout"
        holder = threading.Thread(target=hold, args=(engine, held := threading.Event()))
        holder.start()
        held.wait(20)
        with advisory_lock(session, "report", timeout=20):  # It has to wait.
            assert session.scalar(text(settings)) == before
        session.commit()
        holder.join()
        assert session.get(Account, 1) is not None


def test_who_waits_gets_it_when_it_is_free(anywhere):
    with tables(anywhere) as engine:
        got = []

        def wait(timeout):
            with advisory_lock(engine, "report", timeout=timeout):
                got.append(time.monotonic())

        threads = [threading.Thread(target=wait, args=(timeout,)) for timeout in (30, None)]
        with advisory_lock(engine, "report"):
            for thread in threads:
                thread.start()
            time.sleep(0.3)
            assert got == []
        for thread in threads:
            thread.join(20)
        assert len(got) == 2


@pytest.mark.parametrize("scope", ["session", "engine"])
def test_a_killed_holder_holds_nothing(anywhere, scope):
    arguments = ("claim_parties", "hold_lock", url_of(anywhere), "report", scope)
    with tables(anywhere) as engine, Child(*arguments) as child:
        assert child.line() == "held"
        assert not is_free(engine)
        child.kill()
        take(advisory_lock(engine, "report", timeout=10))


def test_processes_that_read_and_write_under_the_lock_lose_nothing(anywhere):
    rows = insert(Job).values(id=1, state="new", runs=0)
    arguments = ("claim_parties", "count", url_of(anywhere), "counter", 25)
    with tables(anywhere, rows) as engine, Child(*arguments) as child:
        assert child.end() == ["[25, 25]"]
        with engine.connect() as connection:
            assert connection.scalar(select(Job.runs)) == 50


@pytest.mark.parametrize("fails", [False, True])
def test_a_lock_that_was_lost_is_said(database, fails):
    end = {
        "postgresql": "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE pid <> pg_backend_pid() AND datname = current_database()",
        "mariadb": "SELECT id FROM information_schema.processlist WHERE id <> connection_id()",
    }[database.dialect]
    with tables(database) as engine:
        engine.dispose()
        expected = ValueError if fails else DBAPIError
        with pytest.raises(expected) as caught, advisory_lock(engine, "report"):
            rows = database.sql(end)
            if database.dialect == "mariadb":
                for (number,) in rows:
                    database.sql(f"KILL {number}")
            if fails:
                raise ValueError("bad")
        assert any("lost while it was held" in note for note in caught.value.__notes__)
        assert comes_free(engine)
        assert engine.pool.checkedout() == 0


def test_a_lock_that_another_has_released_is_said(postgresql_database):
    with tables(postgresql_database) as made:
        engine = create_engine(made.url, poolclass=StaticPool)
        with (
            pytest.raises(errors.HoldLimitExceededError, match="lost while it was held"),
            advisory_lock(engine, "report"),
            engine.connect() as connection,
        ):
            connection.execute(select(func.pg_advisory_unlock_all()))
        engine.dispose()


@pytest.mark.parametrize(("dialect", "driver"), OTHER_DRIVERS)
def test_other_drivers(dialect, driver, request):
    database = request.getfixturevalue(f"{dialect}_database")
    engine = create_engine(database.url(driver))
    with Session(engine) as session:
        with advisory_lock(session, "report"):
            assert not is_free(engine)
        session.commit()
        with advisory_lock(engine, "report"):
            with pytest.raises(errors.LockTimeoutError):
                take(advisory_lock(session, "report", timeout=0.2))
            assert session.scalar(select(1)) == 1
    assert comes_free(engine)
    engine.dispose()


def test_postgresql_can_work_the_number_out(postgresql_database):
    ((number,),) = postgresql_database.sql(
        "SELECT ('x' || encode(substr(sha256('s4:shops4:useri1:7'), 1, 8), 'hex'))::bit(64)::bigint"
    )
    assert number == advisory_key(("user", 7), namespace="shop")
    with (
        tables(postgresql_database) as engine,
        advisory_lock(engine, ("user", 7), namespace="shop"),
    ):
        ((held,),) = postgresql_database.sql(
            "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks WHERE locktype = 'advisory'"
        )
        assert held == number


def test_what_cannot_be_locked(tmp_path):
    memory = create_engine("sqlite://")
    with pytest.raises(errors.UnsupportedServerError, match="memory"):
        take(advisory_lock(memory, "report"))
    memory.dispose()
    with tables(tmp_path / "app.db") as engine:
        with pytest.raises(errors.InvalidSettingError, match="timeout"):
            advisory_lock(engine, "report", timeout=-1)
        with pytest.raises(TypeError, match="bool"):
            advisory_lock(engine, True)
        with pytest.raises(TypeError, match="not str"):
            advisory_lock("sqlite://", "report")
        with Session(engine) as session, pytest.raises(TypeError, match="with advisory_lock"):
            asyncio.run(entered(advisory_lock(session, "report")))
        with advisory_lock(engine, "report"), pytest.raises(errors.TurnReenteredError):
            take(advisory_lock(engine, "report"))
        number = advisory_key("report") % 2**64
        assert glob.glob(f"{tmp_path}/app.db-advisory-*{number:016x}") != []


async def entered(lock):
    async with lock:
        pass


def test_autocommit_is_refused(database):
    with tables(database) as engine:
        committing = engine.execution_options(isolation_level="AUTOCOMMIT")
        with (
            Session(committing) as session,
            pytest.raises(errors.UnsupportedUnitError, match="AUTOCOMMIT"),
        ):
            take(advisory_lock(session, "report"))


def test_coroutines(anywhere):
    async def scenario(sync):
        engine = create_async_engine(url_of(anywhere, ASYNC))
        async with advisory_lock(engine, "report"):
            assert not await asyncio.to_thread(is_free, sync)
            began = time.monotonic()
            with pytest.raises(errors.LockTimeoutError):
                await asyncio.create_task(entered(advisory_lock(engine, "report", timeout=0.3)))
            assert 0.2 < time.monotonic() - began < 10
            waiting = asyncio.create_task(entered(advisory_lock(engine, "report")))
            await asyncio.sleep(0.3)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert await asyncio.to_thread(comes_free, sync)
        async with AsyncSession(engine) as session:
            async with advisory_lock(session, "report"):
                session.add(Account(id=1))
                await session.flush()
            assert not await asyncio.to_thread(is_free, sync)
            await session.commit()
            assert await asyncio.to_thread(comes_free, sync)
        async with engine.begin() as connection, advisory_lock(connection, "report"):
            assert not await asyncio.to_thread(is_free, sync)
        assert await asyncio.to_thread(comes_free, sync)
        with pytest.raises(TypeError, match="async with"), advisory_lock(engine, "report"):
            pass
        assert engine.pool.checkedout() == 0
        await engine.dispose()

    with tables(anywhere) as engine:
        asyncio.run(scenario(engine))
