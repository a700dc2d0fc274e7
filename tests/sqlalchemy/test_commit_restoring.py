"""What is put back for another attempt: the same work must leave the same rows and the same objects.

Every scene is played twice on PostgreSQL, undisturbed and with a COMMIT that fails with 40001 after
everything was flushed.
"""

from __future__ import annotations

import contextlib
from typing import ClassVar

import pytest
from sqlalchemy import JSON, Column, ForeignKey, String, Table, create_engine, event, inspect
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    attribute_keyed_dict,
    composite,
    mapped_column,
    relationship,
    validates,
)
from sqlalchemy.orm.exc import StaleDataError
from sqlalchemy.pool import QueuePool

from commit_scenes import PostgreSQLPlace
from servers import Database
from turnwise.errors import CommitNotReplayableError
from turnwise.sqlalchemy.commit import commit_with_retry

FAST = {"initial_delay": 0.001, "max_delay": 0.01}


class Base(DeclarativeBase):
    pass


article_tag = Table(
    "article_tag",
    Base.metadata,
    Column("article_id", ForeignKey("article.id"), primary_key=True),
    Column("tag_id", ForeignKey("tag.name"), primary_key=True),
)


class Point:
    def __init__(self, x, y) -> None:
        self.x, self.y = x, y

    def __composite_values__(self):
        return self.x, self.y

    def __eq__(self, other) -> bool:
        return isinstance(other, Point) and (self.x, self.y) == (other.x, other.y)

    __hash__ = None


class Author(Base):
    __tablename__ = "author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String)
    secret: Mapped[str | None] = mapped_column(String)
    n: Mapped[int] = mapped_column(default=0)
    version: Mapped[int] = mapped_column()
    x: Mapped[int] = mapped_column(default=0)
    y: Mapped[int] = mapped_column(default=0)
    at: Mapped[Point] = composite("x", "y")
    data: Mapped[dict | None] = mapped_column(MutableDict.as_mutable(JSON))
    articles: Mapped[list[Article]] = relationship(
        back_populates="author", cascade="all, delete-orphan", order_by="Article.title"
    )
    __mapper_args__: ClassVar = {"version_id_col": version}

    @validates("secret")
    def scramble(self, key, value):
        return value[::-1]


class Article(Base):
    __tablename__ = "article"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String)
    kind: Mapped[str] = mapped_column(String)
    author_id: Mapped[int] = mapped_column(ForeignKey("author.id"))
    author: Mapped[Author] = relationship(back_populates="articles")
    tags: Mapped[set[Tag]] = relationship(secondary=article_tag, back_populates="articles")
    pages: Mapped[dict[str, Page]] = relationship(
        collection_class=attribute_keyed_dict("key"), cascade="all, delete-orphan"
    )
    __mapper_args__: ClassVar = {"polymorphic_on": kind, "polymorphic_identity": "plain"}


class Review(Article):
    __tablename__ = "review"
    id: Mapped[int] = mapped_column(ForeignKey("article.id"), primary_key=True)
    stars: Mapped[int] = mapped_column()
    __mapper_args__: ClassVar = {"polymorphic_identity": "review"}


class Page(Base):
    __tablename__ = "page"
    key: Mapped[str] = mapped_column(String, primary_key=True)
    article_id: Mapped[int] = mapped_column(ForeignKey("article.id"), primary_key=True)


class Tag(Base):
    __tablename__ = "tag"
    name: Mapped[str] = mapped_column(String, primary_key=True)
    label: Mapped[str | None] = mapped_column(String)
    articles: Mapped[list[Article]] = relationship(secondary=article_tag, back_populates="tags")
    fans: Mapped[list[Fan]] = relationship(lazy="dynamic")


class Fan(Base):
    __tablename__ = "fan"
    id: Mapped[int] = mapped_column(primary_key=True)
    tag: Mapped[str | None] = mapped_column(ForeignKey("tag.name"))


@pytest.fixture(scope="module")
def place(postgresql):
    with postgresql.database() as name:
        place = PostgreSQLPlace(Database(postgresql, name))
        place.fill()
        place.own = create_engine(place.plain)
        Base.metadata.create_all(place.own)
        place.watch(*Base.metadata.tables)
        yield place
        place.own.dispose()
        place.close()


@pytest.fixture(scope="module")
def pooled(place):
    engine = place.engine(poolclass=QueuePool)
    yield engine
    engine.dispose()


@pytest.fixture
def engine(place):
    return place.engine()


def reset(place) -> None:
    place.ask(f"TRUNCATE {', '.join(Base.metadata.tables)} RESTART IDENTITY")
    with contextlib.closing(Session(place.own)) as session:
        tags = {name: Tag(name=name) for name in ("old", "new")}
        session.add_all(tags.values())
        session.add(Author(name="ann", data={"k": 1}, articles=[
            Article(title="one", tags={tags["old"]}, pages={"p": Page(key="p")}),
            Review(title="two", stars=3),
        ]))  # fmt: skip
        session.add(Author(name="bob"))
        session.commit()


def rows(place):
    """Everything, without the numbers that a sequence does not give twice."""
    return [
        place.ask("SELECT name, secret, n, version, x, y, data FROM author ORDER BY name"),
        place.ask("""
            SELECT title, article.kind, author.name, stars FROM article
            JOIN author ON author.id = author_id LEFT JOIN review ON review.id = article.id
            ORDER BY title, author.name"""),
        place.ask("SELECT title, tag_id FROM article_tag JOIN article ON article.id = article_id ORDER BY 1, 2"),
        place.ask("SELECT key, title FROM page LEFT JOIN article ON article.id = article_id ORDER BY 1, 2"),
        place.ask("SELECT name, label FROM tag ORDER BY 1"),
    ]  # fmt: skip


def loaded(session):
    """Objects of an earlier transaction, with what scenes touch."""
    found = {one.name: one for one in session.query(Author)}
    for one in session.query(Article):
        found[one.title] = one
        _ = one.tags, one.pages
    for one in session.query(Tag):
        found[one.name] = one
    _ = found["ann"].articles
    session.commit()
    return found


def new_with_children(session, found):
    session.add(Author(name="cyd", articles=[Article(title="c1"), Review(title="c2", stars=1)]))


def child_of_a_clean_parent(session, found):
    session.add(Article(title="b1", author=found["bob"]))


def appended(session, found):
    found["ann"].articles.append(Article(title="three", tags={found["new"], Tag(name="fresh")}))


def removed_orphan(session, found):
    found["ann"].articles.remove(found["two"])


def moved(session, found):
    found["two"].author = found["bob"]


def retagged(session, found):
    found["one"].tags = {found["new"]}


def tagged_while_the_other_side_is_not_loaded(session, found):
    found["two"].tags.add(found["new"])


def repaged(session, found):
    found["one"].pages["q"] = Page(key="q")
    del found["one"].pages["p"]


def deleted_with_cascade(session, found):
    session.delete(found["one"])


def natural_key_changed(session, found):
    found["new"].name = "newer"


def replaced_row(session, found):
    session.delete(found["new"])
    session.add(Tag(name="new", label="again"))


def sql_expression(session, found):
    found["ann"].n = Author.n + 5


def composite_changed(session, found):
    found["ann"].at = Point(3, 4)


def changed_in_place(session, found):
    found["ann"].data["k"] = 2


def validated_once(session, found):
    found["ann"].secret = "abc"


def expired_first(session, found):
    session.expire(found["ann"])
    found["ann"].name = "anna"


def inherited(session, found):
    found["two"].stars = 5
    found["two"].title = "deux"


def explicit_keys(session, found):
    session.add(Author(id=77, name="key"))


def added_then_expunged(session, found):
    author = Author(name="dot", articles=[Article(title="kept"), Article(title="gone")])
    session.add(author)
    session.expunge(author.articles[1])


def everything(session, found):
    for scene in (new_with_children, appended, removed_orphan, retagged, repaged, sql_expression):
        scene(session, found)


SCENES = [
    new_with_children,
    child_of_a_clean_parent,
    appended,
    removed_orphan,
    moved,
    retagged,
    tagged_while_the_other_side_is_not_loaded,
    repaged,
    deleted_with_cascade,
    natural_key_changed,
    replaced_row,
    sql_expression,
    composite_changed,
    changed_in_place,
    validated_once,
    expired_first,
    inherited,
    explicit_keys,
    added_then_expunged,
    everything,
]


def facts(session):
    """The objects of a session: values, but for numbers that a sequence does not give twice."""

    def plain(value):
        if isinstance(value, (list, set, frozenset)):
            return sorted(map(str, map(plain, value)))
        if isinstance(value, dict):
            return sorted((str(key), plain(one)) for key, one in value.items())
        if hasattr(value, "_sa_instance_state"):
            return label(value)
        return "" if isinstance(value, Point) else value

    def label(one):
        return f"{type(one).__name__} {getattr(one, 'name', getattr(one, 'title', getattr(one, 'key', '')))}"

    found = {}
    for one in session:
        values = {
            key: plain(value)
            for key, value in inspect(one).dict.items()
            if key not in ("_sa_instance_state", "id", "author_id", "article_id")
        }
        found[label(one)] = values, sorted(inspect(one).expired_attributes)
    return found


@pytest.mark.filterwarnings("ignore:Object of type <Article> not in session")
@pytest.mark.parametrize(
    ("scene", "expires"),
    [*((scene, False) for scene in SCENES), (everything, True), (child_of_a_clean_parent, True)],
    ids=lambda value: getattr(value, "__name__", "expires" if value else "keeps"),
)
def test_the_same_work_leaves_the_same(place, pooled, scene, expires) -> None:
    engine, ends = pooled, []
    for disturb in (contextlib.nullcontext(), place.fails_at_commit(engine)):
        reset(place)
        with Session(engine, expire_on_commit=False) as session:
            found = loaded(session)
            session.expire_on_commit = expires
            scene(session, found)
            if session.get_transaction() is not None and session.get_transaction()._connections:
                # It read: it is not the flush alone that is in the transaction.
                pytest.fail("a scene must not emit SQL")
            flushes = []
            event.listen(session, "after_flush", lambda *_, flushes=flushes: flushes.append(1))
            with disturb:
                assert commit_with_retry(session, **FAST)
            ends.append((rows(place), facts(session)))
            count = len(flushes)
            assert not session.new
            assert not session.deleted
            assert not session.dirty
            # Nothing is left that a later commit would write.
            session.commit()
            assert len(flushes) == count
    assert ends[0] == ends[1]
    assert count == 2, "the second time it was flushed twice"


def test_a_key_that_was_generated_in_vain_may_be_another_s(place, engine) -> None:
    reset(place)
    with Session(engine) as session:
        author = Author(name="new")
        session.add(author)
        keys = []
        event.listen(session, "after_flush", lambda *_: keys.append(author.id))

        def take(context) -> None:
            if len(keys) == 1:
                place.ask(
                    f"INSERT INTO author (id, name, n, version, x, y) VALUES ({keys[0]}, 'other', 0, 1, 0, 0)"
                )

        event.listen(engine, "handle_error", take)
        with place.fails_at_commit(engine):
            assert commit_with_retry(session, **FAST)
        assert place.ask("SELECT name FROM author WHERE name IN ('new', 'other') ORDER BY id") == [
            ("other",),
            ("new",),
        ]
        assert author.id != keys[0]


def test_a_version_that_another_has_raised_meanwhile_is_not_written_over(place, engine) -> None:
    reset(place)
    with Session(engine, expire_on_commit=False) as session:
        found = loaded(session)
        found["ann"].n = 99

        def overtake(context) -> None:
            place.ask(
                "UPDATE author SET n = 1, version = version + 1 WHERE name = 'ann' AND n <> 1"
            )

        event.listen(engine, "handle_error", overtake)
        with place.fails_at_commit(engine), pytest.raises(StaleDataError) as caught:
            commit_with_retry(session, **FAST)
        assert not getattr(caught.value, "__notes__", []), "it is not tried again"
        session.rollback()
        assert found["ann"].n == 1
        assert place.ask("SELECT n, version FROM author WHERE name = 'ann'") == [(1, 2)]


def test_a_session_that_does_not_begin_by_itself(place, engine) -> None:
    reset(place)
    with Session(engine, autobegin=False) as session:
        session.begin()
        session.add(Author(name="new"))
        with place.fails_at_commit(engine):
            assert commit_with_retry(session, **FAST)
        assert not session.in_transaction()
    assert place.ask("SELECT count(*) FROM author WHERE name = 'new'") == [(1,)]


def test_a_change_in_place_is_still_noticed_afterwards(place, engine) -> None:
    reset(place)
    with Session(engine, expire_on_commit=False) as session:
        ann = loaded(session)["ann"]
        ann.data["k"] = 2
        with place.fails_at_commit(engine):
            assert commit_with_retry(session, **FAST)
        ann.data["k"] = 3
        session.commit()
    assert place.ask("SELECT data FROM author WHERE name = 'ann'") == [({"k": 3},)]


def test_a_changed_collection_that_is_never_loaded_is_refused(place, engine) -> None:
    reset(place)
    with Session(engine, expire_on_commit=False) as session:
        tag = loaded(session)["old"]
        tag.fans.append(Fan())
        with place.fails_at_commit(engine), pytest.raises(CommitNotReplayableError) as caught:
            commit_with_retry(session, **FAST)
        assert "Tag(name='old').fans" in caught.value.reason
        assert set(caught.value.lost) == {"new Fan()", "changed Tag(name='old')"}
        assert place.ask("SELECT count(*) FROM fan") == [(0,)]


def test_a_listener_that_adds_objects_when_one_is_put_back_is_seen(place, engine) -> None:
    reset(place)
    with Session(engine) as session:

        def log(session, one) -> None:
            if isinstance(one, Author):
                session.add(Tag(name=f"seen {one.name} {len(session.new)}"))

        event.listen(session, "transient_to_pending", log)
        session.add(Author(name="new"))
        with place.fails_at_commit(engine), pytest.raises(CommitNotReplayableError) as caught:
            commit_with_retry(session, **FAST)
        assert "listener" in caught.value.reason
        assert not session.new
        session.commit()
        assert ("new",) not in place.ask("SELECT name FROM author")


def test_a_listener_that_fails_when_objects_are_put_back_leaves_no_half(place, engine) -> None:
    reset(place)
    with Session(engine) as session:
        seen = []

        def fail(session, one) -> None:
            seen.append(one)
            if len(seen) == 4:
                raise ZeroDivisionError

        event.listen(session, "transient_to_pending", fail)
        session.add_all([Author(name="new"), Author(name="newer")])
        with place.fails_at_commit(engine), pytest.raises(CommitNotReplayableError) as caught:
            commit_with_retry(session, **FAST)
        assert "ZeroDivisionError" in caught.value.reason
        session.commit()
    assert place.ask("SELECT name FROM author WHERE name LIKE 'new%'") == []


def test_listeners_of_the_flush_run_again_on_what_was_there_before(place, engine) -> None:
    reset(place)
    with Session(engine, expire_on_commit=False) as session:
        found = loaded(session)

        def audit(session, context, instances) -> None:
            for one in list(session.dirty):
                if isinstance(one, Author):
                    one.n += 1
                    session.add(Tag(name=f"{one.name} was {one.n}"))
                    one.articles.append(Article(title="of the listener"))

        event.listen(session, "before_flush", audit)
        found["ann"].name = "anna"
        with place.fails_at_commit(engine):
            assert commit_with_retry(session, **FAST)
        assert [one.title for one in found["ann"].articles] == ["one", "two", "of the listener"]
        assert all(inspect(one).persistent for one in found["ann"].articles)
        event.remove(session, "before_flush", audit)
        found["ann"].articles.append(Article(title="later"))
        session.commit()
    titles = "SELECT title FROM article JOIN author ON author.id = author_id WHERE name = 'anna'"
    assert sorted(place.ask(titles)) == [("later",), ("of the listener",), ("one",), ("two",)]
    assert place.ask("SELECT n FROM author WHERE name = 'anna'") == [(1,)]
    assert place.ask("SELECT name FROM tag WHERE name LIKE 'anna%'") == [("anna was 1",)]
