"""What engines and drivers can be set to, and what an uninstall leaves."""

from __future__ import annotations

import gc
import logging
import os
import sqlite3
import sys

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool, SingletonThreadPool, StaticPool

from sqlite_support import (
    Base,
    Item,
    insert,
    is_free,
    make_database,
    names,
    outsider,
    sent,
    with_turns,
)
from turnwise.sqlalchemy.installing import uninstall

COUNT = sa.select(sa.func.count()).select_from(Item)


@pytest.fixture
def path(tmp_path):
    return make_database(tmp_path)


def side_files(path):
    return sorted(name for name in os.listdir(path.parent) if "-turn" in name)


def pragma(connection, name):
    raw = connection.connection.driver_connection
    return sqlite3.Cursor(raw).execute(f"PRAGMA {name}").fetchone()[0]


def test_a_file_is_put_into_wal_mode(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'new.db'}")
    with_turns(engine)
    Base.metadata.create_all(engine)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    engine.dispose()


def test_a_file_that_cannot_be_changed_says_so_and_goes_on(tmp_path, caplog):
    path = make_database(tmp_path, journal="delete")
    engine = sa.create_engine(f"sqlite:///{path}")
    with_turns(engine)
    reading = outsider(path, sql="BEGIN; SELECT * FROM item")
    with reading, caplog.at_level(logging.WARNING, "turnwise"), engine.connect() as connection:
        assert connection.execute(COUNT).scalar() == 0
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "delete"
    assert [str(path) in record.getMessage() for record in caplog.records] == [True]
    with engine.connect(), engine.begin() as connection:
        connection.execute(insert("tea"))
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    engine.dispose()


def test_the_drivers_own_wait_is_ours_and_comes_back(path):
    engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 0.3})
    layer = with_turns(engine)
    with engine.connect() as connection:
        connection.execute(COUNT)
        assert pragma(connection, "busy_timeout") == 0
        (known,) = layer._connections
        assert known.timeout == 0.3
        connection.exec_driver_sql("PRAGMA busy_timeout = 200")
        assert known.timeout == 0.2
        assert pragma(connection, "busy_timeout") == 0
        uninstall(engine)
        assert pragma(connection, "busy_timeout") == 200
        assert not [key for key in connection.connection.info if "turnwise" in str(key)]
    engine.dispose()


def test_uninstalled_in_the_middle_of_a_transaction(path):
    engine = sa.create_engine(f"sqlite:///{path}")
    before = listeners(engine)
    with_turns(engine)
    assert listeners(engine) != before
    own = {"do_begin", "do_commit", "do_rollback", "do_execute", "do_executemany"}
    with engine.connect() as open_, engine.connect() as begun:
        open_.execute(insert("tea"))
        begun.begin()
        uninstall(engine)
        assert is_free(path)
        open_.commit()
        begun.execute(insert("coffee"))
        begun.rollback()
        begun.execute(insert("milk"))
        begun.commit()
    assert not own & set(vars(engine.dialect))
    assert listeners(engine) == before
    assert names(path) == ["tea", "milk"]
    engine.dispose()


def listeners(engine):
    pool = engine.pool.dispatch
    return [list(of) for of in (pool.close, pool.reset, engine.dialect.dispatch.handle_error)]


@pytest.mark.parametrize("level", ["", "DEFERRED", "IMMEDIATE", "EXCLUSIVE"])
def test_the_isolation_level_of_the_driver(path, level):
    engine = sa.create_engine(f"sqlite:///{path}", connect_args={"isolation_level": level})
    with_turns(engine, timeout=0.1)
    with engine.connect() as connection:
        statements = sent(connection)
        connection.execute(COUNT)
        connection.rollback()
        connection.execute(insert("tea"))
        connection.rollback()
        word = "EXCLUSIVE" if level == "EXCLUSIVE" else "IMMEDIATE"
        assert [s for s in statements if "BEGIN" in s] == ["BEGIN", f"BEGIN {word}"]
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(insert("coffee"))
        connection.rollback()
    with engine.connect() as connection:  # The pool has reset the level.
        connection.execute(insert("milk"))
        assert not is_free(path)
        connection.rollback()
    assert names(path) == ["coffee"]
    engine.dispose()


def test_a_driver_in_autocommit_is_left_in_it(path):
    engine = sa.create_engine(f"sqlite:///{path}", connect_args={"isolation_level": None})
    with_turns(engine)
    with engine.connect() as connection:
        connection.execute(insert("tea"))
        assert is_free(path)
        connection.rollback()
    assert names(path) == ["tea"]
    engine.dispose()


@pytest.mark.parametrize("word", ["BEGIN", "BEGIN IMMEDIATE"])
def test_an_application_that_begins_by_itself(path, word):
    engine = sa.create_engine(f"sqlite:///{path}")

    @event.listens_for(engine, "connect")
    def leave_alone(connection, record):
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection):
        connection.exec_driver_sql(word)

    with_turns(engine)
    with Session(engine) as session:
        session.add(Item(name="tea"))
        session.flush()
        assert not is_free(path)
        session.rollback()
        assert is_free(path)
        session.add(Item(name="coffee"))
        session.commit()
        assert is_free(path)
    assert names(path) == ["coffee"]
    engine.dispose()


def test_skip_autocommit_rollback_skips_no_rollback_of_ours(path):
    engine = sa.create_engine(f"sqlite:///{path}", skip_autocommit_rollback=True)
    with_turns(engine)
    connection = engine.raw_connection()
    connection.cursor().execute("INSERT INTO item (name) VALUES ('raw')")
    connection.close()
    with engine.connect() as connection:
        connection.execute(insert("tea"))
        connection.close()
    assert is_free(path)
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(insert("coffee"))
    with engine.begin() as connection:
        connection.execute(insert("milk"))
    assert names(path) == ["coffee", "milk"]
    engine.dispose()


@pytest.mark.parametrize("reset", ["rollback", "commit", None])
def test_the_pools_reset_gives_the_turn_back(path, reset):
    engine = sa.create_engine(f"sqlite:///{path}", pool_reset_on_return=reset)
    with_turns(engine)
    with engine.connect() as connection:
        connection.execute(insert("tea"))
    assert is_free(path)
    with engine.connect() as connection:
        connection.execute(insert("coffee"))
        connection.rollback()
        connection.exec_driver_sql("BEGIN")
        connection.execute(insert("milk"))
    assert is_free(path)
    assert names(path) == []
    engine.dispose()


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("sqlite://", {}),
        ("sqlite:///:memory:", {"poolclass": StaticPool}),
        ("sqlite:///file:shared?mode=memory&cache=shared&uri=true", {"poolclass": NullPool}),
        ("sqlite:///{path}", {"poolclass": StaticPool}),
        ("sqlite:///{path}", {"poolclass": SingletonThreadPool}),
        ("sqlite:///file:{path}?cache=shared&uri=true", {}),
        ("sqlite:///file:{path}?mode=ro&uri=true", {}),
        ("sqlite:///file:{path}?immutable=1&uri=true", {}),
    ],
)
def test_where_nobody_else_writes_nothing_is_changed(path, url, options):
    engine = sa.create_engine(url.format(path=path), **options)
    layer = with_turns(engine)
    with engine.connect() as connection:
        statements = sent(connection)
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1
        assert pragma(connection, "busy_timeout") == 5000
        assert statements == ["SELECT 1", "PRAGMA busy_timeout"]
        if "mode=ro" not in url and "immutable" not in url:
            connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS item (id INTEGER, name TEXT)")
            connection.execute(insert("tea"))
            connection.commit()
            assert connection.execute(sa.select(Item.name)).scalars().all() == ["tea"]
        else:
            with pytest.raises(sa.exc.OperationalError, match="readonly"):
                connection.execute(insert("tea"))
        assert layer.stats() == []
        uninstall(engine)
        assert not [key for key in connection.connection.info if "turnwise" in str(key)]
    assert side_files(path) == []
    engine.dispose()


def test_a_file_named_by_a_uri_takes_turns(path):
    engine = sa.create_engine(f"sqlite:///file:{path}?mode=rw&uri=true")
    with_turns(engine)
    with engine.begin() as connection:
        connection.execute(insert("tea"))
        assert not is_free(path)
    assert names(path) == ["tea"]
    engine.dispose()


def test_a_file_that_cannot_be_written_takes_turns_in_vain(path):
    def creator():
        return sqlite3.connect(f"file:{path}?mode=ro", uri=True, check_same_thread=False)

    engine = sa.create_engine("sqlite://", creator=creator, poolclass=NullPool)
    with_turns(engine)
    with engine.connect() as connection:
        assert connection.execute(COUNT).scalar() == 0
        connection.rollback()
        with pytest.raises(sa.exc.OperationalError, match="readonly"):
            connection.execute(insert("tea"))
        connection.rollback()
        assert is_free(path)
    engine.dispose()


def test_connections_of_the_drop_in_take_turns_by_themselves(path):
    from turnwise import sqlite3 as drop_in

    engine = sa.create_engine(f"sqlite:///{path}", module=drop_in)
    layer = with_turns(engine)
    with engine.begin() as connection:
        connection.execute(insert("tea"))
        assert not is_free(path)
    assert is_free(path)
    assert layer.stats() == []
    engine.dispose()


def test_a_connection_that_was_busy_when_turns_came(path):
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        connection.execute(insert("tea"))
        layer = with_turns(engine)
        connection.execute(insert("coffee"))
        connection.commit()
        assert layer.stats() == []
        connection.execute(insert("milk"))
        assert not is_free(path)
        connection.commit()
    assert names(path) == ["tea", "coffee", "milk"]
    engine.dispose()


def test_a_child_process_has_turns_of_its_own(path):
    engine = sa.create_engine(f"sqlite:///{path}")
    with_turns(engine, timeout=10)
    with engine.begin() as connection:
        connection.execute(insert("before"))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            engine.dispose(close=False)
            for _ in range(20):
                with engine.begin() as own:
                    own.execute(insert("child"))
            code = 0
        finally:
            os._exit(code)
    for _ in range(20):
        with engine.begin() as connection:
            connection.execute(insert("parent"))
    assert os.waitpid(child, 0)[1] == 0
    assert sorted(names(path)) == ["before", *["child"] * 20, *["parent"] * 20]
    engine.dispose()


needs_autocommit = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="NOT run: sqlite3 has `autocommit` from Python 3.12 on"
)


@needs_autocommit
def test_autocommit_false_keeps_its_deferred_transactions(path):
    engine = sa.create_engine(f"sqlite:///{path}", connect_args={"autocommit": False})
    with_turns(engine, timeout=5)
    with engine.connect() as connection:
        assert connection.execute(COUNT).scalar() == 0
        assert is_free(path)
        connection.rollback()
        with outsider(path, 0.2):
            connection.execute(insert("tea"))
        assert not is_free(path)
        connection.commit()
        assert is_free(path)
        connection.execute(insert("coffee"))
        connection.rollback()
        assert is_free(path)
    assert names(path) == ["tea"]
    engine.dispose()


@needs_autocommit
def test_autocommit_true_is_left_in_it(path):
    engine = sa.create_engine(f"sqlite:///{path}", connect_args={"autocommit": True})
    with_turns(engine)
    with engine.connect() as connection:
        connection.execute(insert("tea"))
        assert is_free(path)
        connection.rollback()
    assert names(path) == ["tea"]
    engine.dispose()


def test_an_engine_with_options_may_go_before_the_other(path):
    engine = sa.create_engine(f"sqlite:///{path}")
    other = engine.execution_options(turnwise_begin="immediate")
    with_turns(other)
    del other
    gc.collect()
    with engine.connect() as connection:
        connection.execute(COUNT)
        uninstall(engine)
        assert pragma(connection, "busy_timeout") == 5000
    assert not list(engine.pool.dispatch.close)
    engine.dispose()


def test_a_wait_that_timed_out_leaves_nothing_either(path):
    engine = sa.create_engine(f"sqlite:///{path}")
    with_turns(engine, timeout=0.05)
    assert not engine.dialect._has_events
    for _ in range(2):
        with outsider(path), engine.connect() as connection:
            with pytest.raises(sa.exc.OperationalError) as caught:
                connection.execute(insert("tea"))
            assert not caught.value.connection_invalidated
    uninstall(engine)
    assert "_has_events" not in vars(engine.dialect)
    assert not list(engine.dialect.dispatch.handle_error)
    with_turns(engine, timeout=0.05)
    event.listen(engine, "handle_error", lambda context: None)
    with outsider(path), engine.connect() as connection, pytest.raises(sa.exc.OperationalError):
        connection.execute(insert("tea"))
    uninstall(engine)
    assert engine.dialect._has_events
    engine.dispose()
