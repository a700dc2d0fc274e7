"""PostgreSQL answers COMMIT of an aborted transaction with ROLLBACK: silent without `install`, loud with it."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, event, insert, select, text
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.orm import Session

from engines import ASYNCHRONOUS, use
from servers import Database, PostgreSQL
from turnwise.classification import classify, observation_of
from turnwise.errors import RolledBackError
from turnwise.sqlalchemy.installing import install, uninstall

SILENT = [driver for driver in PostgreSQL.drivers if driver != "pg8000"]
EVERY = PostgreSQL.drivers
TWO_PHASE = [
    "psycopg2",
    "psycopg",
]  # asyncpg has none, and that of pg8000 cannot roll back after an error.

META = MetaData()
ITEM = Table("item", META, Column("id", Integer, primary_key=True), Column("name", String))


@pytest.fixture(scope="module")
def made(postgresql):
    with postgresql.database() as name:
        database = Database(postgresql, name)
        database.sql("CREATE TABLE item (id INT PRIMARY KEY, name TEXT)")
        database.sql("CREATE TABLE part (item INT REFERENCES item DEFERRABLE INITIALLY DEFERRED)")
        yield database


@pytest.fixture
def database(made):
    yield made
    made.sql("TRUNCATE item, part")


def rows(database):
    return [id_ for (id_,) in database.sql("SELECT id FROM item ORDER BY id")]


def add(connection, id_):
    connection.execute(insert(ITEM), {"id": id_, "name": "n"})


def swallow(connection, statement="SELECT 1/0"):
    with pytest.raises(DBAPIError):
        connection.execute(text(statement))


def half_lost(engine):
    """An application that goes on after an error, and commits."""
    with engine.connect() as connection:
        add(connection, 1)
        swallow(connection)
        connection.commit()


@pytest.mark.parametrize("driver", SILENT)
def test_commit_of_an_aborted_transaction_is_silent_without_install(database, driver):
    use(database.url(driver), half_lost)
    assert rows(database) == []


@pytest.mark.parametrize("driver", EVERY)
def test_commit_of_an_aborted_transaction_is_loud_with_install(database, driver):
    def body(engine):
        install(engine)
        with engine.connect() as connection:
            add(connection, 1)
            swallow(connection, "SELECT 1 / 0 AS named_in_the_error")
            swallow(connection, "SELECT 2")
            with pytest.raises(RolledBackError, match="named_in_the_error") as caught:
                connection.commit()
            assert "'n'" not in str(caught.value)
            verdict = classify(caught.value)
            assert (verdict.dialect, verdict.class_, verdict.fate) == (
                "postgresql",
                "permanent",
                "aborted",
            )
            connection.rollback()
            add(connection, 2)
            connection.commit()
        with engine.begin() as connection:
            add(connection, 3)

    use(database.url(driver), body, pool_size=1, max_overflow=0)
    assert rows(database) == [2, 3]


@pytest.mark.parametrize("driver", ["psycopg2", "asyncpg"])
def test_a_session_hears_of_it_too(database, driver):
    def body(engine):
        install(engine)
        with Session(engine) as session:
            add(session, 1)
            swallow(session)
            with pytest.raises(RolledBackError):
                session.commit()
            with pytest.raises(PendingRollbackError):
                session.commit()
            session.rollback()
            add(session, 2)
            session.commit()

    use(database.url(driver), body)
    assert rows(database) == [2]


@pytest.mark.parametrize("driver", EVERY)
def test_going_back_to_a_savepoint_heals(database, driver):
    def body(engine):
        install(engine)
        with engine.connect() as connection:
            add(connection, 1)
            with pytest.raises(DBAPIError), connection.begin_nested():
                connection.execute(text("SELECT 1/0"))
            connection.commit()
        with engine.connect() as connection:
            add(connection, 2)
            connection.execute(text("SAVEPOINT here"))
            swallow(connection)
            connection.execute(text("ROLLBACK TO SAVEPOINT here"))
            connection.commit()

    use(database.url(driver), body)
    assert rows(database) == [1, 2]


@pytest.mark.parametrize("driver", SILENT)
def test_commit_as_a_statement_is_loud_too(database, driver):
    def body(engine):
        install(engine)
        with engine.connect() as connection:
            add(connection, 1)
            swallow(connection)
            with pytest.raises(RolledBackError, match="1/0"):
                connection.execute(text("COMMIT"))
            add(connection, 2)
            connection.commit()

    use(database.url(driver), body)
    assert 1 not in rows(database)


def test_commit_as_a_statement_is_silent_without_install(database):
    def body(engine):
        with engine.connect() as connection:
            add(connection, 1)
            swallow(connection)
            connection.execute(text("COMMIT"))

    use(database.url("psycopg"), body)
    assert rows(database) == []


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg", "asyncpg"])
def test_an_error_while_rows_are_fetched_counts(database, driver):
    """Of a server-side cursor: the guard has seen its statement succeed."""

    def body(engine):
        install(engine)
        with engine.connect() as connection:
            add(connection, 1)
            streaming = connection.execution_options(yield_per=2)
            query = text("SELECT 1 / (9 - i) FROM generate_series(1, 20) AS i")
            # SQLAlchemy lets asyncpg's own error through.
            with pytest.raises(Exception, match="zero"):
                result = streaming.execute(query)
                result.all()
            with pytest.raises(RolledBackError):
                connection.commit()

    use(database.url(driver), body)
    assert rows(database) == []


def test_a_parameter_that_asyncpg_refuses_itself_spoils_nothing(database):
    def body(engine):
        install(engine)
        with engine.connect() as connection:
            add(connection, 1)
            with pytest.raises(DBAPIError):
                connection.execute(insert(ITEM), {"id": "no number", "name": "n"})
            connection.commit()

    use(database.url("asyncpg"), body)
    assert rows(database) == [1]


@pytest.mark.parametrize("driver", EVERY)
def test_autocommit_isolation_is_left_alone(database, driver):
    def body(engine):
        install(engine)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            add(connection, 1)
            swallow(connection)
            add(connection, 2)
            connection.commit()

    use(database.url(driver), body)
    assert rows(database) == [1, 2]


@pytest.mark.parametrize("driver", EVERY)
def test_a_commit_that_fails_stays_the_driver_s_error(database, driver):
    def body(engine):
        install(engine)
        with engine.connect() as connection:
            connection.execute(text("INSERT INTO part VALUES (7)"))
            with pytest.raises(DBAPIError) as caught:
                connection.commit()
            connection.rollback()
            add(connection, 2)
            connection.commit()
        verdict = classify(caught.value)
        assert (verdict.class_, verdict.fate) == ("constraint", "rolled_back")
        assert verdict.constraint.kind == "foreign_key"
        assert observation_of(caught.value).phase == "commit"

    use(database.url(driver), body)
    assert rows(database) == [2]


def test_what_was_known_is_on_the_driver_s_error(database):
    def body(engine):
        install(engine)
        with engine.connect() as connection:
            with pytest.raises(DBAPIError) as caught:
                connection.execute(text("SELECT 1/0"))
            seen = observation_of(caught.value.orig)
            assert (seen.dialect, seen.phase, seen.is_read) == ("postgresql", "statement", True)
            assert seen.in_transaction is True
            connection.rollback()
            add(connection, 1)
            with pytest.raises(DBAPIError) as caught:
                add(connection, 1)
            assert observation_of(caught.value).is_read is False
            with pytest.raises(DBAPIError) as caught:
                connection.begin_nested()
            assert observation_of(caught.value).phase == "savepoint"

    use(database.url("psycopg2"), body)


@pytest.mark.parametrize("driver", TWO_PHASE)
def test_two_phase(database, driver):
    def body(engine):
        install(engine)
        with engine.connect() as connection:
            transaction = connection.begin_twophase()
            add(connection, 1)
            swallow(connection)
            with pytest.raises(RolledBackError):
                transaction.prepare()
            transaction.rollback()
            transaction = connection.begin_twophase()
            add(connection, 2)
            swallow(connection)
            with pytest.raises(RolledBackError):
                transaction.commit()
            connection.rollback()
            transaction = connection.begin_twophase()
            add(connection, 3)
            transaction.prepare()
            transaction.commit()
            transaction = connection.begin_twophase()
            add(connection, 4)
            transaction.commit()

    use(database.url(driver), body)
    assert rows(database) == [3, 4]


def test_prepare_of_an_aborted_transaction_is_silent_without_install(database):
    def body(engine):
        connection = engine.connect()
        transaction = connection.begin_twophase()
        add(connection, 1)
        swallow(connection)
        transaction.prepare()
        connection.invalidate()
        connection.close()

    use(database.url("psycopg2"), body)
    assert database.sql("SELECT gid FROM pg_prepared_xacts") == []


@pytest.mark.parametrize("reset", ["rollback", "commit", None])
def test_the_pool_s_reset_leaves_a_clean_connection(database, reset, caplog):
    def body(engine):
        install(engine)
        with engine.connect() as connection:
            add(connection, 1)
            swallow(connection)
        raw = engine.raw_connection()
        cursor = raw.cursor()
        with pytest.raises(Exception, match="zero"):
            cursor.execute("SELECT 1/0")
        raw.close()
        with engine.begin() as connection:
            if reset is None:  # What the application left open is its own.
                connection.connection.rollback()
            add(connection, 2)

    with caplog.at_level(logging.ERROR, "sqlalchemy.pool"):
        use(database.url("psycopg2"), body, pool_size=1, max_overflow=0, pool_reset_on_return=reset)
    assert rows(database) == [2]
    # The pool has nobody to raise to, and says it.
    assert ("RolledBackError" in caplog.text) == (reset == "commit")


def test_pre_ping_and_a_killed_connection(database):
    def body(engine):
        install(engine)
        with engine.begin() as connection:
            add(connection, 1)
            pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        database.sql(f"SELECT pg_terminate_backend({pid})", admin=True)
        with engine.begin() as connection:
            add(connection, 2)
        with engine.connect() as connection:
            add(connection, 3)
            pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
            database.sql(f"SELECT pg_terminate_backend({pid})", admin=True)
            with pytest.raises(DBAPIError) as caught:
                add(connection, 4)
            assert classify(caught.value).fate == "lost_before_commit"
            with pytest.raises(PendingRollbackError):
                connection.commit()
            connection.rollback()
            add(connection, 5)
            connection.commit()

    use(database.url("psycopg2"), body, pool_pre_ping=True, pool_size=1, max_overflow=0)
    assert rows(database) == [1, 2, 5]


def test_insertmanyvalues(database):
    def body(engine):
        install(engine)
        many = insert(ITEM).returning(ITEM.c.id)
        with engine.connect() as connection:
            with pytest.raises(DBAPIError):
                connection.execute(
                    many.execution_options(insertmanyvalues_page_size=2),
                    [{"id": i, "name": "n"} for i in (1, 2, 3, 3)],
                )
            with pytest.raises(RolledBackError, match="INSERT INTO item"):
                connection.commit()
            connection.rollback()
            assert (
                len(connection.execute(many, [{"id": i, "name": "n"} for i in (1, 2)]).all()) == 2
            )
            connection.commit()

    use(database.url("psycopg2"), body)
    assert rows(database) == [1, 2]


SENT = re.compile(r"LOG:  (?:statement|execute [^:]*): (.*)")


def sent(database, driver, body):
    """The statements that reach the server."""
    log = Path(database.server.folder, "log")
    database.sql(f"ALTER DATABASE {database.name} SET log_statement = 'all'", admin=True)
    begin = log.stat().st_size

    def warmed(engine):
        body(engine)
        start = log.stat().st_size
        body(engine)
        return start

    start = use(database.url(driver), warmed, pool_size=1, max_overflow=0)
    assert start > begin
    # psycopg2 sends no parameters: it writes them into the statement.
    return [re.sub(r"\d+", "N", line) for line in SENT.findall(log.read_text()[start:])]


@pytest.mark.parametrize("driver", EVERY)
def test_success_costs_no_round_trip(database, driver):
    def bare(engine):
        with Session(engine) as session:
            add(session, session.scalar(select(text("count(*)")).select_from(ITEM)))
            session.commit()

    def guarded(engine):
        install(engine)
        bare(engine)

    want = sent(database, driver, bare)
    assert any(line.startswith("INSERT") for line in want)
    assert sent(database, driver, guarded) == want


def test_uninstalled_it_is_silent_again(database):
    def body(engine):
        install(engine)
        uninstall(engine)
        half_lost(engine)

    use(database.url("psycopg2"), body)
    assert rows(database) == []


def test_the_application_s_own_listeners_go_on(database):
    seen = []

    def body(engine):
        event.listen(engine, "handle_error", lambda context: seen.append(context.statement))
        install(engine)
        with pytest.raises(RolledBackError):
            half_lost(engine)

    use(database.url("psycopg2"), body)
    assert seen == ["SELECT 1/0", None]


def test_every_driver_is_here():
    assert ASYNCHRONOUS & set(EVERY) == {"psycopg_async", "asyncpg"}
