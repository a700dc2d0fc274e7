"""Who has the turn of a file, who waits for it, and every way in which it is given back."""

from __future__ import annotations

import contextvars
import gc
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from sqlite_support import (
    Item,
    insert,
    is_free,
    make_database,
    names,
    outsider,
    turn_elsewhere,
    with_turns,
)
from turnwise import TurnLock, on_event
from turnwise.errors import LockTimeoutError, TurnReenteredError

COUNT = sa.select(sa.func.count()).select_from(Item)


@pytest.fixture
def path(tmp_path):
    return make_database(tmp_path)


@pytest.fixture
def make_engine(path):
    engines = []

    def make(*, timeout=0.2, begin="auto", **options):
        engine = sa.create_engine(f"sqlite:///{path}", **options)
        with_turns(engine, timeout=timeout, begin=begin)
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.dispose()


@pytest.fixture
def engine(make_engine):
    return make_engine()


def close(connection):
    connection.close()


def invalidate(connection):
    connection.invalidate()


def raw_rollback(connection):
    connection.get_transaction().rollback()


def detach(connection):
    connection.detach()
    connection.close()


def statement(connection):
    connection.exec_driver_sql("ROLLBACK")


@pytest.mark.parametrize("end", [close, invalidate, raw_rollback, detach, statement])
def test_whatever_ends_the_transaction_gives_the_turn_back(path, engine, end):
    connection = engine.connect()
    connection.execute(insert("tea"))
    assert not is_free(path)
    end(connection)
    assert is_free(path)
    connection.close()
    assert names(path) == []
    with engine.begin() as connection:
        connection.execute(insert("coffee"))
    assert is_free(path)
    assert names(path) == ["coffee"]


def test_a_soft_invalidated_connection_keeps_its_turn_until_its_end(path, engine):
    with engine.connect() as connection:
        connection.execute(insert("tea"))
        connection.connection.invalidate(soft=True)
        assert not is_free(path)
        connection.commit()
        assert is_free(path)
    with engine.begin() as connection:
        connection.execute(insert("coffee"))
    assert names(path) == ["tea", "coffee"]


def test_a_forgotten_connection_gives_its_turn_back(path, engine):
    connection = engine.connect()
    connection.execute(insert("tea"))
    del connection
    gc.collect()
    assert is_free(path)
    assert names(path) == []


def test_a_forgotten_engine_gives_its_turn_back(path):
    engine = sa.create_engine(f"sqlite:///{path}")
    with_turns(engine)
    connection = engine.connect()
    connection.execute(insert("tea"))
    raw = connection.connection.driver_connection
    del connection, engine
    gc.collect()
    assert is_free(path)
    raw.close()  # Python 3.13 warns of one that nobody has closed.


def test_a_turn_is_given_back_once(path, engine):
    with engine.connect() as connection:
        connection.execute(insert("tea"))
        connection.commit()
        with turn_elsewhere(path):
            connection.rollback()
            connection.close()
            engine.dispose()
            gc.collect()
            assert not is_free(path)


def test_a_write_waits_for_the_turn(path, make_engine):
    engine = make_engine(timeout=5)
    with turn_elsewhere(path, 0.2):
        start = time.monotonic()
        with engine.begin() as connection:
            connection.execute(insert("tea"))
        assert 0.1 < time.monotonic() - start < 2
    assert names(path) == ["tea"]


def test_a_write_waits_for_an_outsider_and_says_so(path, make_engine):
    heard, told = [], threading.Event()

    def hear(event):
        if event.path == str(path):
            heard.append(event)
            if event.kind == "recovery":
                told.set()

    engine = make_engine(timeout=5)
    with on_event(hear), outsider(path, 0.2):
        with engine.begin() as connection:
            connection.execute(insert("tea"))
        assert told.wait(5)
    assert names(path) == ["tea"]
    assert [event.kind for event in heard] == ["retry", "recovery"]
    assert {event.code for event in heard} == {5}
    assert "tea" not in repr(heard)


def test_who_waits_too_long_is_told_who_has_the_turn(path, engine):
    with TurnLock(path).turn(timeout=1), outsider(path):
        caught = []

        def write():
            try:
                with engine.begin() as connection:
                    connection.execute(insert("tea"))
            except sa.exc.OperationalError as error:
                caught.append(error)

        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
    (error,) = caught
    assert isinstance(error.orig, LockTimeoutError)
    assert error.orig.sqlite_errorcode == 5
    assert "test_sqlite_turns.py" in str(error.orig)
    assert "nothing was written" in str(error.orig)
    assert "tea" not in str(error.orig)
    assert not error.connection_invalidated


def test_two_sessions_of_a_thread_that_would_wait_for_each_other(path, engine):
    with Session(engine) as one, Session(engine) as other:
        one.add(Item(name="tea"))
        one.flush()
        other.add(Item(name="coffee"))
        start = time.monotonic()
        with pytest.raises(sa.exc.OperationalError) as caught:
            other.flush()
        assert time.monotonic() - start < 0.15
        assert isinstance(caught.value.orig, TurnReenteredError)
        assert str(caught.value.orig).count("test_sqlite_turns.py:") == 2
        one.commit()
        other.rollback()
        other.add(Item(name="coffee"))
        other.commit()
    assert names(path) == ["tea", "coffee"]


def test_so_it_is_with_two_engines(make_engine):
    with make_engine().begin() as one, make_engine().connect() as other:
        one.execute(insert("tea"))
        with pytest.raises(sa.exc.OperationalError, match="would wait for itself"):
            other.execute(insert("coffee"))


def test_a_pools_thread_that_works_for_somebody_else_waits(path, make_engine):
    """A web framework runs one request's functions in several threads of a pool."""
    engine = make_engine(timeout=10)
    first, second = contextvars.copy_context(), contextvars.copy_context()
    session = Session(engine)

    def begin():
        session.add(Item(name="tea"))
        session.flush()

    def write():
        with Session(engine) as other:
            other.add(Item(name="coffee"))
            other.commit()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(first.run, begin).result()
        written = thread.submit(second.run, write)
        time.sleep(0.1)
        assert not written.done()
        session.commit()
        session.close()
        written.result(5)
    assert names(path) == ["tea", "coffee"]


def test_a_transaction_may_end_in_another_thread(path, make_engine):
    engine = make_engine(timeout=5)
    connection = engine.connect()
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        one.submit(connection.execute, insert("tea")).result()
        other.submit(connection.commit).result()
        assert is_free(path)
        one.submit(connection.execute, insert("coffee")).result()
        other.submit(connection.close).result()
    assert names(path) == ["tea"]


@pytest.fixture
def rollback_journal(make_engine):
    engine = make_engine(timeout=5)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode = delete").scalar() == "delete"
    return engine


def test_commit_waits_for_readers_while_the_transaction_is_open(path, rollback_journal):
    reading = "BEGIN; SELECT * FROM item"
    with outsider(path, 0.2, sql=reading), Session(rollback_journal) as session:
        session.add(Item(name="tea"))
        session.commit()
    assert names(path) == ["tea"]


def test_commit_gives_up_after_the_timeout_and_says_so(path, make_engine, rollback_journal):
    layer = with_turns(rollback_journal, timeout=0.1)
    rollback_journal.dispose()
    with outsider(path, sql="BEGIN; SELECT * FROM item"):
        with Session(rollback_journal) as session:
            session.add(Item(name="tea"))
            with pytest.raises(sa.exc.OperationalError, match="locked"):
                session.commit()
            session.rollback()
        assert is_free(path)
        assert layer.stats()[0].commit_retries > 0
    assert names(path) == []


def test_a_reader_waits_for_a_commit(path, rollback_journal):
    with outsider(path, 0.2, sql="BEGIN EXCLUSIVE"), Session(rollback_journal) as session:
        assert session.scalar(COUNT) == 0


def test_every_statement_of_autocommit_takes_a_turn_of_its_own(path, make_engine):
    engine = make_engine(timeout=5, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        with turn_elsewhere(path, 0.2):
            connection.execute(insert("tea"))
        assert is_free(path)
        assert connection.execute(COUNT).scalar() == 1
        with outsider(path, 0.2):
            connection.execute(insert("coffee"))
        with outsider(path, 0.2):
            connection.execute(sa.insert(Item), [{"name": "milk"}, {"name": "sugar"}])
        assert is_free(path)
        result = connection.execute(
            sa.text("INSERT INTO item (name) VALUES ('a'), ('b') RETURNING name")
        )
        with sqlite3.connect(path, timeout=0) as other:
            other.execute("INSERT INTO item (name) VALUES ('not locked')")
        other.close()
        assert result.scalars().all() == ["a", "b"]
        connection.rollback()
    assert names(path) == ["tea", "coffee", "milk", "sugar", "a", "b", "not locked"]


def test_rows_of_autocommit_that_have_landed_are_not_sent_again(path, make_engine):
    engine = make_engine(timeout=5, isolation_level="AUTOCOMMIT")
    statements, threads = [], []

    def lock_out(statement):
        """Before the second row another connection takes SQLite's lock for a while."""
        if statement.startswith("INSERT"):
            statements.append(statement)
            if len(statements) == 2:
                threads.append(threading.Thread(target=hold, args=(has,)))
                threads[0].start()
                assert has.wait(5)

    def hold(has):
        with outsider(path):
            has.set()
            time.sleep(0.2)

    has = threading.Event()
    with engine.connect() as connection:
        connection.execute(COUNT)
        connection.connection.driver_connection.set_trace_callback(lock_out)
        connection.execute(sa.insert(Item), [{"name": name} for name in ("tea", "milk", "sugar")])
    threads[0].join()
    assert names(path) == ["tea", "milk", "sugar"]
