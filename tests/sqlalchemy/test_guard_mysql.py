"""MariaDB and MySQL roll back in silence: silent without `install`, loud with it. Run on MariaDB."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, text, update
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, PendingRollbackError
from sqlalchemy.orm import Session

from engines import use
from servers import Database, MariaDB
from turnwise.classification import classify, observation_of
from turnwise.errors import TransactionPoisonedError
from turnwise.sqlalchemy.installing import install

EVERY = MariaDB.drivers
FEW = ["pymysql", "mysqldb", "asyncmy"]

META = MetaData()
ITEM = Table("item", META, Column("id", Integer, primary_key=True), Column("n", Integer))
RESET = "SET GLOBAL read_only = 0; TRUNCATE {0}.item; INSERT INTO {0}.item VALUES (1, 0), (2, 0), (3, 0)"


@pytest.fixture(scope="module")
def made(mariadb):
    with mariadb.database() as name:
        database = Database(mariadb, name)
        database.sql("CREATE TABLE item (id INT PRIMARY KEY, n INT)")
        yield database


@pytest.fixture
def database(made):
    made.sql(RESET.format(made.name), admin=True)
    return made


def rows(database):
    return dict(database.sql("SELECT id, n FROM item"))


def add(connection, id_, n=1):
    connection.execute(update(ITEM).where(ITEM.c.id == id_).values(n=ITEM.c.n + n))


def deadlock(connection, database):
    """Has row 3; the other side has row 2 and more work done, so that this side is the victim."""
    ready, over = threading.Event(), threading.Event()

    def other():
        with contextlib.closing(database.raw()) as raw:
            cursor = raw.cursor()
            cursor.execute("BEGIN")
            cursor.execute("INSERT INTO item SELECT seq, 0 FROM seq_100_to_300")
            cursor.execute("UPDATE item SET n = n WHERE id = 2")
            ready.set()
            cursor.execute("UPDATE item SET n = n WHERE id = 3")
            over.wait(30)
            cursor.execute("ROLLBACK")

    thread = threading.Thread(target=other)
    thread.start()
    try:
        assert ready.wait(30)
        with pytest.raises((OperationalError, DBAPIError)) as caught:
            add(connection, 2)
    finally:
        over.set()
        thread.join()
    assert classify(caught.value).code == 1213
    return caught.value


def swallowed_deadlock(engine, database):
    """An application that swallows a deadlock and goes on."""
    with engine.connect() as connection:
        add(connection, 3)
        deadlock(connection, database)
        add(connection, 1)
        connection.commit()


@pytest.mark.parametrize("driver", FEW)
def test_a_swallowed_deadlock_commits_half_without_install(database, driver):
    use(database.url(driver), lambda engine: swallowed_deadlock(engine, database))
    assert rows(database) == {1: 1, 2: 0, 3: 0}


@pytest.mark.parametrize("driver", EVERY)
def test_a_swallowed_deadlock_poisons_until_rollback(database, driver):
    def body(engine):
        install(engine)
        with engine.connect() as connection:
            add(connection, 3)
            error = deadlock(connection, database)
            # mariadb 1.1.14 crashes in the collector after its cursors were left in the frames of
            # errors that are not the driver's, so that for it only COMMIT is refused here.
            statements = (
                lambda: add(connection, 1),
                lambda: connection.execute(text("SELECT 1")),
                connection.begin_nested,
            )[: 0 if driver == "mariadbconnector" else 3]
            for refused in (*statements, connection.commit):
                with pytest.raises(TransactionPoisonedError, match="UPDATE item") as caught:
                    refused()
                assert caught.value.__cause__ is error.orig
                assert classify(caught.value).class_ == "deadlock"
            connection.rollback()
            add(connection, 1, 10)
            connection.commit()
        verdict = classify(error)
        assert (verdict.class_, verdict.fate, verdict.scope) == (
            "deadlock",
            "rolled_back",
            "transaction",
        )

    use(database.url(driver), body, pool_size=1, max_overflow=0)
    assert rows(database) == {1: 10, 2: 0, 3: 0}


def test_a_session_and_a_savepoint(database):
    def body(engine):
        install(engine)
        with Session(engine) as session:
            add(session, 3)
            with pytest.raises(DBAPIError), session.begin_nested():
                # What comes out is the deadlock, not the savepoint that went with it.
                raise deadlock(session, database)
            with pytest.raises(TransactionPoisonedError):
                session.commit()
            session.rollback()
            add(session, 1)
            session.commit()

    use(database.url("pymysql"), body)
    assert rows(database) == {1: 1, 2: 0, 3: 0}


def snapshot_conflict(connection, database):
    connection.execute(text("SET innodb_snapshot_isolation = 1"))
    connection.execute(text("SELECT n FROM item")).all()
    add(connection, 3)
    database.sql("UPDATE item SET n = n + 5 WHERE id = 2")
    with pytest.raises(DBAPIError) as caught:
        add(connection, 2)
    assert classify(caught.value).code == 1020
    return caught.value


@pytest.mark.parametrize("driver", FEW)
def test_a_changed_row_under_snapshot_isolation(database, driver):
    """MariaDB 11.6 and newer do so by default; older ones when told."""

    def silent(engine):
        with engine.connect() as connection:
            snapshot_conflict(connection, database)
            add(connection, 1)
            connection.commit()

    def loud(engine):
        install(engine)
        with engine.connect() as connection:
            error = snapshot_conflict(connection, database)
            assert classify(error).fate == "rolled_back"
            with pytest.raises(TransactionPoisonedError):
                add(connection, 1)
            connection.rollback()

    use(database.url(driver), silent)
    assert rows(database) == {1: 1, 2: 5, 3: 0}
    use(database.url(driver), loud)
    assert rows(database) == {1: 1, 2: 10, 3: 0}


@contextlib.contextmanager
def locked(database, id_):
    with contextlib.closing(database.raw()) as raw:
        cursor = raw.cursor()
        cursor.execute("BEGIN")
        cursor.execute(f"UPDATE item SET n = n + 0 WHERE id = {id_}")
        cursor.execute(f"SELECT 1 FROM item WHERE id = {id_} FOR UPDATE")
        yield
        cursor.execute("ROLLBACK")


@pytest.mark.parametrize("driver", EVERY)
def test_a_lock_time_out_leaves_the_transaction_intact(database, driver):
    def body(engine):
        install(engine)
        with engine.connect() as connection:
            connection.execute(text("SET innodb_lock_wait_timeout = 0"))
            add(connection, 1)
            with locked(database, 2), pytest.raises(DBAPIError) as caught:
                add(connection, 2)
            seen = observation_of(caught.value)
            assert (seen.dialect, seen.in_transaction) == ("mariadb", True)
            assert classify(caught.value).fate == "intact"
            add(connection, 3)
            connection.commit()

    use(database.url(driver), body)
    assert rows(database) == {1: 1, 2: 0, 3: 1}


def test_a_lock_time_out_that_rolls_back_poisons():
    """`innodb_rollback_on_timeout`, which only the server can tell."""
    server = MariaDB("--innodb-rollback-on-timeout=ON")
    try:
        with server.database() as name:
            database = Database(server, name)
            database.sql("CREATE TABLE item (id INT PRIMARY KEY, n INT)")

            def half(engine):
                database.sql("DELETE FROM item; INSERT INTO item VALUES (1, 0), (2, 0), (3, 0)")
                with engine.connect() as connection:
                    connection.execute(text("SET innodb_lock_wait_timeout = 0"))
                    add(connection, 1)
                    with locked(database, 2), pytest.raises(DBAPIError) as caught:
                        add(connection, 2)
                    assert classify(caught.value).code == 1205
                    add(connection, 3)
                    connection.commit()

            def loud(engine):
                install(engine)
                with pytest.raises(TransactionPoisonedError) as caught:
                    half(engine)
                assert classify(caught.value).fate == "rolled_back"

            use(database.url("pymysql"), half)
            assert rows(database) == {1: 0, 2: 0, 3: 1}
            for driver in FEW:
                use(database.url(driver), loud)
                assert rows(database) == {1: 0, 2: 0, 3: 0}
    finally:
        server.stop()


def read_only_at_commit(connection, database):
    add(connection, 1)
    database.sql("SET GLOBAL read_only = 1", admin=True)
    with pytest.raises(DBAPIError) as caught:
        connection.commit()
    database.sql("SET GLOBAL read_only = 0", admin=True)
    assert classify(caught.value, phase="commit").code == 1290
    return caught.value


@pytest.mark.parametrize("driver", FEW)
def test_the_second_commit_succeeds_in_silence_without_install(database, driver):
    def body(engine):
        with engine.connect() as connection:
            read_only_at_commit(connection, database)
            engine.dialect.do_commit(connection.connection)

    use(database.url(driver), body)
    assert rows(database) == {1: 0, 2: 0, 3: 0}


@pytest.mark.parametrize("driver", EVERY)
def test_a_commit_that_failed_is_never_sent_again(database, driver):
    sent = []

    def body(engine):
        dialect = engine.dialect
        commit = dialect.do_commit

        def counted(connection):
            sent.append("COMMIT")
            return commit(connection)

        dialect.do_commit = counted
        install(engine)
        with engine.connect() as connection:
            error = read_only_at_commit(connection, database)
            assert classify(error).fate == "rolled_back"
            with pytest.raises(PendingRollbackError):
                connection.commit()
            connection.rollback()
            add(connection, 2)
            connection.commit()

    use(database.url(driver), body, pool_size=1, max_overflow=0)
    assert len(sent) == 2
    assert rows(database) == {1: 0, 2: 1, 3: 0}


@pytest.mark.parametrize("driver", EVERY)
def test_autocommit_isolation_is_not_poisoned(database, driver):
    def body(engine):
        install(engine)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("SET innodb_snapshot_isolation = 1"))
            connection.execute(text("SET innodb_lock_wait_timeout = 0"))
            with locked(database, 2), pytest.raises(DBAPIError):
                add(connection, 2)
            with pytest.raises(DBAPIError):
                connection.execute(text("SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 30123"))
            add(connection, 1)
            connection.commit()

    use(database.url(driver), body)
    assert rows(database) == {1: 1, 2: 0, 3: 0}


@pytest.mark.parametrize("driver", FEW)
def test_an_error_that_nobody_knows_poisons(database, driver):
    def body(engine):
        install(engine)
        with engine.connect() as connection:
            add(connection, 1)
            with pytest.raises(DBAPIError) as caught:
                connection.execute(text("SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 30123"))
            assert classify(caught.value).class_ == "unlisted"
            with pytest.raises(TransactionPoisonedError):
                add(connection, 2)
            connection.rollback()

    use(database.url(driver), body)
    assert rows(database) == {1: 0, 2: 0, 3: 0}


@pytest.mark.parametrize("driver", FEW)
@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO item VALUES (1, 0)",
        "SELECT nothing FROM item",
        "SELECT 1 FROM nowhere",
        "SELEC 1",
        "SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = 30123",
        "DROP TABLE nowhere",
        "CREATE TABLE item (id INT)",
        "ALTER TABLE item DROP INDEX nowhere",
        "SET nowhere = 1",
        "KILL 999999999",
    ],
)
def test_errors_that_leave_the_transaction_poison_nothing(database, statement, driver):
    def body(engine):
        install(engine)
        with engine.connect() as connection:
            add(connection, 1)
            with pytest.raises(DBAPIError):
                connection.execute(text(statement))
            add(connection, 2)
            connection.commit()

    use(database.url(driver), body)
    assert rows(database) == {1: 1, 2: 1, 3: 0}


@pytest.mark.parametrize("driver", EVERY)
def test_an_error_that_the_server_never_saw_poisons_nothing(database, driver):
    def body(engine):
        install(engine)
        with engine.connect() as connection:
            add(connection, 1)
            with contextlib.suppress(Exception):
                connection.execute(text("UPDATE item SET n = :n"), {"n": [object()]})
            add(connection, 2)
            connection.commit()

    use(database.url(driver), body)
    assert rows(database) == {1: 1, 2: 1, 3: 0}


def test_an_override_decides(database):
    from turnwise import Override

    def body(engine):
        install(
            engine,
            overrides=[
                Override(
                    dialect="mariadb",
                    code=30123,
                    class_="permanent",
                    fate="intact",
                    scope="never",
                    retry="none",
                )
            ],
        )
        with engine.connect() as connection:
            add(connection, 1)
            with pytest.raises(DBAPIError):
                connection.execute(text("SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 30123"))
            add(connection, 2)
            connection.commit()

    use(database.url("pymysql"), body)
    assert rows(database) == {1: 1, 2: 1, 3: 0}


def test_two_phase(database):
    """The server rolls the XA transaction back; what follows is loud by itself, and then it is clean."""

    def body(engine):
        install(engine)
        with engine.connect() as connection:
            transaction = connection.begin_twophase()
            add(connection, 1)
            transaction.prepare()
            transaction.commit()
            transaction = connection.begin_twophase()
            add(connection, 3)
            deadlock(connection, database)
            with pytest.raises(TransactionPoisonedError):
                add(connection, 2)
            with pytest.raises(TransactionPoisonedError):
                transaction.prepare()
            # SQLAlchemy cannot roll it back: the server refuses XA END.
            with pytest.raises(OperationalError, match="1399"):
                transaction.rollback()
            connection.invalidate()
        with engine.begin() as connection:
            add(connection, 2)

    use(database.url("pymysql"), body)
    assert rows(database) == {1: 1, 2: 1, 3: 0}


def test_a_killed_connection_is_no_poison(database):
    def body(engine):
        install(engine)
        with engine.connect() as connection:
            add(connection, 1)
            number = connection.execute(text("SELECT CONNECTION_ID()")).scalar_one()
            database.sql(f"KILL {number}", admin=True)
            with pytest.raises((OperationalError, InterfaceError)) as caught:
                add(connection, 2)
            assert classify(caught.value).fate == "lost_before_commit"
            connection.rollback()
            add(connection, 3)
            connection.commit()

    use(database.url("pymysql"), body, pool_size=1, max_overflow=0)
    assert rows(database) == {1: 0, 2: 0, 3: 1}


@pytest.mark.parametrize("driver", FEW)
def test_an_error_while_rows_are_fetched_is_seen(database, driver):
    """Of a server-side cursor: its statement had succeeded, and the server is asked what is left."""
    database.sql("INSERT INTO item SELECT seq, 0 FROM seq_10_to_500")
    query = text("SELECT id, REPEAT('x', 1000) FROM item ORDER BY id FOR UPDATE")

    def body(engine):
        install(engine)
        with engine.connect() as connection:
            connection.execute(text("SET innodb_lock_wait_timeout = 0"))
            with locked(database, 499):
                result = connection.execution_options(yield_per=10).execute(query)
                with pytest.raises(DBAPIError) as caught:
                    result.all()
            assert observation_of(caught.value).in_transaction is True
            connection.rollback()

    use(database.url(driver), body)


def sent(database, driver, body):
    """The statements that reach the server."""

    def logged(engine):
        body(engine)
        database.sql(
            "SET GLOBAL log_output = 'TABLE'; TRUNCATE mysql.general_log; SET GLOBAL general_log = 1",
            admin=True,
        )
        body(engine)
        time.sleep(0.05)
        database.sql("SET GLOBAL general_log = 0", admin=True)

    use(database.url(driver), logged, pool_size=1, max_overflow=0)
    lines = database.sql(
        "SELECT command_type, CONVERT(argument USING utf8mb4) FROM mysql.general_log"
        " WHERE user_host LIKE 'app%' ORDER BY event_time",
        admin=True,
    )
    return sorted(lines)


@pytest.mark.parametrize("driver", EVERY)
def test_success_costs_no_round_trip(database, driver):
    def bare(engine):
        with Session(engine) as session:
            session.execute(text("SELECT 1"))
            add(session, 1)
            session.commit()

    def guarded(engine):
        install(engine)
        bare(engine)

    want = sent(database, driver, bare)
    assert any("UPDATE" in argument for _, argument in want)
    assert sent(database, driver, guarded) == want


def test_the_mysql_name_in_the_url_does_not_hide_mariadb(database):
    url = database.url("pymysql").set(drivername="mysql+pymysql")
    engine = install(create_engine(url))
    with engine.connect() as connection, pytest.raises(DBAPIError) as caught:
        connection.execute(text("SELECT nothing FROM item"))
    assert observation_of(caught.value).dialect == "mariadb"
    engine.dispose()
