"""Sessions and objects that are used on after the response, on every kind of engine."""

from __future__ import annotations

import asyncio

import fastapi
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, selectinload

import turnwise
import turnwise.fastapi
from asgi_calls import call
from engines import use
from shop import Base, Item
from sightings import IDLE_IN_TRANSACTION, codes, is_at, line_of, only

DRIVERS = ["psycopg2", "psycopg", "asyncpg", "pymysql", "pysqlite", "aiosqlite"]


@pytest.fixture(params=DRIVERS)
def url(request, tmp_path):
    driver = request.param
    if not driver.endswith("sqlite"):
        shop = request.getfixturevalue("mariadb_shop" if driver == "pymysql" else "shop")
        return shop.url(driver)
    engine = sa.create_engine(f"sqlite:///{tmp_path}/shop.db")
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add(Item(id=1, name="tea"))
    engine.dispose()
    return sa.make_url(f"sqlite+{driver}:///{tmp_path}/shop.db")


def closed_and_reopened(session, owner):
    session.get(Item, 1)
    session.close()
    owner.phase = "responded"
    session.get(Item, 1)  # line: reopened


def used_on(session, owner):
    session.get(Item, 1)
    owner.phase = "responded"
    session.scalars(sa.select(Item)).all()  # line: used on


def rename(session):
    session.execute(sa.update(Item).where(Item.id == 1).values(name="tea"))


def committed_late(session, owner):
    rename(session)
    owner.phase = "responded"
    session.commit()  # line: committed late


def added_and_committed_late(session, owner):
    session.add(Item(id=3, name="added"))
    owner.phase = "responded"
    session.commit()  # line: flushed late


def read_added_and_committed_late(session, owner):
    session.get(Item, 1)
    session.add(Item(id=3, name="added"))
    owner.phase = "responded"
    session.commit()  # line: flushed by the commit


def loaded_late(session, owner):
    item = session.get(Item, 1)
    owner.phase = "responded"
    assert len(item.parts) <= 1  # line: lazy


WRONG = {
    closed_and_reopened: ("reopened-after-close", "error", "reopened"),
    used_on: ("session-after-response", "warning", "used on"),
    committed_late: ("commit-after-response", "warning", "committed late"),
    added_and_committed_late: ("commit-after-response", "warning", "flushed late"),
    # Its flush is no finding of its own.
    read_added_and_committed_late: ("commit-after-response", "warning", "flushed by the commit"),
    loaded_late: ("lazy-load-after-response", "warning", "lazy"),
}


def played(url, scene):
    def play(engine):
        with turnwise.owner("request", "GET /late") as owner, Session(engine) as session:
            scene(session, owner)
        with Session(engine) as session, session.begin():
            session.execute(sa.delete(Item).where(Item.id == 3))

    use(url, play)


@pytest.mark.parametrize("scene", WRONG, ids=lambda scene: scene.__name__)
def test_what_comes_after_the_response_is_named(url, watch, scene):
    code, severity, line = WRONG[scene]
    watch()
    played(url, scene)
    assert codes() == [code]
    finding = only(code)
    assert (finding.severity, finding.exact) == (severity, True)
    assert (finding.owner_kind, finding.owner_name) == ("request", "GET /late")
    assert finding.phase == "responded"
    assert is_at(finding.last or finding.opened, line_of(__file__, line))


def all_before(session, owner):
    item = session.get(Item, 1, options=[selectinload(Item.parts)])
    rename(session)
    session.commit()
    owner.phase = "responded"
    assert len(item.__dict__.get("parts", ())) <= 1


def read_only_commit(session, owner):
    session.get(Item, 1)
    owner.phase = "responded"
    session.commit()


def closed_late(session, owner):
    rename(session)
    session.rollback()
    session.get(Item, 1)
    owner.phase = "responded"
    session.close()


def loaded_before(session, owner):
    item = session.get(Item, 1, options=[selectinload(Item.parts)])
    owner.phase = "responded"
    assert len(item.parts) <= 1


def opened_late(session, owner):
    owner.phase = "responded"
    with Session(session.get_bind()) as own:
        rename(own)
        own.commit()
        own.get(Item, 1)


@pytest.mark.parametrize(
    "scene",
    [all_before, read_only_commit, closed_late, loaded_before, opened_late],
    ids=lambda scene: scene.__name__,
)
def test_what_is_done_before_the_response_is_clean(url, watch, scene):
    watch()
    played(url, scene)
    assert codes() == []


def test_a_lazy_load_in_a_background_task(shop, engine, onlooker, watch):
    seen = []

    def session_of_request():
        with Session(engine) as session:
            yield session

    def mail(item):
        seen.append(onlooker.states())
        seen.append(len(item.parts))  # line: mail

    needed = fastapi.Depends(session_of_request)

    def application(options):
        app = fastapi.FastAPI()

        @app.post("/orders")
        def order(tasks: fastapi.BackgroundTasks, session: Session = needed):
            item = session.get(Item, 1, options=options)
            if options:
                session.expunge(item)
                session.rollback()
            tasks.add_task(mail, item)

        return app

    def post(app):
        seen.clear()
        asyncio.run(call(app, "/orders", method="POST"))
        return seen

    assert post(application([])) == [[IDLE_IN_TRANSACTION], 1]
    watch()
    for options in ([], [selectinload(Item.parts)]):
        turnwise.clear_findings()
        app = application(options)
        turnwise.fastapi.setup(app, engine)
        assert post(app) == [[] if options else [IDLE_IN_TRANSACTION], 1]
        if options:
            assert codes() == []
        else:
            assert codes() == ["lazy-load-after-response"]
            finding = only("lazy-load-after-response")
            assert finding.owner_name == "POST /orders"
            assert is_at(finding.last, line_of(__file__, "mail"))


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg_async"])
def test_an_asynchronous_request_of_fastapi(shop, onlooker, watch, driver):
    seen = []

    async def main(*, watched):
        engine = create_async_engine(shop.url(driver))
        app = fastapi.FastAPI()

        async def session_of_request():
            async with AsyncSession(engine) as session:
                yield session

        needed = fastapi.Depends(session_of_request)

        async def remember(session):
            seen.append(onlooker.states())
            await session.scalars(sa.select(Item))  # line: async background

        @app.post("/webhook")
        async def webhook(tasks: fastapi.BackgroundTasks, session: AsyncSession = needed):
            await session.get(Item, 1)
            tasks.add_task(remember, session)

        if watched:
            turnwise.fastapi.setup(app, engine)
        try:
            await call(app, "/webhook", method="POST")
        finally:
            await engine.dispose()

    asyncio.run(main(watched=False))
    watch()
    asyncio.run(main(watched=True))
    assert seen == [[IDLE_IN_TRANSACTION]] * 2
    assert codes() == ["session-after-response"]
    finding = only("session-after-response")
    assert (finding.owner_name, finding.phase) == ("POST /webhook", "responded")
    assert is_at(finding.last, line_of(__file__, "async background"))
