"""Plays what applications do with a request's session, on the FastAPI that it finds.

Usage: fastapi_scenes.py DSN. Prints as JSON in which order a request's parts come, and for each scene
what PostgreSQL saw and what turnwise found, first without turnwise.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import json
import sys

import fastapi
import sqlalchemy as sa
from fastapi.responses import StreamingResponse
from sqlalchemy.orm import Session, sessionmaker

from asgi_calls import call
from fastapi_orders import orders
from servers import until
from shop import Item
from sightings import Onlooker, fields

KEPT = "held-past-owner"
COUNT = "SELECT count(*) FROM item WHERE name = 'written'"


class Site:
    """An application with its engine, and what is seen while it answers."""

    def __init__(self, dsn, onlooker):
        self.app = fastapi.FastAPI()
        url = sa.make_url(dsn).set(drivername="postgresql+psycopg2")
        self.engine = sa.create_engine(url)
        self.factory = sessionmaker(self.engine)
        self.closed = fastapi.Depends(self.session)
        self.committed = fastapi.Depends(self.committing_session)
        self.onlooker = onlooker
        self.seen = {}
        self.kept = []

    def see(self, when):
        self.seen[when] = self.onlooker.states()

    def session(self):
        """FastAPI's documented dependency."""
        session = self.factory()
        try:
            yield session
        finally:
            session.close()

    def committing_session(self):
        with self.factory() as session:
            yield session
            session.commit()  # line: commit after yield

    def count_when(self, message):
        if message == "sent":
            self.seen["rows when sent"] = self.onlooker.rows(COUNT)[0][0]


def with_the_requests_session(site):
    def remember(session):
        site.see("task begins")
        session.scalars(sa.select(Item)).all()  # line: background
        site.see("task ends")

    @site.app.post("/webhook/{name}")
    def webhook(name, tasks: fastapi.BackgroundTasks, session: Session = site.closed):
        session.get(Item, 1)  # line: endpoint
        site.kept.append(session)  # A cache, a traceback or a cycle does the same.
        tasks.add_task(remember, session)

    return functools.partial(call, site.app, "/webhook/shop", method="POST")


def with_a_session_of_its_own(site):
    def remember():
        site.see("task begins")
        with site.factory() as session:
            session.scalars(sa.select(Item)).all()
        site.see("task ends")

    @site.app.post("/webhook/{name}")
    def webhook(name, tasks: fastapi.BackgroundTasks, session: Session = site.closed):
        session.get(Item, 1)
        session.close()
        tasks.add_task(remember)

    return functools.partial(call, site.app, "/webhook/shop", method="POST")


def committed_after_yield(site):
    @site.app.post("/items")
    def write(session: Session = site.committed):
        session.add(Item(id=3, name="written"))
        session.flush()

    return functools.partial(call, site.app, "/items", method="POST", sent=site.count_when)


def flushed_and_committed_after_yield(site):
    @site.app.post("/items")
    def write(session: Session = site.committed):
        session.add(Item(id=3, name="written"))

    return functools.partial(call, site.app, "/items", method="POST", sent=site.count_when)


def committed_by_a_background_task(site):
    def remember():
        with site.factory() as session:
            session.add(Item(id=3, name="written"))
            session.commit()

    @site.app.post("/items")
    def write(tasks: fastapi.BackgroundTasks):
        tasks.add_task(remember)

    return functools.partial(call, site.app, "/items", method="POST", sent=site.count_when)


def committed_in_the_endpoint(site):
    @site.app.post("/items")
    def write(session: Session = site.closed):
        session.add(Item(id=3, name="written"))
        session.commit()

    return functools.partial(call, site.app, "/items", method="POST", sent=site.count_when)


def committed_in_function_scope(site):
    needed = fastapi.Depends(site.committing_session, scope="function")

    @site.app.post("/items")
    def write(session: Session = needed):
        session.add(Item(id=3, name="written"))

    return functools.partial(call, site.app, "/items", method="POST", sent=site.count_when)


def streamed_from_the_requests_session(site):
    @site.app.get("/export")
    def export(session: Session = site.closed):
        session.get(Item, 1)
        site.kept.append(session)

        def rows():
            for item in session.scalars(sa.select(Item).order_by(Item.id)):  # line: stream
                yield item.name

        return StreamingResponse(rows())

    return functools.partial(call, site.app, "/export")


def streamed_from_a_session_of_its_own(site):
    @site.app.get("/export")
    def export():
        def rows():
            with site.factory() as session:
                for item in session.scalars(sa.select(Item).order_by(Item.id)):
                    yield item.name

        return StreamingResponse(rows())

    return functools.partial(call, site.app, "/export")


SCENES = [
    with_the_requests_session,
    with_a_session_of_its_own,
    committed_after_yield,
    flushed_and_committed_after_yield,
    committed_by_a_background_task,
    committed_in_the_endpoint,
    streamed_from_the_requests_session,
    streamed_from_a_session_of_its_own,
]
if "scope" in inspect.signature(fastapi.Depends).parameters:
    SCENES.append(committed_in_function_scope)


def play(scene, dsn, onlooker, *, watched):
    """One request to its end, and what is left afterwards."""
    site = Site(dsn, onlooker)
    request = scene(site)
    if watched:
        import turnwise.fastapi

        turnwise.watch(log=False, grace=0.05)
        turnwise.fastapi.setup(site.app, site.engine)
        turnwise.clear_findings()
    try:
        status, _ = asyncio.run(request())
        assert status == 200
        site.see("answered")
        if watched and site.seen["answered"]:
            until(lambda: KEPT in {finding.code for finding in turnwise.findings()}, 10)
        site.kept.clear()
        # A thread of the pool that is about to end may still have it.
        until(lambda: gc.collect() >= 0 and not onlooker.states(), 5)
        site.see("collected")
        onlooker.rows("DELETE FROM item WHERE name = 'written'")
        site.engine.dispose()
        found = turnwise.findings() if watched else ()
        return {"seen": site.seen, "found": [fields(finding) for finding in found]}
    finally:
        if watched:
            turnwise.unwatch()


def main():
    (dsn,) = sys.argv[1:]
    told = {"version": fastapi.__version__, "orders": orders()}
    with Onlooker(dsn) as onlooker:
        for watched in (False, True):
            played = {
                scene.__name__: play(scene, dsn, onlooker, watched=watched) for scene in SCENES
            }
            told["watched" if watched else "unwatched"] = played
    print(json.dumps(told))


if __name__ == "__main__":
    main()
