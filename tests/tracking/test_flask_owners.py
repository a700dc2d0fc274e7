"""Owners of Flask requests: `turnwise.flask.setup`, and `Turnwise(app, db)`."""

from __future__ import annotations

import io
import json

import flask
import pytest
import sqlalchemy as sa
from flask_sqlalchemy import SQLAlchemy
from werkzeug.exceptions import ImATeapot
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import Client

from turnwise.flask import OwnerMiddleware, Turnwise, setup
from turnwise.tracking import owners
from turnwise.tracking.watching import is_watching, leases, unwatch


@pytest.fixture
def engine():
    engine = sa.create_engine("sqlite://")
    yield engine
    unwatch()
    engine.dispose()


class Notes(list):
    """The places that were passed, each with the owner's phase."""

    def note(self, place):
        owner = owners.current()
        self.append((place, owner and owner.phase))
        return owner


@pytest.fixture
def notes():
    return Notes()


@pytest.fixture
def app(notes):
    app = flask.Flask("site")
    app.seen = []

    @app.before_request
    def keep():
        app.seen.append(owners.current())

    @app.teardown_appcontext
    def teardown(error):
        notes.note("teardown")

    @app.get("/items/<int:number>")
    def item(number):
        owner = notes.note("view")
        return owner.name if owner else "nobody"

    def chunks():
        for i in range(2):
            notes.note(f"chunk {i}")
            yield str(i)

    @app.get("/stream")
    def stream():
        notes.note("view")
        response = flask.Response(chunks())
        response.call_on_close(lambda: notes.note("closed"))
        return response

    @app.get("/context")
    def context():
        return flask.Response(flask.stream_with_context(chunks()))

    @app.get("/file")
    def file():
        return flask.send_file(io.BytesIO(b"content"), download_name="file.txt")

    @app.get("/fails")
    def fails():
        notes.note("view")
        raise ZeroDivisionError

    @app.get("/teapot")
    def teapot():
        raise ImATeapot

    @app.errorhandler(ZeroDivisionError)
    def answer(error):
        notes.note("handler")
        return "sorry", 500

    shop = flask.Blueprint("shop", "shop", url_prefix="/shops/<shop>")

    @shop.get("/items")
    def items(shop):
        return "items"

    app.register_blueprint(shop)
    return app


def get(app, path, **settings):
    """A whole request, as a server makes it."""
    with app.test_client().get(path, **settings) as response:
        return response.get_data(as_text=True)


def test_the_route_is_known_before_any_code_of_the_application(app, engine):
    setup(app, engine)
    names = []
    app.before_request_funcs[None].insert(0, lambda: names.append(owners.current().name))
    assert get(app, "/items/7") == "GET /items/<int:number>"
    assert names == ["GET /items/<int:number>"]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/shops/north/items", "GET /shops/<shop>/items"),
        ("/teapot", "GET /teapot"),
        ("/none/7", "GET /none/7"),
    ],
)
def test_a_request_is_named_by_its_route(app, engine, path, name):
    setup(app, engine)
    get(app, path)
    assert [owner.name for owner in app.seen] == [name]
    assert app.seen[0].phase == "ended"


def test_a_mounted_application_keeps_its_prefix(app, engine):
    setup(app, engine)
    site = DispatcherMiddleware(flask.Flask("root"), {"/shop": app})
    with Client(site).get("/shop/items/7") as response:
        assert response.text == "GET /shop/items/<int:number>"


def test_the_session_is_torn_down_before_the_answer_is_sent(app, engine, notes):
    setup(app, engine)
    get(app, "/items/7")
    assert notes == [("view", "running"), ("teardown", "running")]


def test_a_generator_runs_after_the_teardown(app, engine, notes):
    setup(app, engine)
    assert get(app, "/stream") == "01"
    assert notes == [
        ("view", "running"),
        ("teardown", "running"),
        ("chunk 0", "running"),
        ("chunk 1", "streaming"),
        ("closed", "responded"),
    ]


def test_a_generator_with_its_context_is_torn_down_at_its_end(app, engine, notes):
    setup(app, engine)
    assert get(app, "/context") == "01"
    assert notes == [
        ("teardown", "running"),
        ("chunk 0", "running"),
        ("chunk 1", "streaming"),
        ("teardown", "streaming"),
    ]


def test_an_answer_that_a_test_never_reads_leaves_no_owner_behind(app, engine):
    setup(app, engine)
    client = app.test_client()
    for _ in range(2):
        assert client.get("/context").status_code == 200
        assert owners.current() is None
    assert [owner.parent for owner in app.seen] == [None, None]


def test_a_client_that_keeps_the_context(app, engine):
    setup(app, engine)
    with app.test_client() as client:
        client.get("/items/7")
        assert flask.request.path == "/items/7"
        assert owners.current() is None


def test_a_file(app, engine):
    setup(app, engine)
    assert get(app, "/file") == "content"
    assert app.seen[0].phase == "ended"


def test_errors_are_answered_in_the_name_of_the_owner(app, engine, notes):
    setup(app, engine)
    assert get(app, "/fails") == "sorry"
    assert notes == [("view", "running"), ("handler", "running"), ("teardown", "running")]


def test_an_error_that_nobody_handles_ends_the_request(app, engine):
    app.error_handler_spec[None][None].clear()
    app.testing = True
    setup(app, engine)
    with pytest.raises(ZeroDivisionError):
        get(app, "/fails")
    assert app.seen[0].phase == "ended"
    assert owners.current() is None


def test_the_id_comes_from_the_header(app, engine):
    setup(app, engine)
    get(app, "/items/7", headers={"X-Request-ID": "9f2c"})
    assert app.seen[0].id == "9f2c"


def test_it_can_be_called_again_and_wrapped(app, engine):
    setup(app, engine)
    setup(app, engine)
    app.wsgi_app = ProxyFix(app.wsgi_app)
    setup(app, engine)
    assert get(app, "/items/7") == "GET /items/<int:number>"
    assert app.seen[0].parent is None


def test_a_broken_signal_fails_no_request(app, engine, monkeypatch):
    setup(app, engine)
    monkeypatch.setattr("turnwise.flask.tracking.name_of", None)
    assert get(app, "/items/7") == "GET /items/7"


def test_an_unknown_setting_changes_nothing(app, engine):
    before = app.wsgi_app
    with pytest.raises(TypeError, match="patience"):
        setup(app, engine, patience=3)
    assert app.wsgi_app == before
    assert not is_watching()


@pytest.fixture
def db(app, tmp_path):
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path / 'site.db'}"
    db = SQLAlchemy(app)
    yield db
    unwatch()
    with app.app_context():
        for engine in db.engines.values():
            engine.dispose()


def test_the_extension_begins_owners_and_watches(app, db):
    assert not is_watching()
    Turnwise(app, db)
    assert is_watching()

    @app.get("/lease")
    def lease():
        db.session.execute(sa.text("SELECT 1"))
        return [lease.owner_name for lease in leases()]

    assert json.loads(get(app, "/lease")) == ["GET /lease"]
    assert leases() == ()
    assert get(app, "/items/7") == "GET /items/<int:number>"


def test_the_extension_can_be_told_not_to(app, db):
    Turnwise(app, db, watch=False)
    assert not is_watching()
    assert not isinstance(app.wsgi_app, OwnerMiddleware)
    assert get(app, "/items/7") == "nobody"
