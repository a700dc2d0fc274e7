"""The server's own limit for idle transactions, and the end of one session that does nothing."""

from __future__ import annotations

import contextlib
import time
from typing import NamedTuple

import pytest
from sqlalchemy import create_engine, exc, text, util

from engines import use
from pool_support import ALL, QUIET, database_of, end, living, number_of, pause
from servers import DRIVERS, until
from turnwise import errors
from turnwise.tracking.backstop import backstop
from turnwise.tracking.terminating import terminate

pytestmark = QUIET


class Lease(NamedTuple):
    """What is asked of one."""

    backend_pid: int
    age: float


SHOW = {
    "postgresql": "SELECT current_setting('idle_in_transaction_session_timeout')",
    "mariadb": "SELECT @@idle_transaction_timeout",
}


@pytest.mark.parametrize("driver", ALL)
def test_connections_that_are_opened_have_the_limit(request, driver):
    is_postgresql = DRIVERS[driver] == "postgresql"

    def shown(engine):
        with engine.connect() as connection:
            return connection.exec_driver_sql(SHOW[DRIVERS[driver]]).scalar()

    def body(engine):
        backstop(engine, 1.25)
        # PostgreSQL shows milliseconds, MariaDB has whole seconds.
        assert shown(engine) == ("1250ms" if is_postgresql else 2)
        assert shown(engine) == ("1250ms" if is_postgresql else 2)  # Also after a rollback.
        backstop(engine, None)
        with engine.connect() as connection:
            connection.invalidate()
        assert shown(engine) == ("0" if is_postgresql else 0)

    with database_of(request, driver) as database:
        use(database.url(driver), body, pool_size=1)


@pytest.mark.once
@pytest.mark.parametrize("driver", ["psycopg2", "pymysql"])
def test_the_server_ends_what_is_idle_for_longer(request, driver):
    def body(engine):
        backstop(engine, 0.3)
        with engine.connect() as connection:
            connection.exec_driver_sql("INSERT INTO t VALUES (1)")
            number = number_of(connection)
            assert until(lambda: number not in living(database), 10)
            with pytest.raises(exc.OperationalError):
                number_of(connection)

    with database_of(request, driver) as database:
        database.sql("CREATE TABLE t (a INT)")
        use(database.url(driver), body)


@pytest.mark.once
@pytest.mark.parametrize(
    ("driver", "given"),
    [
        ("psycopg2", {"options": "-c lock_timeout=7s"}),
        ("psycopg", {"options": "-c lock_timeout=7s"}),
        ("asyncpg", {"server_settings": {"lock_timeout": "7s"}}),
        ("pg8000", {"startup_params": {"lock_timeout": "7s"}}),
    ],
)
def test_what_the_application_sets_stays(postgresql_database, driver, given):
    def body(engine):
        backstop(engine, 5)
        for _ in range(2):
            with engine.connect() as connection:
                rows = [
                    connection.exec_driver_sql(f"SELECT current_setting('{name}')").scalar()
                    for name in ("lock_timeout", "idle_in_transaction_session_timeout")
                ]
                assert rows == ["7s", "5s"]
                connection.invalidate()

    use(postgresql_database.url(driver), body, connect_args=given)


def test_it_costs_no_round_trip_on_postgresql(postgresql_database):
    engine = create_engine(postgresql_database.url("psycopg2"))
    backstop(engine, 5)
    with engine.connect() as connection:
        # The last thing that the server did is SQLAlchemy's, not a SET.
        record = connection.connection._connection_record
        assert "turnwise.backstop" not in record.info
        seen = postgresql_database.sql(
            f"SELECT query FROM pg_stat_activity WHERE pid = {connection.connection.driver_connection.info.backend_pid}",
            admin=True,
        )
        assert "SET" not in seen[0][0]
    engine.dispose()


def test_an_engine_that_opens_its_connections_itself(postgresql_database):
    engine = create_engine(
        "postgresql+psycopg2://", creator=lambda: plain(postgresql_database), pool_size=1
    )
    backstop(engine, 5)
    for _ in range(2):
        with engine.connect() as connection:
            assert connection.exec_driver_sql(SHOW["postgresql"]).scalar() == "5s"
    engine.dispose()


def plain(database):
    connection = database.raw()
    connection.autocommit = False
    return connection


def test_what_has_no_such_limit():
    with pytest.raises(errors.UnsupportedServerError, match="SQLite has no server"):
        backstop(create_engine("sqlite://"), 5)
    for wrong in (0, -1, float("nan"), 3e6):
        with pytest.raises(errors.InvalidSettingError):
            backstop(create_engine("sqlite://"), wrong)
    engine = create_engine("mysql+pymysql://")
    engine.dialect.server_version_info = (8, 4, 0)  # As after its first connection.
    with pytest.raises(errors.UnsupportedServerError, match="wait_timeout"):
        backstop(engine, 5)


def answer(engine, *arguments, **options):
    """What `terminate` says, awaited where that is needed."""
    if not engine.dialect.is_async:
        return terminate(engine, *arguments, **options)
    from sqlalchemy.ext.asyncio import AsyncEngine

    return util.await_only(terminate(AsyncEngine(engine), *arguments, **options))


@contextlib.contextmanager
def holder(database, engine):
    """A connection that is idle in a transaction, its number and its age."""
    with engine.connect() as connection:
        began = time.monotonic()
        connection.execute(text("INSERT INTO t VALUES (1)"))
        number = number_of(connection)
        try:
            yield connection, number, lambda: [Lease(number, time.monotonic() - began)]
        finally:
            connection.invalidate()


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg", "asyncpg"])
def test_a_session_that_is_idle_in_a_transaction_is_ended(postgresql_database, driver):
    def body(engine):
        with holder(postgresql_database, engine) as (connection, number, leases):
            pause(engine, 0.3)
            early = answer(engine, number, idle=60, leases=leases())
            assert not early.is_done
            assert early.reason.startswith("the session is idle in transaction for 0.")
            assert number in living(postgresql_database)
            done = answer(engine, number, idle=0.2, leases=leases())
            assert done.is_done
            assert until(lambda: number not in living(postgresql_database))
            with pytest.raises(exc.DBAPIError):
                number_of(connection)
        assert postgresql_database.sql("SELECT count(*) FROM t") == [(0,)]

    postgresql_database.sql("CREATE TABLE t (a INT)")
    # A pool of one, which the holder has: it is the incident in which this is needed.
    use(postgresql_database.url(driver), body, pool_size=1, max_overflow=0, pool_timeout=0.1)


def test_whatever_is_not_ours_or_not_idle_is_left_alone(postgresql_database):
    def body(engine):
        with holder(postgresql_database, engine) as (connection, number, leases):
            pause(engine, 0.1)
            unknown = terminate(engine, number, idle=0, leases=[Lease(number + 1, 1.0)])
            assert unknown == (False, f"no lease of this process has the session {number}")
            # A session that began after the lease got its number later.
            newer = terminate(engine, number, idle=0, leases=[Lease(number, 1000.0)])
            assert newer == (False, "the session began after the lease: it is another one")
            with postgresql_database.raw(admin=True) as foreign:
                foreign.autocommit = False
                foreign.cursor().execute("SELECT 1")
                pid = foreign.info.backend_pid
                other = terminate(engine, pid, idle=0, leases=[Lease(pid, 0.0)])
                assert other == (False, "the session belongs to another role")
            # An administrator's engine may end any session, and may see what it does.
            url = engine.url.set(username="admin", password=postgresql_database.server.password)
            almighty = terminate(create_engine(url), number, idle=0, leases=leases())
            assert almighty == (False, "the session belongs to another role")
            connection.rollback()
            idle = terminate(engine, number, idle=0, leases=leases())
            assert not idle.is_done
            assert idle.reason.startswith("the session is idle for")
            assert number in living(postgresql_database)
            end(postgresql_database, number)
            assert terminate(engine, number, idle=0, leases=leases()) == (
                False,
                "the server has no such session",
            )

    postgresql_database.sql("CREATE TABLE t (a INT)")
    use(postgresql_database.url("psycopg2"), body, pool_size=1, max_overflow=0)


@pytest.mark.parametrize("driver", ["pymysql", "mysqldb", "aiomysql"])
def test_on_mariadb_the_right_to_see_transactions_is_needed(mariadb_database, driver):
    def body(engine):
        with holder(mariadb_database, engine) as (connection, number, leases):
            pause(engine, 1.2)
            blind = answer(engine, number, idle=1, leases=leases())
            assert not blind.is_done
            assert "PROCESS" in blind.reason
            with privilege(mariadb_database):
                early = answer(engine, number, idle=60, leases=leases())
                assert not early.is_done
                assert early.reason.startswith("the session is in Sleep for")
                assert number in living(mariadb_database)
                assert answer(engine, number, idle=1, leases=leases()).is_done
            assert until(lambda: number not in living(mariadb_database))
            with pytest.raises(exc.DBAPIError):
                number_of(connection)
        assert mariadb_database.sql("SELECT count(*) FROM t") == [(0,)]

    mariadb_database.sql("CREATE TABLE t (a INT) ENGINE=InnoDB")
    use(mariadb_database.url(driver), body, pool_size=1, max_overflow=0)


@contextlib.contextmanager
def privilege(database):
    account = f"app@'{database.server.host}'"
    database.sql(f"GRANT PROCESS ON *.* TO {account}", admin=True)
    try:
        yield
    finally:
        database.sql(f"REVOKE PROCESS ON *.* FROM {account}", admin=True)


def test_on_mariadb_a_session_without_a_transaction_is_left_alone(mariadb_database):
    def body(engine):
        with holder(mariadb_database, engine) as (connection, number, leases):
            connection.rollback()
            with privilege(mariadb_database):
                done = terminate(engine, number, idle=0, leases=leases())
            assert done == (False, "the session is idle for 0 s, in no transaction")
            assert number_of(connection) == number

    mariadb_database.sql("CREATE TABLE t (a INT) ENGINE=InnoDB")
    use(mariadb_database.url("pymysql"), body)


def test_arguments_are_checked():
    with pytest.raises(TypeError, match="an Engine or an AsyncEngine"):
        terminate(object(), 1)
    with pytest.raises(errors.InvalidSettingError, match="idle"):
        terminate(create_engine("sqlite://"), 1, idle=-1, leases=[])
    with pytest.raises(errors.UnsupportedServerError, match="sqlite has no sessions"):
        terminate(create_engine("sqlite://"), 1, leases=[])
