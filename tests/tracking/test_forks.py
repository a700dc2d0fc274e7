"""What a child of fork does with the connections of its parent: nothing, not even close them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool, Pool

from servers import Database, MariaDB, PostgreSQL
from turnwise.tracking import watching
from turnwise.tracking.forks import (
    guard_forks,
    keep_in_children,
    renew_in_children,
    unguard_forks,
)

BACKEND = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT connection_id()"}
BACKEND["mariadb"] = BACKEND["mysql"]
DRIVERS = {"psycopg2": PostgreSQL, "psycopg": PostgreSQL, "mysqldb": MariaDB, "pymysql": MariaDB}


@pytest.fixture(scope="module")
def databases(request):
    """A fresh database on each of the servers, made when it is first asked for."""
    made = {}
    with contextlib.ExitStack() as stack:

        def get(kind):
            if kind not in made:
                server = request.getfixturevalue(kind.__name__.lower())
                made[kind] = Database(server, stack.enter_context(server.database()))
            return made[kind]

        yield get


@pytest.fixture(params=DRIVERS)
def url(request, databases):
    database = databases(DRIVERS[request.param])
    dialect = "mysql" if request.param == "mysqldb" else database.dialect
    return database.url(request.param).set(drivername=f"{dialect}+{request.param}")


@pytest.fixture
def guarded():
    """`guard_forks`, undone after the test."""
    done = []

    def guard(target):
        guard_forks(target, by="test")
        done.append(target)

    # Whoever watches all engines guards them as well.
    other = sa.create_engine("sqlite://")
    watching.watch(other, log=False)
    watching.clear_findings()
    yield guard
    for target in done:
        unguard_forks(target, by="test")
    watching.unwatch()
    assert not sa.event.contains(Pool, "connect", sys.modules[guard_forks.__module__]._connect)


def in_a_child(work):
    """What `work` returns in a child of fork, which ends like a program."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.write(writer, json.dumps(work()).encode())
            gc.collect()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return json.loads(said)


def backend(connection):
    return connection.scalar(sa.text(BACKEND[connection.get_bind().dialect.name]))


def session_backend(engine):
    with Session(engine) as session:
        return backend(session)


def forked():
    return [one.detail for one in watching.findings() if one.code == "forked-connection"]


@pytest.mark.parametrize("settings", [{}, {"pool_pre_ping": True}, {"pool_recycle": 0}])
def test_an_idle_connection_is_replaced_and_named(url, guarded, settings) -> None:
    engine = sa.create_engine(url, **settings)
    guarded(engine)
    parent, before = os.getpid(), session_backend(engine)

    def child():
        return session_backend(engine), session_backend(engine), forked()

    number, again, found = in_a_child(child)
    assert number != before
    if "pool_recycle" not in settings:
        assert again == number
        assert session_backend(engine) == before
    assert len(found) == 1
    assert f"made by process {parent} before it forked" in found[0]
    assert forked() == []
    engine.dispose()


def test_a_connection_in_use_is_lost_in_the_child_alone(url, guarded) -> None:
    engine = sa.create_engine(url)
    guarded(Pool)
    session = Session(engine)
    before = backend(session)

    def child():
        with pytest.raises(sa.exc.StatementError, match="was in use in process") as caught:
            backend(session)
        assert caught.value.connection_invalidated
        with pytest.raises(sa.exc.PendingRollbackError):
            backend(session)
        session.rollback()
        number = backend(session)
        session.close()
        return number

    assert in_a_child(child) != before
    assert backend(session) == before
    session.close()
    engine.dispose()


@pytest.mark.parametrize("ending", ["rollback", "close", "commit", "forget"])
def test_however_the_child_ends_a_session_the_parent_goes_on(url, guarded, ending) -> None:
    engine = sa.create_engine(url)
    guarded(engine)
    held = [Session(engine)]
    before = backend(held[0])

    def child():
        if ending == "forget":
            held.clear()
            gc.collect()
        elif ending == "commit":
            with pytest.raises(sa.exc.DisconnectionError):
                held[0].commit()
        else:
            getattr(held[0], ending)()
        return session_backend(engine)

    assert in_a_child(child) != before
    assert backend(held[0]) == before
    held[0].close()
    engine.dispose()


def test_a_child_may_begin_with_new_pools(url, guarded) -> None:
    engine = sa.create_engine(url, pool_size=1, max_overflow=0, pool_timeout=1)
    guarded(engine)
    renew_in_children([engine])
    session = Session(engine)
    before = backend(session)

    def child():
        # The parent's one connection is out, and counts no more.
        return session_backend(engine), engine.pool.checkedout(), forked()

    number, out, found = in_a_child(child)
    assert number != before
    assert (out, found) == (0, [])
    assert backend(session) == before
    keep_in_children([engine])
    session.close()
    engine.dispose()


def test_a_child_has_asynchronous_engines_of_its_own(databases, guarded) -> None:
    engine = create_async_engine(databases(PostgreSQL).url("asyncpg"))
    guarded(engine)
    renew_in_children([engine.sync_engine])

    async def numbers():
        async with engine.connect() as connection:
            return await connection.scalar(sa.text(BACKEND["postgresql"]))

    async def main():
        before = await numbers()
        # In the child no event loop runs any more once it has begun another.
        assert in_a_child(lambda: in_a_thread(lambda: asyncio.run(numbers()))) != before
        assert await numbers() == before
        await engine.dispose()

    asyncio.run(main())
    keep_in_children([engine.sync_engine])


def in_a_thread(work):
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(work).result(20)


def test_connections_older_than_the_guard_are_found_at_checkout(databases, guarded) -> None:
    engine = sa.create_engine(databases(PostgreSQL).url("psycopg2"))
    before = session_backend(engine)
    guarded(engine)

    def child():
        return session_backend(engine), forked()

    number, found = in_a_child(child)
    assert number != before
    assert len(found) == 1
    assert session_backend(engine) == before
    engine.dispose()


def test_grandchildren_and_other_engines(databases, guarded) -> None:
    engine, other = (sa.create_engine(databases(PostgreSQL).url("psycopg2")) for _ in range(2))
    guarded(engine)
    before, foreign = session_backend(engine), session_backend(other)

    def child():
        mine = session_backend(engine)
        grandchild = in_a_child(lambda: session_backend(engine))
        # Not guarded: this is what happens without us.
        return mine, grandchild, session_backend(other), session_backend(engine)

    mine, grandchild, unguarded, again = in_a_child(child)
    assert len({before, mine, grandchild}) == 3
    assert unguarded == foreign
    assert again == mine
    engine.dispose()
    other.dispose()


def test_without_a_guard_nothing_is_changed(databases, guarded) -> None:
    engine = sa.create_engine(databases(PostgreSQL).url("psycopg2"))
    guarded(engine)
    guard_forks(engine, by="another")
    before = session_backend(engine)
    unguard_forks(engine, by="test")
    assert in_a_child(lambda: session_backend(engine)) != before
    unguard_forks(engine, by="another")
    unguard_forks(engine, by="another")
    assert in_a_child(lambda: session_backend(engine)) == before
    engine.dispose()


def test_a_database_in_memory_stays_the_childs_copy(guarded) -> None:
    engine = sa.create_engine("sqlite://")
    guarded(engine)
    renew_in_children([engine])
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE story (n)"))
        connection.execute(sa.text("INSERT INTO story VALUES (7)"))

    def child():
        with engine.connect() as connection:
            return connection.scalar(sa.text("SELECT n FROM story"))

    assert in_a_child(child) == 7
    keep_in_children([engine])
    engine.dispose()


def test_a_file_is_opened_anew_and_no_pool_is_needed(tmp_path, guarded) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/file.db")
    nothing = sa.create_engine(f"sqlite:///{tmp_path}/file.db", poolclass=NullPool)
    guarded(Pool)
    for one in (engine, nothing):
        with one.begin() as connection:
            connection.execute(sa.text("CREATE TABLE IF NOT EXISTS story (n)"))
    held = engine.connect()
    raw = held.connection.dbapi_connection

    def child():
        with engine.connect() as connection, nothing.connect() as second:
            assert connection.connection.dbapi_connection is not raw
            time.sleep(0)
            return [
                one.scalar(sa.text("SELECT count(*) FROM story")) for one in (connection, second)
            ]

    assert in_a_child(child) == [0, 0]
    assert held.connection.dbapi_connection is raw
    held.close()
    engine.dispose()


def test_the_guard_takes_engines_alone() -> None:
    with pytest.raises(TypeError, match="an Engine"):
        guard_forks(object())
