"""Flask's teardown runs before the body of a streamed response."""

from __future__ import annotations

import flask
import pytest
import sqlalchemy as sa
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import scoped_session, sessionmaker
from werkzeug.test import EnvironBuilder

import turnwise
import turnwise.flask
from servers import until
from shop import Item
from sightings import IDLE_IN_TRANSACTION, alarms, codes, is_at, line_of, only


class Site:
    """Flask with a scoped session that is removed at teardown, as both their manuals advise."""

    def __init__(self, engine):
        self.app = app = flask.Flask("site")
        self.engine = engine
        self.session = session = scoped_session(sessionmaker(engine))
        app.teardown_appcontext(lambda error: session.remove())

        def rows():
            for item in session.scalars(sa.select(Item).order_by(Item.id)):  # line: streamed
                yield f"{item.name} "

        @app.get("/export/<kind>")
        def export(kind):
            session.get(Item, 1)
            if kind == "plain":
                return flask.Response(rows())
            return flask.Response(flask.stream_with_context(rows()))

        @app.get("/list")
        def listed():
            return " ".join(session.scalars(sa.select(Item.name).order_by(Item.id)))


def get(app, path):
    """A request as a server makes it: the body is read and closed after the application returned."""
    body = app(EnvironBuilder(path).get_environ(), lambda status, headers: None)
    try:
        return b"".join(body).decode()
    finally:
        body.close()


@pytest.fixture
def site(engine):
    site = Site(engine)
    yield site
    site.session.remove()


def test_a_plain_stream_leaves_a_transaction_open(site, onlooker):
    assert get(site.app, "/export/plain") == "tea milk "
    assert onlooker.states() == [IDLE_IN_TRANSACTION]
    site.session.remove()
    for path in ("/export/kept", "/list"):
        get(site.app, path)
        assert onlooker.states() == []


def test_a_plain_stream_is_named(site, watch):
    watch(grace=0.05)
    turnwise.flask.setup(site.app, site.engine)
    assert get(site.app, "/export/plain") == "tea milk "
    assert until(lambda: "held-past-owner" in codes(), 10)
    assert alarms() == ["held-past-owner"]
    finding = only("held-past-owner")
    assert finding.severity == "error"
    assert (finding.owner_kind, finding.owner_name) == ("request", "GET /export/<kind>")
    assert finding.phase == "ended"
    assert is_at(finding.opened, line_of(__file__, "streamed"))


@pytest.mark.parametrize(("path", "body"), [("/export/kept", "tea milk "), ("/list", "tea milk")])
def test_a_stream_with_context_and_a_plain_answer_are_clean(site, watch, path, body):
    watch(grace=0.05)
    turnwise.flask.setup(site.app, site.engine)
    assert get(site.app, path) == body
    assert turnwise.leases() == ()
    assert codes() == []


@pytest.fixture
def extension(shop):
    """Flask-SQLAlchemy, with a stream from the session that its request has captured."""
    app = flask.Flask("site")
    url = shop.url("psycopg2").render_as_string(hide_password=False)
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    db = SQLAlchemy(app)

    def rows(session):
        for name in session.scalars(sa.select(Item.name).order_by(Item.id)):
            yield f"{name} "

    @app.get("/export/<kind>")
    def export(kind):
        session = db.session()
        session.get(Item, 1)
        body = rows(session)
        return flask.Response(body if kind == "plain" else flask.stream_with_context(body))

    turnwise.flask.Turnwise(app, db)
    yield app
    with app.app_context():
        turnwise.uninstall(db)
        db.engine.dispose()


def test_flask_sqlalchemy_refuses_the_plain_stream_by_itself(extension, onlooker, watch):
    # Its sessions ask the application's context for their engine.
    watch()
    with pytest.raises(RuntimeError, match="application context"):
        get(extension, "/export/plain")
    assert onlooker.states() == []
    assert get(extension, "/export/kept") == "tea milk "
    assert codes() == []
