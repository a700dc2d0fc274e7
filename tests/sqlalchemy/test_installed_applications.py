"""What healthy applications do with their engines, and what `install` must not get in the way of."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.pool import QueuePool

from engines import use
from servers import DRIVERS
from sqlite_support import Item, insert, is_free, make_database, names, with_turns
from turnwise import TurnLock
from turnwise.sqlalchemy.installing import install, uninstall


@pytest.fixture
def path(tmp_path):
    return make_database(tmp_path)


@pytest.fixture
def engine(path):
    engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 2})
    with_turns(engine)
    yield engine
    engine.dispose()


def detached_before_and_after(engine):
    with engine.connect() as connection:
        connection.detach()
        connection.execute(sa.text("INSERT INTO item (id, name) VALUES (1, 'tea')"))
        connection.commit()
    with engine.connect() as connection:
        connection.execute(sa.text("INSERT INTO item (id, name) VALUES (2, 'milk')"))
        connection.detach()
        with pytest.raises(sa.exc.DBAPIError), connection.begin_nested():
            connection.execute(sa.text("INSERT INTO item (id, name) VALUES (2, 'again')"))
        connection.commit()
        connection.execute(sa.text("INSERT INTO item (id, name) VALUES (3, 'lost')"))


@pytest.mark.parametrize("driver", ["pysqlite", "aiosqlite"])
def test_a_detached_sqlite_connection_works_and_leaves_its_turn(path, driver):
    url = sa.make_url(f"sqlite+{driver}:///{path}")
    use(url, lambda engine: detached_before_and_after(install(engine)))
    assert names(path) == ["tea", "milk"]
    assert is_free(path)


@pytest.mark.filterwarnings("ignore:.*deleted while still open")  # SQLAlchemy terminates it so.
@pytest.mark.parametrize("driver", DRIVERS)
def test_a_detached_connection_of_a_server_works(request, driver):
    server = request.getfixturevalue(DRIVERS[driver])
    with server.database() as name:
        server.sql(name, "CREATE TABLE item (id INT PRIMARY KEY, name VARCHAR(9))")
        use(server.url(driver, name), lambda engine: detached_before_and_after(install(engine)))
        found = server.sql(name, "SELECT id FROM item ORDER BY id")
    assert [id_ for (id_,) in found] == [1, 2]


def begin_by_listener(engine, sql):
    """What SQLAlchemy's documentation has for SQLite: the application sends BEGIN itself."""

    @event.listens_for(engine, "connect")
    def leave_transactions_to_us(connection, record):
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def send_begin(connection):
        connection.exec_driver_sql(sql)


@pytest.mark.parametrize("driver", ["pysqlite", "aiosqlite"])
@pytest.mark.parametrize("sql", ["BEGIN", "BEGIN IMMEDIATE"])
def test_a_file_is_put_into_wal_mode_where_a_listener_begins(tmp_path, driver, sql, caplog):
    path = make_database(tmp_path, journal="delete")

    def work(engine):
        begin_by_listener(engine, sql)
        install(engine)
        with engine.begin() as connection:
            connection.execute(insert("tea"))
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"

    with caplog.at_level(logging.WARNING, "turnwise"):
        use(sa.make_url(f"sqlite+{driver}:///{path}"), work)
    assert not caplog.records
    assert names(path) == ["tea"]


def test_the_first_transaction_of_a_connection_that_a_listener_begins_takes_its_turn_first(path):
    engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 2})
    begin_by_listener(engine, "BEGIN IMMEDIATE")
    layer = with_turns(engine)
    has_begun, errors = threading.Event(), []

    def first_on_its_connection():
        try:
            with engine.begin() as connection:
                has_begun.set()
                time.sleep(0.2)
                connection.execute(insert("tea"))
        except sa.exc.OperationalError as error:
            errors.append(error)

    with engine.connect() as known:
        known.execute(sa.select(Item)).all()
        known.rollback()
        thread = threading.Thread(target=first_on_its_connection)
        thread.start()
        assert has_begun.wait(5)
        with known.begin():
            known.execute(insert("milk"))
        thread.join()
    assert not errors
    assert layer.stats()[0].lock_retries == 0
    engine.dispose()


def test_an_uninstall_while_a_statement_waits_for_its_turn_leaves_nothing_held(path):
    engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 20})
    with_turns(engine)
    with engine.begin() as connection:
        connection.execute(sa.insert(Item).values(id=1, name="tea"))
    errors, timeouts = [], []

    def write():
        with engine.connect() as connection:
            try:
                connection.execute(sa.insert(Item).values(id=1, name="again"))
            except sa.exc.IntegrityError as error:
                errors.append(error)  # Its frames know the connection that waited.
            connection.rollback()
            timeouts.append(connection.exec_driver_sql("PRAGMA busy_timeout").scalar())

    thread = threading.Thread(target=write)
    with TurnLock(path).turn(timeout=5):
        thread.start()
        time.sleep(0.3)
        uninstall(engine)
    thread.join()
    assert (len(errors), timeouts) == (1, [20_000])
    assert is_free(path)
    engine.dispose()


class Proxy:
    """What tracers put around a connection, as `wrapt` does."""

    def __init__(self, inner):
        vars(self)["_inner"] = inner

    @property
    def __class__(self):
        return type(self._inner)

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def __setattr__(self, name, value):
        setattr(self._inner, name, value)


class Unwrapped(Proxy):
    @property
    def __wrapped__(self):
        return self._inner


@pytest.mark.parametrize(("kind", "takes_turns"), [(Proxy, False), (Unwrapped, True)])
def test_a_connection_that_a_tracer_has_wrapped_works(path, kind, takes_turns):
    engine = sa.create_engine(
        "sqlite://",
        creator=lambda: kind(sqlite3.connect(path, check_same_thread=False)),
        poolclass=QueuePool,
    )
    with_turns(engine)
    with engine.begin() as connection:
        connection.execute(insert("tea"))
        assert is_free(path) is not takes_turns
    with engine.connect() as connection:
        connection.execute(insert("lost"))
    assert names(path) == ["tea"]
    assert is_free(path)
    engine.dispose()
