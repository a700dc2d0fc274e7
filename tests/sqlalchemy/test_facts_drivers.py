"""How each driver exposes what the server says: codes, lost connections, state, names of constraints."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sqlite3
import sys
import threading
import time
from typing import NamedTuple

import aiosqlite
import pytest
from sqlalchemy import create_engine, exc, text, util
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from proxy import AFTER, Proxy
from servers import ASYNCHRONOUS, DRIVERS, Database, until
from turnwise.classification import classify

pytestmark = [
    pytest.mark.servers,
    # pg8000 and aiomysql leave the sockets of lost connections to the garbage collector.
    pytest.mark.filterwarnings("ignore:.*unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

NUMBER = {"postgresql": "SELECT pg_backend_pid()", "mariadb": "SELECT CONNECTION_ID()"}
END = {"postgresql": "SELECT pg_terminate_backend({})", "mariadb": "KILL CONNECTION {}"}
SLEEP = {"postgresql": "SELECT pg_sleep(5)", "mariadb": "SELECT SLEEP(5)"}
INSERT = "INSERT INTO t VALUES ({}, 20)"
MOMENTS = {"idle": 2, "executing": 3, "commit": 4}  # And the row that is written before.


class Exposure(NamedTuple):
    """The code where the driver has it; that of a lost connection: while idle, executing, at COMMIT."""

    code: object
    ended: tuple  # By the server.
    cut: tuple  # On the way.
    of_a_lock: type = exc.OperationalError  # SQLAlchemy's class.
    of_a_check: type = exc.IntegrityError


def first_argument(error):
    return error.args[0]


def sqlstate(error):
    return error.sqlstate


def pgcode(error):
    return error.pgcode


def below(error):
    """SQLAlchemy's adapter is raised from the driver's own error."""
    return getattr(error.__cause__, "sqlstate", None)


def fields(error):
    return error.args[0]["C"] if isinstance(error.args[0], dict) else error.args[0]


def errno(error):
    return error.errno


def each(code):
    return (code,) * 3


CHECK = {"of_a_check": exc.OperationalError}
MYSQL = Exposure(first_argument, each(2013), each(2013), **CHECK)
EXPOSURES = {
    "psycopg2": Exposure(pgcode, each(None), each(None)),
    "psycopg": Exposure(sqlstate, each("57P01"), each(None)),
    "psycopg_async": Exposure(sqlstate, each("57P01"), each(None)),
    "asyncpg": Exposure(below, (None, "08003", None), (None, "08003", "08003"), exc.DBAPIError),
    "pg8000": Exposure(
        fields, each("network error"), each("network error"), *each(exc.ProgrammingError)[:2]
    ),
    "pymysql": MYSQL,
    "aiomysql": MYSQL,
    "asyncmy": Exposure(first_argument, (2006, 2013, 2006), (2006, 2013, 2013), **CHECK),
    "mysqldb": MYSQL,
    # -1: "MySQL Connection not available"; SQLAlchemy does not take it for a lost connection.
    "mysqlconnector": Exposure(errno, (-1, 2013, 2013), (-1, 2013, 2013), exc.DatabaseError),
    "mariadbconnector": Exposure(errno, each(2013), each(2013)),
}
# The constraint and the column.
NAMES = {
    "psycopg2": lambda error: (error.diag.constraint_name, error.diag.column_name),
    "psycopg": lambda error: (error.diag.constraint_name, error.diag.column_name),
    "asyncpg": lambda error: (error.__cause__.constraint_name, error.__cause__.column_name),
    "pg8000": lambda error: (error.args[0].get("n"), error.args[0].get("c")),
}


@pytest.fixture(autouse=True)
def _no_garbage():
    yield
    gc.collect()


@pytest.fixture(params=DRIVERS)
def driver(request):
    return request.param


@pytest.fixture
def database(request, driver):
    server = request.getfixturevalue(DRIVERS[driver])
    with server.database() as name:
        database = Database(server, name)
        database.sql("CREATE TABLE t (id INT PRIMARY KEY, n INT NOT NULL CHECK (n > 0))")
        database.sql("INSERT INTO t VALUES (1, 10)")
        yield database


def on(url, work):
    """`work(connection)` on an engine of its own."""
    if url.get_driver_name() not in ASYNCHRONOUS:
        with create_engine(url, poolclass=NullPool).connect() as connection:
            return work(connection)

    async def on_a_loop():
        async with create_async_engine(url, poolclass=NullPool).connect() as connection:
            return await connection.run_sync(work)

    return asyncio.run(on_a_loop())


def pause(driver):
    """Long enough to hear of a lost connection, for a driver that listens."""
    if driver in ASYNCHRONOUS:
        wait = getattr(util, "await_", None) or util.await_only
        wait(asyncio.sleep(0.1))
    else:
        time.sleep(0.1)


def failing(call):
    """SQLAlchemy's error."""
    with pytest.raises(exc.DBAPIError) as caught:
        call()
    return caught.value


def lost(database, driver, way, moment, proxy):
    """The driver's error, when its connection is lost in this way at this moment."""
    dialect, found = DRIVERS[driver], []

    def work(connection):
        number = connection.scalar(text(NUMBER[dialect]))
        connection.execute(text(INSERT.format(MOMENTS[moment])))

        def lose():
            if way == "ended":
                database.sql(END[dialect].format(number), admin=True)
            else:
                proxy.cut_all()

        if moment == "executing":
            timer = threading.Timer(0.2, lose)
            timer.start()
            found.append(failing(lambda: connection.execute(text(SLEEP[dialect]))))
            timer.join()
        elif moment == "idle":
            lose()
            pause(driver)
            found.append(failing(lambda: connection.execute(text("SELECT 1"))))
        else:
            if way == "cut":
                proxy.cut_next_commit(AFTER)
            else:
                lose()
                pause(driver)
            found.append(failing(connection.commit))

    url = database.url(driver)
    with contextlib.suppress(exc.DBAPIError):  # Of the ROLLBACK of what is lost.
        on(proxy.url(url) if way == "cut" else url, work)
    return found[0].orig


@pytest.mark.parametrize("way", ["ended", "cut"])
def test_a_lost_connection(database, driver, way) -> None:
    exposure = EXPOSURES[driver]
    with Proxy(database.server) as proxy:
        codes = tuple(exposure.code(lost(database, driver, way, m, proxy)) for m in MOMENTS)
    assert codes == getattr(exposure, way)
    committed = [(1,), (MOMENTS["commit"],)] if way == "cut" else [(1,)]
    assert database.sql("SELECT id FROM t ORDER BY id") == committed


@pytest.mark.parametrize("driver", ["pymysql", "mysqldb", "mysqlconnector", "mariadbconnector"])
def test_a_connection_that_idled_too_long(database, driver) -> None:
    gone = "SELECT 1 FROM information_schema.processlist WHERE id = {}"

    def work(connection):
        number = connection.scalar(text(NUMBER["mariadb"]))
        connection.execute(text("SET wait_timeout = 1"))
        assert until(lambda: database.sql(gone.format(number), admin=True) == [])
        found.append(failing(lambda: connection.execute(text("SELECT 1"))).orig)

    found = []
    with contextlib.suppress(exc.DBAPIError):
        on(database.url(driver), work)
    assert EXPOSURES[driver].code(found[0]) in (
        {-1} if driver == "mysqlconnector" else {2006, 2013}
    )


def test_a_lock_that_is_held(database, driver) -> None:
    holder = database.raw()
    for statement in ("BEGIN", "UPDATE t SET n = 11 WHERE id = 1"):
        holder.cursor().execute(statement)
    locked = "SELECT n FROM t WHERE id = 1 FOR UPDATE NOWAIT"
    error = on(database.url(driver), lambda c: failing(lambda: c.execute(text(locked))))
    holder.close()
    expected = {"postgresql": "55P03", "mariadb": 1205}[database.dialect]
    assert EXPOSURES[driver].code(error.orig) == expected
    assert type(error) is EXPOSURES[driver].of_a_lock


def test_a_violated_check(database, driver) -> None:
    statement = "INSERT INTO t VALUES (2, 0)"
    error = on(database.url(driver), lambda c: failing(lambda: c.execute(text(statement))))
    expected = {"postgresql": "23514", "mariadb": 4025}[database.dialect]
    assert EXPOSURES[driver].code(error.orig) == expected
    assert type(error) is EXPOSURES[driver].of_a_check
    if driver in NAMES:
        assert NAMES[driver](error.orig) == ("t_n_check", None)
    elif database.dialect == "mariadb":
        assert "CONSTRAINT `t.n` failed for" in str(error.orig)


@pytest.mark.parametrize("driver", NAMES)
def test_what_must_not_be_null_has_a_column_and_no_name(database, driver) -> None:
    statement = "INSERT INTO t VALUES (2, NULL)"
    error = on(database.url(driver), lambda c: failing(lambda: c.execute(text(statement))))
    assert NAMES[driver](error.orig) == (None, "n")


@pytest.mark.parametrize("driver", NAMES)
def test_a_server_without_a_free_connection(database, driver) -> None:
    database.sql(f"ALTER DATABASE {database.name} CONNECTION LIMIT 0", admin=True)
    with pytest.raises(Exception, match="too many connections for database") as caught:
        on(database.url(driver), lambda connection: None)
    error = getattr(caught.value, "orig", caught.value)  # SQLAlchemy 2.0 hands on asyncpg's own.
    if driver.startswith("psycopg"):
        assert EXPOSURES[driver].code(error) is None
        assert "FATAL:  too many" in str(error)
    else:
        assert (error.sqlstate if driver == "asyncpg" else fields(error)) == "53300"


@pytest.mark.parametrize("driver", ["psycopg2", "pymysql"])
def test_a_connection_lost_while_it_opens(database, driver) -> None:
    with Proxy(database.server) as proxy:
        url = proxy.url(database.url(driver))
    with pytest.raises(exc.OperationalError) as caught:  # Nobody listens there any more.
        on(url, lambda connection: None)
    assert EXPOSURES[driver].code(caught.value.orig) == (None if driver == "psycopg2" else 2003)
    verdict = classify(caught.value)
    assert (verdict.fate, verdict.scope, verdict.retry) == ("none", "connection", "unavailable")


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg", "asyncpg"])
def test_the_state_after_an_error(database, driver) -> None:
    def work(connection):
        failing(lambda: connection.execute(text("SELECT 1 / 0")))
        raw = connection.connection.driver_connection
        # asyncpg does not tell a failed transaction from an open one.
        return raw.is_in_transaction() if driver == "asyncpg" else raw.info.transaction_status

    assert on(database.url(driver), work) == (True if driver == "asyncpg" else 3)


def test_aiosqlite_hands_on_the_extended_code(tmp_path) -> None:
    async def work():
        async with aiosqlite.connect(tmp_path / "x.db") as connection:
            await connection.execute("CREATE TABLE t (i INTEGER PRIMARY KEY, j UNIQUE)")
            await connection.execute("INSERT INTO t VALUES (1, 1)")
            with pytest.raises(sqlite3.IntegrityError) as caught:
                await connection.execute("INSERT INTO t VALUES (2, 1)")
            return caught.value, connection.in_transaction

    error, in_transaction = asyncio.run(work())
    assert in_transaction
    assert "t.j" in str(error)
    if sys.version_info >= (3, 11):
        assert error.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_UNIQUE
