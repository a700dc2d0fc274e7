"""`rollback(); commit()` sends nothing and returns: silent without `install`, loud with it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sqlite3
import threading
import weakref

import pytest
from sqlalchemy import ForeignKey, create_engine, event, insert, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    scoped_session,
    sessionmaker,
)

import turnwise
from turnwise.errors import WritesLostError
from turnwise.sqlalchemy.installing import install, uninstall


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Part(Base):
    __tablename__ = "part"
    id: Mapped[int] = mapped_column(primary_key=True)
    item: Mapped[int] = mapped_column(ForeignKey("item.id", deferrable=True, initially="DEFERRED"))


@pytest.fixture
def engine(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path}/app.db", connect_args={"timeout": 0.05})

    @event.listens_for(engine, "connect")
    def check_foreign_keys(dbapi, record):
        dbapi.execute("PRAGMA foreign_keys = ON")

    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([Item(id=1, name="a"), Item(id=2, name="b")])
        session.commit()
    yield engine
    uninstall(engine)
    engine.dispose()


@contextlib.contextmanager
def locked(engine):
    with contextlib.closing(sqlite3.connect(engine.url.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def names(engine):
    with Session(engine) as session:
        return dict(session.execute(select(Item.id, Item.name)).all())


def change(session):
    first, second = session.scalars(select(Item)).all()
    first.name = "changed"
    session.add(Item(id=3, name="new"))
    session.delete(second)


def at_flush(engine, session):
    change(session)
    with locked(engine), pytest.raises(OperationalError):
        session.commit()


def at_first_statement(engine, session):
    session.add(Item(id=3, name="new"))
    with locked(engine), pytest.raises(OperationalError):
        session.commit()


def at_commit(engine, session):
    session.add(Part(id=1, item=77))
    with pytest.raises(IntegrityError):
        session.commit()


def at_bulk_update(engine, session):
    with locked(engine), pytest.raises(OperationalError):
        session.execute(text("UPDATE item SET name = 'z'"))


def at_a_read_after_a_write(engine, session):
    session.execute(text("UPDATE item SET name = 'z'"))
    with pytest.raises(OperationalError):
        session.execute(text("SELECT nothing"))


def before_any_statement(engine, session):
    """The flush fails before it has a statement: a value that cannot be sent."""
    session.add(Item(id=3, name=object()))
    with pytest.raises(DBAPIError):
        session.flush()


FAILURES = [
    at_flush,
    at_first_statement,
    at_commit,
    at_bulk_update,
    at_a_read_after_a_write,
    before_any_statement,
]


@pytest.mark.parametrize("fail", FAILURES)
def test_the_lost_commit_is_silent_without_install(engine, fail):
    with Session(engine) as session:
        fail(engine, session)
        session.rollback()
        session.commit()
    assert names(engine) == {1: "a", 2: "b"}


@pytest.mark.parametrize("fail", FAILURES)
def test_the_lost_commit_is_logged_with_install(engine, fail, caplog):
    install(engine)
    heard, told = [], threading.Event()

    def hear(one):
        heard.append(one)
        if one.error == "WritesLost":
            told.set()

    with turnwise.on_event(hear), Session(engine) as session:
        fail(engine, session)
        session.rollback()
        session.commit()
        assert told.wait(10)
    assert [one.kind for one in heard if one.error == "WritesLost"] == ["failure"]
    lines = [line.getMessage() for line in caplog.records if "WritesLost" in line.getMessage()]
    assert len(lines) == 1
    assert "app.db" in lines[0]


@pytest.mark.parametrize("fail", FAILURES)
def test_the_lost_commit_is_raised_in_strict_mode(engine, fail):
    install(engine, strict=True)
    with Session(engine) as session:
        fail(engine, session)
        session.rollback()
        for _ in range(2):  # A loop that tries again must not get through.
            with pytest.raises(WritesLostError) as caught:
                session.commit()
            assert caught.value.__cause__ is not None
            session.rollback()
        session.add(Item(id=9, name="done again"))
        session.commit()
        session.commit()
    assert names(engine)[9] == "done again"


def test_the_loop_that_people_write_cannot_lose(engine):
    install(engine, strict=True)

    def commit_with_retry(session, attempts=3):
        for attempt in range(attempts):
            try:
                session.commit()
                return
            except Exception:
                session.rollback()
                if attempt + 1 == attempts:
                    raise

    with Session(engine) as session, locked(engine):
        session.add(Item(id=3, name="new"))
        with pytest.raises(WritesLostError):
            commit_with_retry(session)


def no_error(session):
    change(session)
    session.flush()
    session.rollback()


def only_a_read_failed(session):
    with pytest.raises(OperationalError):
        session.execute(text("SELECT nothing"))
    session.rollback()


def only_a_savepoint(session):
    with pytest.raises(IntegrityError), session.begin_nested():
        session.add(Item(id=1, name="twice"))
    session.commit()


def an_error_that_was_overcome(session):
    with pytest.raises(OperationalError):
        session.execute(text("UPDATE nothing SET a = 1"))
    session.execute(text("UPDATE item SET name = 'z'"))
    session.rollback()


def done_again(session):
    session.add(Item(id=1, name="twice"))
    with pytest.raises(IntegrityError):
        session.flush()
    session.rollback()
    session.add(Item(id=4, name="other"))
    session.commit()


def closed(session):
    session.add(Item(id=1, name="twice"))
    with pytest.raises(IntegrityError):
        session.flush()
    session.rollback()
    session.close()


def closed_at_once(session):
    session.add(Item(id=1, name="twice"))
    with pytest.raises(IntegrityError):
        session.flush()
    session.close()


QUIET = [
    no_error,
    only_a_read_failed,
    only_a_savepoint,
    an_error_that_was_overcome,
    done_again,
    closed,
    closed_at_once,
]


@pytest.mark.parametrize("story", QUIET)
def test_no_false_alarm(engine, story):
    install(engine, strict=True)
    with Session(engine) as session:
        session.get(Item, 1)
        session.commit()
        story(session)
        session.commit()
        session.commit()


def test_a_commit_of_pending_objects_is_no_empty_one(engine):
    install(engine, strict=True)
    with Session(engine) as session:
        at_flush(engine, session)
        session.rollback()
        session.add(Item(id=5, name="pending"))
        session.commit()
    assert names(engine)[5] == "pending"


def test_another_session_and_another_engine_hear_nothing(engine, tmp_path):
    install(engine, strict=True)
    other = create_engine(f"sqlite:///{tmp_path}/other.db")
    Base.metadata.create_all(other)
    with Session(engine) as lost, Session(engine) as fine, Session(other) as foreign:
        at_flush(engine, lost)
        lost.rollback()
        fine.commit()
        foreign.add_all([Item(id=1, name="a")])
        foreign.commit()
        foreign.execute(insert(Item), {"id": 2, "name": "b"})
        with pytest.raises(IntegrityError):
            foreign.execute(insert(Item), {"id": 1, "name": "b"})
        foreign.rollback()
        foreign.commit()
        foreign.add(Item(id=1, name="twice"))
        with pytest.raises(IntegrityError):
            foreign.flush()
        foreign.rollback()
        foreign.commit()
    other.dispose()


def test_a_scoped_session_of_the_next_request_is_clean(engine):
    install(engine, strict=True)
    session = scoped_session(sessionmaker(engine))
    at_flush(engine, session())
    session.rollback()
    with pytest.raises(WritesLostError):
        session.commit()
    session.remove()
    session.commit()
    session.remove()


def test_an_async_session(engine):
    async def main():
        url = engine.url.set(drivername="sqlite+aiosqlite")
        asynchronous = install(create_async_engine(url), strict=True)
        async with AsyncSession(asynchronous) as session:
            session.add(Item(id=1, name="twice"))
            with pytest.raises(IntegrityError):
                await session.commit()
            await session.rollback()
            with pytest.raises(WritesLostError):
                await session.commit()
        uninstall(asynchronous)
        await asynchronous.dispose()

    asyncio.run(main())


def test_two_engines_in_one_session(engine, tmp_path):
    other = create_engine(f"sqlite:///{tmp_path}/other.db")
    Base.metadata.create_all(other)
    install(engine, strict=True)
    with Session(binds={Item: engine, Part: other}) as session:
        session.add(Part(id=1, item=1))
        session.add(Item(id=1, name="twice"))
        with pytest.raises(IntegrityError):
            session.commit()
        session.rollback()
        with pytest.raises(WritesLostError):
            session.commit()
    other.dispose()


def test_a_session_that_lost_is_collected(engine):
    install(engine)
    session = Session(engine)
    at_flush(engine, session)
    session.rollback()
    session.commit()
    session.close()
    gone = weakref.ref(session)
    del session
    gc.collect()
    assert gone() is None
