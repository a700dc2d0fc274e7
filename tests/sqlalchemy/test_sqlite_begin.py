"""When a transaction of a SQLite engine begins, and how."""

from __future__ import annotations

import sqlite3
import sys
import time

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from sqlite_support import (
    Item,
    insert,
    is_free,
    make_database,
    names,
    outsider,
    sent,
    turn_elsewhere,
    with_turns,
)
from turnwise.errors import InvalidSettingError, LockTimeoutError

COUNT = sa.select(sa.func.count()).select_from(Item)


@pytest.fixture
def path(tmp_path):
    return make_database(tmp_path)


@pytest.fixture
def make_engine(path):
    engines = []

    def make(timeout):
        engine = sa.create_engine(f"sqlite:///{path}")
        with_turns(engine, timeout=timeout)
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.dispose()


@pytest.fixture
def engine(make_engine):
    return make_engine(timeout=0.2)


def begins(statements):
    return [text for text in statements if text.startswith("BEGIN")]


def test_a_transaction_begins_with_its_first_statement(engine):
    with engine.connect() as connection:
        statements = sent(connection)
        with connection.begin():
            assert begins(statements) == []
            connection.execute(COUNT)
            assert begins(statements) == ["BEGIN"]
        statements.clear()
        with connection.begin():
            connection.execute(insert("tea"))
            connection.execute(COUNT)
        assert begins(statements) == ["BEGIN IMMEDIATE"]


def test_a_read_waits_for_nobody(path, engine):
    with outsider(path), turn_elsewhere(path):
        start = time.monotonic()
        with Session(engine) as session:
            assert session.scalar(COUNT) == 0
        assert time.monotonic() - start < 0.15


def test_a_write_has_the_turn_until_the_transaction_ends(path, engine):
    with engine.connect() as connection:
        connection.execute(insert("tea"))
        assert not is_free(path)
        connection.commit()
        assert is_free(path)
        connection.execute(insert("coffee"))
        assert not is_free(path)
        connection.rollback()
        assert is_free(path)
    assert names(path) == ["tea"]


def test_a_transaction_that_has_read_cannot_write_what_another_has_changed(path, engine):
    with Session(engine) as session:
        session.scalar(COUNT)
        with sqlite3.connect(path) as other:
            other.execute("INSERT INTO item (name) VALUES ('tea')")
        other.close()
        session.add(Item(name="coffee"))
        start = time.monotonic()
        with pytest.raises(sa.exc.OperationalError, match="turnwise_begin='immediate'") as caught:
            session.flush()
        assert time.monotonic() - start < 0.15
        assert type(caught.value.orig) is sqlite3.OperationalError
        assert getattr(caught.value.orig, "sqlite_errorcode", 517) == 517
        session.rollback()
        session.add(Item(name="coffee"))
        session.commit()
    assert names(path) == ["tea", "coffee"]


def test_a_transaction_that_can_never_write_keeps_no_turn(path, engine):
    with engine.connect() as connection:
        connection.execute(COUNT)
        with engine.begin() as other:
            other.execute(insert("tea"))
        with pytest.raises(sa.exc.OperationalError, match="turnwise_begin='immediate'"):
            connection.execute(insert("coffee"))
        assert is_free(path)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="sqlite3 of Python 3.10 has no error codes")
def test_a_begin_behind_an_unfinished_select_fails_at_once(path, make_engine):
    engine = make_engine(timeout=5)
    with engine.begin() as connection:
        connection.execute(insert("tea"))
        connection.execute(insert("coffee"))
    with engine.connect() as connection:
        cursor = connection.connection.driver_connection.execute("SELECT * FROM item")
        cursor.fetchone()
        with sqlite3.connect(path) as other:
            other.execute("DELETE FROM item")
        other.close()
        start = time.monotonic()
        with pytest.raises(sa.exc.OperationalError) as caught:
            connection.execute(insert("milk"))
        assert time.monotonic() - start < 2
        assert caught.value.orig.sqlite_errorcode == 517
        assert is_free(path)
        cursor.close()
        connection.execute(insert("milk"))
        connection.commit()
    assert names(path) == ["milk"]


def test_a_write_after_a_read_does_not_wait_for_the_turn(path, engine):
    with Session(engine) as session, turn_elsewhere(path):
        session.scalar(COUNT)
        session.add(Item(name="tea"))
        start = time.monotonic()
        session.commit()
        assert time.monotonic() - start < 0.15
    assert names(path) == ["tea"]


def test_a_savepoint_that_comes_first_is_inside_of_the_transaction(path, engine):
    with engine.connect() as connection:
        with connection.begin_nested():
            connection.execute(insert("tea"))
        assert not is_free(path)
        connection.rollback()
    assert names(path) == []
    with Session(engine) as session:
        with session.begin_nested():
            session.add(Item(name="tea"))
        nested = session.begin_nested()
        session.add(Item(name="coffee"))
        session.flush()
        nested.rollback()
        session.commit()
    assert names(path) == ["tea"]


def test_a_savepoint_waits_for_the_lock_at_its_first_write(path, engine):
    with engine.connect() as connection, outsider(path, 0.1):
        with connection.begin_nested():
            connection.execute(insert("tea"))
        connection.commit()
    assert names(path) == ["tea"]


def test_tables_are_made_in_the_transaction(path, engine):
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE other (id INTEGER)")
        assert not is_free(path)
        connection.rollback()
        assert sa.inspect(connection).get_table_names() == ["item"]


def test_pragmas_run_outside_of_a_transaction_that_has_not_begun(path, engine):
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA foreign_keys = ON")
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        connection.exec_driver_sql("PRAGMA user_version = 7")
        assert is_free(path)
        connection.rollback()
        assert connection.exec_driver_sql("PRAGMA user_version").scalar() == 7
        connection.exec_driver_sql("VACUUM")
        assert connection.exec_driver_sql("PRAGMA journal_mode = delete").scalar() == "delete"
        connection.execute(insert("tea"))
        connection.rollback()
    assert names(path) == []


def test_the_first_statement_after_a_pragma_begins(engine):
    with engine.connect() as connection:
        statements = sent(connection)
        connection.exec_driver_sql("PRAGMA foreign_keys")
        connection.execute(insert("tea"))
        assert begins(statements) == ["BEGIN IMMEDIATE"]


def test_with_a_database_attached_transactions_begin_deferred(path, engine, tmp_path):
    with engine.connect() as connection:
        statements = sent(connection)
        connection.exec_driver_sql(f"ATTACH '{tmp_path / 'other.db'}' AS other")
        connection.execute(insert("tea"))
        assert begins(statements) == ["BEGIN"]
        assert not is_free(path)
        connection.commit()
        connection.exec_driver_sql("DETACH other")
        connection.execute(insert("coffee"))
        assert begins(statements) == ["BEGIN", "BEGIN IMMEDIATE"]
        connection.commit()
    assert names(path) == ["tea", "coffee"]


def test_a_transaction_that_is_begun_by_hand_is_followed(path, engine):
    with engine.connect() as connection:
        statements = sent(connection)
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        assert not is_free(path)
        connection.exec_driver_sql("COMMIT")
        assert is_free(path)
        connection.execute(insert("tea"))
        assert begins(statements) == ["BEGIN IMMEDIATE", "BEGIN IMMEDIATE"]
        connection.rollback()
    assert names(path) == []


@pytest.mark.parametrize(
    ("begin", "read", "write"),
    [
        ("auto", "BEGIN", "BEGIN IMMEDIATE"),
        ("immediate", "BEGIN IMMEDIATE", "BEGIN IMMEDIATE"),
        ("deferred", "BEGIN", "BEGIN"),
    ],
)
def test_begin_can_be_said_for_an_engine_a_connection_a_session_and_a_statement(
    path, begin, read, write
):
    def begun(make, statement, **options):
        with make() as one:
            connection = one.connection() if isinstance(one, Session) else one
            raw = connection.connection.driver_connection
            statements = sent(connection)
            one.execute(statement, execution_options=options)
            one.rollback()
            raw.set_trace_callback(None)
            return begins(statements)

    def opened():
        session = Session(plain)
        session.connection(execution_options={"turnwise_begin": begin})
        return session

    engine = sa.create_engine(f"sqlite:///{path}")
    with_turns(engine, begin=begin)
    plain = sa.create_engine(f"sqlite:///{path}")
    with_turns(plain, begin="deferred" if begin == "immediate" else "immediate")
    option = plain.execution_options(turnwise_begin=begin)
    makers = [engine.connect, option.connect, sessionmaker(option), opened]
    if sa.__version__ >= "2.1":
        makers.append(sessionmaker(plain, execution_options={"turnwise_begin": begin}))
    for make in makers:
        assert begun(make, COUNT) == [read]
        assert begun(make, insert("tea")) == [write]
    assert begun(plain.connect, COUNT, turnwise_begin=begin) == [read]
    engine.dispose()
    plain.dispose()


def test_what_no_begin_is_called_is_refused(path):
    engine = sa.create_engine(f"sqlite:///{path}")
    with pytest.raises(InvalidSettingError, match="auto.*immediate.*deferred"):
        with_turns(engine, begin="exclusive")
    with pytest.raises(InvalidSettingError, match="seconds"):
        with_turns(engine, timeout=-1)
    with_turns(engine)
    with engine.connect() as connection, pytest.raises(InvalidSettingError, match="turnwise_begin"):
        connection.execute(COUNT, execution_options={"turnwise_begin": "later"})
    engine.dispose()


def test_a_begin_that_fails_leaves_no_autocommit(path, engine):
    with engine.connect() as connection:
        with outsider(path), pytest.raises(sa.exc.OperationalError) as caught:
            connection.execute(insert("tea"))
        assert isinstance(caught.value.orig, LockTimeoutError)
        assert "takes no turns" in str(caught.value.orig)
        assert is_free(path)
        connection.execute(insert("coffee"))
        assert connection.in_transaction()
        connection.rollback()
    assert names(path) == []


def test_an_error_of_a_statement_leaves_the_transaction_open(path, engine):
    with engine.connect() as connection:
        connection.execute(sa.insert(Item).values(id=1, name="tea"))
        with pytest.raises(sa.exc.IntegrityError):
            connection.execute(sa.insert(Item).values(id=1, name="coffee"))
        assert not is_free(path)
        connection.commit()
        assert is_free(path)
    assert names(path) == ["tea"]
