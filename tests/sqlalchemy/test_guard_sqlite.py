"""SQLite ends transactions on its own: silent without `install`, loud with it."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
import threading

import pytest
from sqlalchemy import (
    URL,
    Column,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    insert,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, PendingRollbackError
from sqlalchemy.orm import Session
from sqlalchemy.pool import Pool, StaticPool

from engines import use
from turnwise.classification import classify, observation_of
from turnwise.errors import TransactionPoisonedError
from turnwise.sqlalchemy import sessions
from turnwise.sqlalchemy.installing import install

DRIVERS = ["pysqlite", "aiosqlite"]
META = MetaData()
ITEM = Table("item", META, Column("id", Integer, primary_key=True), Column("name", String))
SCHEMA = """
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE part (item INT REFERENCES item (id) DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE plain (content BLOB);
CREATE TRIGGER refusing BEFORE INSERT ON item WHEN new.name = 'refused'
BEGIN SELECT RAISE(ROLLBACK, 'refused'); END;
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "app.db"
    with contextlib.closing(sqlite3.connect(path)) as raw:
        raw.executescript(SCHEMA)
    return path


def url(path, driver="pysqlite", **query):
    return URL.create(f"sqlite+{driver}", database=str(path), query=query)


def rows(path):
    with contextlib.closing(sqlite3.connect(path)) as raw:
        return [id_ for (id_,) in raw.execute("SELECT id FROM item ORDER BY id")]


def add(connection, id_, name="n"):
    connection.execute(insert(ITEM), {"id": id_, "name": name})


def or_rollback(connection):
    with pytest.raises(IntegrityError):
        connection.execute(text("INSERT OR ROLLBACK INTO item VALUES (1, 'again')"))


def raise_rollback(connection):
    with pytest.raises(IntegrityError):
        add(connection, 9, "refused")


def interrupt(connection):
    raw = connection.connection.driver_connection
    raw = getattr(raw, "_conn", raw)
    raw.set_progress_handler(lambda: 1, 1000)
    try:
        with pytest.raises(OperationalError, match="interrupted"):
            connection.execute(
                text(
                    "INSERT INTO item WITH RECURSIVE n(i) AS"
                    " (SELECT 100 UNION ALL SELECT i + 1 FROM n) SELECT i, 'n' FROM n"
                )
            )
    finally:
        raw.set_progress_handler(None, 0)


def full(connection):
    pages = connection.execute(text("PRAGMA page_count")).scalar_one()
    connection.execute(text(f"PRAGMA max_page_count = {pages}"))
    try:
        with pytest.raises(OperationalError, match="full"):
            # One row of a table without triggers: SQLite keeps no journal of the statement.
            connection.execute(text("INSERT INTO plain VALUES (randomblob(100000))"))
    finally:
        raw = connection.connection.driver_connection
        getattr(raw, "_conn", raw).execute("PRAGMA max_page_count = 100000")


ENDINGS = [or_rollback, raise_rollback, interrupt, full]


def half(engine, end):
    """An application that swallows the error and goes on."""
    with engine.connect() as connection:
        add(connection, 1)
        end(connection)
        add(connection, 2)
        connection.commit()


@pytest.mark.parametrize("end", ENDINGS)
def test_half_a_transaction_is_committed_without_install(path, end):
    use(url(path), lambda engine: half(engine, end))
    assert rows(path) == [2]


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("end", ENDINGS)
def test_a_transaction_that_sqlite_ended_poisons_until_rollback(path, end, driver):
    if (end, driver) == (interrupt, "aiosqlite"):
        end = or_rollback  # The handler belongs to aiosqlite's thread.

    def body(engine):
        install(engine)
        with engine.connect() as connection:
            add(connection, 1)
            end(connection)
            for refused in (
                lambda: add(connection, 2),
                lambda: connection.execute(text("SELECT 1")),
                lambda: connection.exec_driver_sql("SELECT 1"),
                lambda: connection.execute(insert(ITEM), [{"id": 3}, {"id": 4}]),
                connection.begin_nested,
                connection.commit,
            ):
                with pytest.raises(TransactionPoisonedError) as caught:
                    refused()
                assert classify(caught.value).fate == "rolled_back"
                assert observation_of(caught.value).was_in_transaction is True
            connection.rollback()
            add(connection, 5)
            connection.commit()

    use(url(path, driver), body, pool_size=1, max_overflow=0)
    assert rows(path) == [5]


def test_the_error_names_the_statement_and_no_parameter(path):
    def body(engine):
        install(engine)
        with engine.connect() as connection:
            add(connection, 1)
            raise_rollback(connection)
            with pytest.raises(TransactionPoisonedError, match="INSERT INTO item") as caught:
                connection.execute(text("SELECT 1"))
            assert "'refused'" not in str(caught.value)

    use(url(path), body)


def test_a_savepoint_lets_the_first_error_through(path):
    def body(engine):
        install(engine)
        with Session(engine) as session:
            add(session, 1)
            with pytest.raises(IntegrityError), session.begin_nested():
                add(session, 9, "refused")
            with pytest.raises(TransactionPoisonedError):
                session.commit()
            session.rollback()
            add(session, 5)
            session.commit()

    use(url(path), body)
    assert rows(path) == [5]


def test_errors_that_leave_the_transaction_poison_nothing(path):
    def body(engine):
        install(engine)
        with engine.connect() as connection:
            add(connection, 1)
            with pytest.raises(IntegrityError):
                add(connection, 1)
            with pytest.raises(OperationalError):
                connection.execute(text("SELECT nothing"))
            with pytest.raises(IntegrityError), connection.begin_nested():
                add(connection, 1)
            with pytest.raises(IntegrityError):
                many = insert(ITEM).returning(ITEM.c.id)
                options = {"insertmanyvalues_page_size": 1}
                connection.execute(many, [{"id": 8}, {"id": 1}], execution_options=options)
            add(connection, 2)
            connection.commit()

    use(url(path), body)
    assert rows(path) == [1, 2, 8]


def test_a_first_statement_that_fails_poisons_nothing(path):
    """Nothing was in the transaction yet."""

    def body(engine):
        install(engine)
        with engine.begin() as connection:
            add(connection, 1)
        with engine.connect() as connection:
            or_rollback(connection)
            add(connection, 2)
            connection.commit()

    use(url(path), body)
    assert rows(path) == [1, 2]


def test_autocommit_isolation_is_not_poisoned(path):
    def body(engine):
        install(engine)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            add(connection, 1)
            or_rollback(connection)
            interrupt(connection)
            add(connection, 2)

    use(url(path), body)
    assert rows(path) == [1, 2]


def failed_commit(engine):
    """COMMIT fails (a foreign key that is checked then), and the driver's transaction stays open."""
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA foreign_keys = ON")
        connection.commit()
        connection.execute(text("INSERT INTO part VALUES (7)"))
        connection.commit()


def parts(path):
    with contextlib.closing(sqlite3.connect(path)) as raw:
        return raw.execute("SELECT item FROM part").fetchall()


def with_the_pool(engine):
    with pytest.raises(IntegrityError):
        failed_commit(engine)
    with engine.begin() as connection:
        add(connection, 7)


def within_the_connection(engine):
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA foreign_keys = ON")
        connection.commit()
        connection.execute(text("INSERT INTO part VALUES (7)"))
        with pytest.raises(IntegrityError):
            connection.commit()
        with pytest.raises(PendingRollbackError):
            connection.commit()
        connection.rollback()
        add(connection, 7)
        connection.commit()


@pytest.fixture
def without_units():
    """Nobody in this process has decorated a unit of work, which ends leftovers in the pool."""
    sessions.watch()
    event.remove(Pool, "reset", sessions._reset)
    yield
    event.listen(Pool, "reset", sessions._reset)


@pytest.mark.usefixtures("without_units")
@pytest.mark.parametrize("story", [with_the_pool, within_the_connection])
def test_what_a_failed_commit_left_open_is_committed_later_without_install(path, story):
    use(url(path), story, pool_size=1, max_overflow=0)
    assert (rows(path), parts(path)) == ([7], [(7,)])


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("story", [with_the_pool, within_the_connection])
def test_a_failed_commit_is_rolled_back(path, story, driver):
    def body(engine):
        story(install(engine))

    use(url(path, driver), body, pool_size=1, max_overflow=0)
    assert (rows(path), parts(path)) == ([7], [])


def test_a_commit_that_a_reader_holds_up_leaves_no_lock(path):
    """In a rollback journal. A shared cache takes no turns, so that only the guard acts."""

    def body(engine):
        install(engine)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM item").fetchall()
            with engine.connect() as connection:
                add(connection, 1)
                with pytest.raises(OperationalError) as caught:
                    connection.commit()
            verdict = classify(caught.value)
            assert (verdict.class_, verdict.scope) == ("contention", "commit")
            reader.execute("COMMIT")
            reader.execute("INSERT INTO item VALUES (2, 'n')")

    shared = URL.create(
        "sqlite", database=f"file:{path}", query={"cache": "shared", "uri": "true", "timeout": "0"}
    )
    use(shared, body)
    assert rows(path) == [2]


def test_a_write_after_a_read_is_stale(path):
    """The code alone says busy: what the transaction did before decides."""

    def body(engine):
        install(engine, timeout=0.1)
        with engine.connect() as connection:
            connection.execute(select(ITEM)).all()
            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                with pytest.raises(DBAPIError) as caught:
                    add(connection, 1)
            seen = observation_of(caught.value)
            assert (seen.has_read, seen.is_read, seen.in_transaction) == (True, False, True)
            assert classify(caught.value).class_ == "snapshot_stale"
            connection.rollback()
            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                with pytest.raises(DBAPIError) as caught:
                    add(connection, 1)
            assert observation_of(caught.value).has_read is False
            assert classify(caught.value).class_ == "contention"

    use(url(path), body)


def test_the_journal_mode_is_known_at_commit(path):
    def body(engine):
        install(engine)
        with pytest.raises(IntegrityError) as caught:
            failed_commit(engine)
        assert observation_of(caught.value)[:4] == ("sqlite", "commit", True, True)
        assert observation_of(caught.value).journal == "wal"

    use(url(path), body)


def begin_by_hand(engine):
    """SQLAlchemy's recipe for SQLite: no transactions of the driver, and a BEGIN of one's own."""

    @event.listens_for(engine, "connect")
    def connect(dbapi, record):
        dbapi.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection):
        connection.exec_driver_sql("BEGIN")


def rolled_back(engine):
    with engine.connect() as connection:
        add(connection, 1)
        connection.rollback()
        add(connection, 2)
        connection.commit()


@pytest.mark.skipif(
    not hasattr(create_engine("sqlite://").dialect, "skip_autocommit_rollback"),
    reason="this SQLAlchemy cannot skip ROLLBACK",
)
def test_skip_autocommit_rollback_skips_no_rollback_that_is_needed(path):
    options = {"skip_autocommit_rollback": True}

    def bare(engine):
        begin_by_hand(engine)
        rolled_back(engine)

    def guarded(engine):
        begin_by_hand(engine)
        rolled_back(install(engine))

    with pytest.raises(OperationalError, match="within a transaction"):
        use(url(path), bare, **options)
    use(url(path), guarded, **options)
    assert rows(path) == [2]


def test_begin_by_hand_is_guarded(path):
    """Here the next statement would commit by itself."""

    def body(engine):
        begin_by_hand(engine)
        install(engine)
        with pytest.raises(TransactionPoisonedError):
            half(engine, or_rollback)

    use(url(path), body)
    assert rows(path) == []


def test_a_connection_that_all_share(path):
    def body(engine):
        install(engine)
        META.create_all(engine)
        with Session(engine) as first, Session(engine) as second:
            add(first, 1)
            or_rollback(first)
            with pytest.raises(TransactionPoisonedError):
                add(second, 2)
            with pytest.raises(TransactionPoisonedError):
                add(first, 2)
            first.rollback()
            second.rollback()
            add(first, 3)
            first.commit()
            assert first.scalars(select(ITEM.c.id)).all() == [3]

    engine = create_engine(
        "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )
    body(engine)
    engine.dispose()


def test_memory_in_many_threads():
    engine = install(create_engine("sqlite://"))
    seen = []

    def run(number):
        with engine.connect() as connection:
            META.create_all(connection)
            add(connection, number)
            connection.commit()
            seen.extend(connection.scalars(select(ITEM.c.id)))
            connection.detach()  # Closed with the thread.

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == [0, 1, 2, 3]
    engine.dispose()


@pytest.mark.parametrize("reset", ["rollback", "commit", None])
def test_the_pool_s_reset_leaves_a_clean_connection(path, reset):
    def body(engine):
        install(engine)
        with engine.connect() as connection:
            add(connection, 1)
            or_rollback(connection)
        with engine.begin() as connection:
            add(connection, 2)

    use(url(path), body, pool_size=1, max_overflow=0, pool_reset_on_return=reset)
    assert rows(path) == [2]


def test_pre_ping(path):
    def body(engine):
        install(engine)
        for number in (1, 2):
            with engine.begin() as connection:
                add(connection, number)

    use(url(path), body, pool_pre_ping=True)
    assert rows(path) == [1, 2]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sqlite3 has `autocommit` from Python 3.12")
@pytest.mark.parametrize("autocommit", [True, False])
def test_the_autocommit_attribute(path, autocommit):
    def body(engine):
        install(engine)
        with engine.connect() as connection:
            add(connection, 1)
            or_rollback(connection)
            if autocommit:
                add(connection, 2)
            else:
                with pytest.raises(TransactionPoisonedError):
                    add(connection, 2)
                connection.rollback()
                add(connection, 2)
            connection.commit()

    use(url(path), body, connect_args={"autocommit": autocommit})
    assert rows(path) == ([1, 2] if autocommit else [2])
