"""Objects that a unit of work was given: what the first attempt did to them, the second must do too."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    relationship,
    scoped_session,
    sessionmaker,
)
from sqlalchemy.orm.collections import collection

from turnwise import retry, run
from units_support import QUICK


class Base(DeclarativeBase):
    pass


class Topic(Base):
    __tablename__ = "topic"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    tags: Mapped[dict | None] = mapped_column(MutableDict.as_mutable(sa.JSON))
    posts: Mapped[list[Post]] = relationship(back_populates="topic")


class Post(Base):
    __tablename__ = "post"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
    topic_id: Mapped[int] = mapped_column(sa.ForeignKey("topic.id"))
    topic: Mapped[Topic] = relationship(back_populates="posts")


class LostError(Exception):
    pass


@pytest.fixture
def path(tmp_path):
    return tmp_path / "forum.db"


@pytest.fixture
def engine(path):
    engine = sa.create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add(Topic(id=1, title="first"))
    yield engine
    engine.dispose()


def stored(engine):
    with engine.connect() as connection:
        topics = connection.execute(sa.text("SELECT title FROM topic ORDER BY id")).scalars().all()
        posts = connection.execute(sa.text("SELECT text FROM post ORDER BY id")).scalars().all()
        return topics, posts


def detached(engine):
    with Session(engine, expire_on_commit=False) as session:
        return session.get_one(Topic, 1)


class Failure:
    """Fails once, after the flush."""

    def __init__(self, session):
        self.count = 0
        self.session = session

    def __call__(self):
        self.session().flush()
        self.count += 1
        if self.count == 1:
            raise LostError


def closed(engine, objects):
    """A session of the unit's own, closed without a rollback."""
    failure = Failure(lambda: current)

    @retry(on=LostError, **QUICK)
    def save(objects):
        nonlocal current
        with Session(engine) as current:
            current.add_all(objects)
            failure()
            current.commit()

    current = None
    save(objects)
    assert failure.count == 2


def left_open(engine, objects):
    """A session that lives on, and is rolled back for the unit."""
    sessions = scoped_session(sessionmaker(engine))
    failure = Failure(sessions)

    @retry(on=LostError, **QUICK)
    def save(objects):
        sessions.add_all(objects)
        failure()
        sessions.commit()

    save(objects)
    assert failure.count == 2
    sessions.remove()


def rolled_back(engine, objects):
    """A session that the unit rolls back by itself."""
    failure = Failure(lambda: current)

    @retry(on=LostError, **QUICK)
    def save(objects):
        nonlocal current
        current = Session(engine)
        try:
            current.add_all(objects)
            failure()
            current.commit()
        except LostError:
            current.rollback()
            raise
        finally:
            current.close()

    current = None
    save(objects)
    assert failure.count == 2


def by_run(engine, objects):
    def save(session):
        nonlocal current
        current = session
        session.add_all(objects)
        failures[len(failures)] = True
        session.flush()
        if len(failures) == 1:
            with engine.connect() as other:
                other.exec_driver_sql("PRAGMA busy_timeout = 0")
                other.exec_driver_sql("INSERT INTO topic (id, title) VALUES (99, 'never')")

    current, failures = None, {}
    run(save, session_factory=sessionmaker(engine), **QUICK)
    assert len(failures) == 2


def in_a_task(engine, objects):
    made = create_async_engine(f"sqlite+aiosqlite:///{engine.url.database}")
    count = 0

    @retry(on=LostError, **QUICK)
    async def save(objects):
        nonlocal count
        async with AsyncSession(made) as session:
            session.add_all(objects)
            await session.flush()
            count += 1
            if count == 1:
                raise LostError
            await session.commit()

    async def main():
        await save(objects)
        await made.dispose()

    asyncio.run(main())
    assert count == 2


WAYS = pytest.mark.parametrize("save", [closed, left_open, rolled_back, by_run, in_a_task])


@WAYS
def test_a_new_object_is_written(engine, save):
    save(engine, [Topic(title="second")])
    assert stored(engine) == (["first", "second"], [])


@WAYS
def test_a_new_object_gets_a_new_key(engine, save):
    topic = Topic(title="second")
    keys = []

    @sa.event.listens_for(Topic, "after_insert", propagate=True)
    def note(mapper, connection, target):
        keys.append(sa.inspect(target).dict["id"])

    sent = []

    @sa.event.listens_for(sa.Engine, "before_cursor_execute")
    def look(connection, cursor, statement, parameters, context, executemany):
        if statement.startswith("INSERT INTO topic"):
            sent.append(statement)

    try:
        save(engine, [topic])
    finally:
        sa.event.remove(Topic, "after_insert", note)
        sa.event.remove(sa.Engine, "before_cursor_execute", look)
    assert len(keys) == 2
    # With the key of the first attempt it might be another's row by now.
    assert all("(title)" in statement for statement in sent if "VALUES (99" not in statement)


@WAYS
def test_what_comes_along_is_written(engine, save):
    save(engine, [Topic(title="second", posts=[Post(text="a"), Post(text="b")])])
    assert stored(engine) == (["first", "second"], ["a", "b"])


@WAYS
def test_a_change_of_a_stored_object_is_written(engine, save):
    topic = detached(engine)
    topic.title = "changed"
    save(engine, [topic])
    assert stored(engine) == (["changed"], [])


@WAYS
def test_a_new_object_and_the_changed_one_that_it_refers_to(engine, save):
    topic = detached(engine)
    topic.title = "changed"
    save(engine, [Post(text="a", topic=topic)])
    assert stored(engine) == (["changed"], ["a"])


def test_a_unit_that_makes_its_objects_itself_is_left_alone(engine):
    failure = Failure(lambda: current)

    @retry(on=LostError, **QUICK)
    def save():
        nonlocal current
        with Session(engine) as current:
            current.add(Topic(title="second"))
            failure()
            current.commit()

    current = None
    save()
    assert stored(engine) == (["first", "second"], [])


def test_nothing_is_kept_of_an_object_that_is_gone(engine):
    @retry
    def save(topic):
        with Session(engine) as session:
            session.add(topic)
            session.commit()

    topic = detached(engine)
    topic.title = "changed"
    gone = [weakref.ref(topic), weakref.ref(new := Topic(title="second"))]
    save(topic)
    save(new)
    del topic, new
    gc.collect()
    assert [one() for one in gone] == [None, None]


@WAYS
def test_a_value_that_the_database_computes_is_written(engine, save):
    save(engine, [Topic(title=sa.func.upper("second"))])
    assert stored(engine) == (["first", "SECOND"], [])


def test_a_stored_object_that_the_unit_changes_is_written(engine):
    failure = Failure(lambda: current)

    @retry(on=LostError, **QUICK)
    def rename(topic):
        nonlocal current
        with Session(engine) as current:
            current.add(topic)
            topic.title = "changed"
            topic.posts.append(Post(text="a"))
            failure()
            current.commit()

    current = None
    rename(detached(engine))
    assert stored(engine) == (["changed"], ["a"])


def test_what_the_unit_does_to_an_object_is_done_once(engine):
    failure = Failure(lambda: current)

    @retry(on=LostError, **QUICK)
    def extend(topic):
        nonlocal current
        with Session(engine) as current:
            current.add(topic)
            topic.title += "+"
            topic.posts.append(Post(text="a"))
            topic.tags["count"] += 1
            failure()
            current.commit()

    current = None
    extend(Topic(title="second", tags={"count": 0}))
    assert stored(engine) == (["first", "second+"], ["a"])
    with Session(engine) as session:
        assert session.get_one(Topic, 2).tags == {"count": 1}


def test_a_mutable_value_is_still_watched(engine):
    failure = Failure(lambda: current)
    topic = Topic(title="second", tags={"count": 0})

    @retry(on=LostError, **QUICK)
    def save():
        nonlocal current
        with Session(engine, expire_on_commit=False) as current:
            current.add(topic)
            failure()
            current.commit()

    current = None
    save()
    with Session(engine) as session, session.begin():
        session.add(topic)
        topic.tags["count"] = 7
    with Session(engine) as session:
        assert session.get_one(Topic, 2).tags == {"count": 7}


class Shelf:
    """A collection of the application's own, which nobody can put back."""

    def __init__(self):
        self.books = []

    @collection.appender
    def append(self, book):
        self.books.append(book)

    @collection.remover
    def remove(self, book):
        self.books.remove(book)

    @collection.iterator
    def __iter__(self):
        return iter(self.books)


class Library(Base):
    __tablename__ = "library"

    id: Mapped[int] = mapped_column(primary_key=True)
    books = relationship("Book", collection_class=Shelf)


class Book(Base):
    __tablename__ = "book"

    id: Mapped[int] = mapped_column(primary_key=True)
    library_id: Mapped[int] = mapped_column(sa.ForeignKey("library.id"))


def test_what_cannot_be_put_back_ends_with_the_error_itself(engine):
    attempts = []

    @retry(on=LostError, **QUICK)
    def extend(library):
        with Session(engine) as session:
            attempts.append(session)
            session.add(library)
            library.books.append(Book())
            session.flush()
            raise LostError

    library = Library(id=1)
    library.books.append(Book())
    with pytest.raises(LostError) as caught:
        extend(library)
    assert len(attempts) == 1
    assert "a collection that was changed" in "".join(caught.value.__notes__)
