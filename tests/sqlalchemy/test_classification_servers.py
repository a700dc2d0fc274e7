"""`classify` on errors of real servers, through every driver, as SQLAlchemy raises them and bare."""

from __future__ import annotations

import asyncio
import gc

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from proxy import BEFORE, Proxy
from servers import ASYNCHRONOUS, DRIVERS, Database, free_port
from turnwise.classification import classify

SCHEMA = """
    CREATE TABLE parent (id INT PRIMARY KEY);
    CREATE TABLE item (
        id INT PRIMARY KEY,
        team INT,
        name VARCHAR(5) NOT NULL,
        size INT,
        parent INT,
        CONSTRAINT uq_item UNIQUE (team, name),
        CONSTRAINT ck_size CHECK (size > 0),
        CONSTRAINT fk_parent FOREIGN KEY (parent) REFERENCES parent (id)
    );
    INSERT INTO item VALUES (1, 1, 'a', 1, NULL)
"""
# The kind, the name, and the columns as far as PostgreSQL tells them.
VIOLATIONS = {
    "INSERT INTO item VALUES (2, 1, 'a', 1, NULL)": ("unique", "uq_item", ("team", "name")),
    "INSERT INTO item VALUES (2, 2, 'a', 1, 7)": ("foreign_key", "fk_parent", ("parent",)),
    "INSERT INTO item VALUES (2, 2, 'a', 0, NULL)": ("check", "ck_size", ()),
    "INSERT INTO item VALUES (2, 2, NULL, 1, NULL)": ("not_null", None, ("name",)),
}
IDENTITY = {"postgresql": "SELECT pg_backend_pid()", "mariadb": "SELECT connection_id()"}
KILL = {"postgresql": "SELECT pg_terminate_backend({})", "mariadb": "KILL {}"}

pytestmark = [
    pytest.mark.servers,
    # pg8000 and aiomysql leave the sockets of lost connections to the garbage collector.
    pytest.mark.filterwarnings("ignore:.*unclosed:ResourceWarning"),
]


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
        yield Database(server, name)


def on(url, work, **settings):
    """`work(connection)` on an engine of its own."""
    if url.get_driver_name() not in ASYNCHRONOUS:
        with create_engine(url, poolclass=NullPool, **settings).connect() as connection:
            return work(connection)

    async def on_a_loop():
        engine = create_async_engine(url, poolclass=NullPool, **settings)
        async with engine.connect() as connection:
            return await connection.run_sync(work)

    return asyncio.run(on_a_loop())


def raised(url, work, **settings):
    # SQLAlchemy lets some errors of asyncpg and pg8000 pass as they are.
    with pytest.raises(Exception) as caught:
        on(url, work, **settings)
    return caught.value


def bare(error):
    """The driver's error, as it is without SQLAlchemy."""
    driver = getattr(error, "orig", error)
    is_adapter = type(driver).__module__.startswith("sqlalchemy.")
    return (driver.__cause__ if is_adapter else driver).with_traceback(None)


def test_constraints(database, driver):
    database.sql(SCHEMA)

    def violate(connection):
        errors = []
        for statement in VIOLATIONS:
            with pytest.raises(DBAPIError) as caught:
                connection.execute(text(statement))
            connection.rollback()
            errors.append(caught.value)
        return errors

    for error, expected in zip(on(database.url(driver), violate), VIOLATIONS.values(), strict=True):
        kind, name, columns = expected
        verdict, alone = classify(error), classify(bare(error))
        assert verdict.dialect == database.dialect
        assert alone.dialect in {verdict.dialect, "mysql"}
        for each in (verdict, alone):
            assert (each.class_, each.scope) == ("constraint", "never")
            assert not each.is_in_doubt
            assert (each.constraint.kind, each.constraint.name) == (kind, name)
        if database.dialect == "postgresql":
            assert verdict.constraint.table == "item"
            assert verdict.constraint.columns == alone.constraint.columns == columns


def kill_then(statement, database):
    def work(connection):
        number = connection.scalar(text(IDENTITY[database.dialect]))
        database.sql(KILL[database.dialect].format(number), admin=True)
        connection.execute(text(statement))

    return work


def test_a_connection_lost_within_a_transaction(database, driver):
    database.sql(SCHEMA)
    error = raised(database.url(driver), kill_then("INSERT INTO parent VALUES (1)", database))
    verdict = classify(error)
    assert verdict.fate == "lost_before_commit"
    assert (verdict.scope, verdict.retry) == ("connection", "unavailable")
    # The bare error does not tell whether COMMIT was on its way.
    assert classify(bare(error)).is_in_doubt
    assert classify(bare(error), phase="statement").fate == "lost_before_commit"


def test_a_connection_lost_in_autocommit(database, driver):
    database.sql(SCHEMA)
    write = kill_then("INSERT INTO parent VALUES (1)", database)
    for settings in (
        {"isolation_level": "AUTOCOMMIT"},
        {"execution_options": {"isolation_level": "AUTOCOMMIT"}},
    ):
        assert classify(raised(database.url(driver), write, **settings)).is_in_doubt


def test_a_connection_lost_at_commit(database, driver):
    database.sql(SCHEMA)
    with Proxy(database.server) as proxy:

        def work(connection):
            connection.execute(text("INSERT INTO parent VALUES (1)"))
            proxy.cut_next_commit(BEFORE)
            connection.commit()

        verdict = classify(raised(proxy.url(database.url(driver)), work))
    assert verdict.fate == "unknown"
    assert (verdict.scope, verdict.retry) == ("resolve", "none")


def test_no_server_and_no_database(database, driver):
    def nothing(connection):
        pass

    verdict = classify(raised(database.url(driver).set(port=free_port()), nothing))
    assert (verdict.class_, verdict.fate) == ("connection_lost", "none")
    assert (verdict.scope, verdict.retry) == ("connection", "unavailable")

    verdict = classify(raised(database.url(driver).set(database="nowhere"), nothing))
    assert (verdict.fate, verdict.scope) == ("none", "never")


def test_begin_and_savepoints_have_phases_of_their_own(database, driver):
    """PostgreSQL refuses what stands after an error; MySQL a savepoint that is not there."""
    database.sql(SCHEMA)

    def work(connection):
        connection.execute(text("INSERT INTO parent VALUES (1)"))
        savepoint = connection.begin_nested()
        connection.execute(text("RELEASE SAVEPOINT " + savepoint._savepoint))
        savepoint.rollback()

    verdict = classify(raised(database.url(driver), work))
    if database.dialect == "mariadb":
        assert verdict.rule == "mariadb.savepoint_gone"
    else:
        assert verdict.sqlstate == "3B001"


def test_a_killed_connection_says_so_bare(mariadb_database):
    import pymysql

    connection = mariadb_database.raw()
    mariadb_database.sql(KILL["mariadb"].format(connection.thread_id()), admin=True)
    with pytest.raises(pymysql.err.OperationalError):
        connection.ping(reconnect=False)
    with pytest.raises(pymysql.err.Error) as caught:
        connection.cursor().execute("SELECT 1")
    assert classify(caught.value, phase="statement").fate == "lost_before_commit"
