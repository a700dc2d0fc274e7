"""Answers of real Flask and FastAPI applications to real errors of SQLite."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3

import fastapi
import flask
import httpx
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine

import turnwise.fastapi
import turnwise.flask
from turnwise.errors import QueueFullError

SCHEMA = """
    CREATE TABLE team (id INTEGER PRIMARY KEY);
    CREATE TABLE user (
        email TEXT NOT NULL UNIQUE,
        age INT CONSTRAINT ck_age CHECK (age > 17),
        team INT REFERENCES team
    );
    INSERT INTO user VALUES ('a@b.c', 20, NULL);
"""
SECRET = "swordfish"
CONSTRAINTS = {"user.email": "This address is taken", "ck_age": (400, "Too young")}
# Statement, status, reason, detail.
ANSWERS = [
    ("INSERT INTO user VALUES ('a@b.c', 20, NULL)", 409, "unique", "This address is taken"),
    ("INSERT INTO user VALUES ('swordfish', 20, 7)", 409, "foreign_key", None),
    ("INSERT INTO user VALUES ('swordfish', 9, NULL)", 400, "check", "Too young"),
    ("INSERT INTO user VALUES (NULL, 20, NULL)", 422, "not_null", None),
    ("INSERT INTO team VALUES ('swordfish')", 422, "data", None),
    ("UPDATE swordfish SET email = 'swordfish'", 500, "permanent", None),
]


class OddError(Exception):
    pass


class Site:
    """One application: an engine, a file, and what its requests do."""

    def __init__(self, path):
        self.path = path
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.executescript(SCHEMA)
        self.engine = sqlalchemy.create_engine(f"sqlite:///{path}", connect_args={"timeout": 0})
        sqlalchemy.event.listen(self.engine, "connect", self._enforce)

    @staticmethod
    def _enforce(connection, record):
        connection.execute("PRAGMA foreign_keys = ON")

    def through_sqlalchemy(self, statement):
        with self.engine.begin() as connection:
            connection.exec_driver_sql(statement)

    def bare(self, statement):
        with contextlib.closing(sqlite3.connect(self.path, timeout=0)) as connection:
            self._enforce(connection, None)
            with connection:
                connection.execute(statement)

    def fail(self, how):
        raise {"own": QueueFullError("x"), "odd": OddError("x"), "odder": KeyError("x")}[how]


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path / "app.db")
    yield site
    site.engine.dispose()


def flask_client(site, **settings):
    app = flask.Flask(__name__)
    turnwise.flask.add_error_handlers(app, constraints=CONSTRAINTS, **settings)

    @app.post("/<how>")
    def run(how):
        getattr(site, how)(flask.request.get_data(as_text=True))
        return "done"

    @app.errorhandler(OddError)
    def odd(error):
        return "odd", 418

    client = app.test_client()
    return lambda how, text: client.post(f"/{how}", data=text)


def fastapi_client(site, **settings):
    app = fastapi.FastAPI()
    turnwise.fastapi.add_error_handlers(app, constraints=CONSTRAINTS, **settings)

    @app.post("/{how}")
    def run(how: str, text: str):
        getattr(site, how)(text)
        return "done"

    @app.exception_handler(OddError)
    async def odd(request, error):
        return fastapi.Response("odd", 418)

    return lambda how, text: request(app, "POST", f"/{how}", params={"text": text})


def request(app, *words, **settings):
    async def send():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(*words, **settings)

    return asyncio.run(send())


@pytest.fixture(params=[flask_client, fastapi_client], ids=["flask", "fastapi"])
def make(request):
    return request.param


def body(response):
    return response.json() if callable(response.json) else response.json


def header(response, name):
    return response.headers.get(name)


@pytest.mark.parametrize("how", ["through_sqlalchemy", "bare"])
@pytest.mark.parametrize(("statement", "status", "reason", "detail"), ANSWERS)
def test_answers(site, make, how, statement, status, reason, detail):
    response = make(site)(how, statement)
    assert response.status_code == status
    assert header(response, "Content-Type") == "application/problem+json"
    problem = body(response)
    assert (problem["status"], problem["reason"]) == (status, reason)
    assert detail is None or problem["detail"] == detail
    assert SECRET not in response.text
    assert header(response, "Retry-After") is None


@pytest.mark.parametrize("how", ["through_sqlalchemy", "bare"])
def test_a_locked_database(site, make, how):
    with contextlib.closing(sqlite3.connect(site.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        response = make(site, retry_after=2)(how, "INSERT INTO team VALUES (1)")
    assert (response.status_code, header(response, "Retry-After")) == (503, "2")
    assert body(response)["reason"] == "contention"


def test_errors_of_turnwise(site, make):
    response = make(site)("fail", "own")
    assert (response.status_code, body(response)["reason"]) == (503, "overload")


def test_errors_of_the_application_stay_its_own(site, make):
    post = make(site)
    assert post("fail", "odd").status_code == 418
    response = post("fail", "odder")
    assert response.status_code == 500
    assert header(response, "Content-Type") != "application/problem+json"


def test_what_works_is_left_alone(site, make):
    assert make(site)("through_sqlalchemy", "INSERT INTO team VALUES (1)").status_code == 200


def test_customize(site, make):
    post = make(site, customize=lambda problem, error: problem._replace(status=499, body={"a": 1}))
    response = post("bare", "INSERT INTO user VALUES ('a@b.c', 20, NULL)")
    assert (response.status_code, body(response)) == (499, {"a": 1})


def test_a_narrower_handler_goes_first(site):
    app = flask.Flask(__name__)
    turnwise.flask.add_error_handlers(app)

    @app.errorhandler(sqlalchemy.exc.IntegrityError)
    def mine(error):
        return "mine", 418

    @app.get("/")
    def run():
        site.through_sqlalchemy("INSERT INTO user VALUES ('a@b.c', 20, NULL)")

    assert app.test_client().get("/").status_code == 418


def test_an_asynchronous_endpoint(site):
    app = fastapi.FastAPI()
    turnwise.fastapi.add_error_handlers(app)

    @app.get("/")
    async def run():
        engine = create_async_engine(f"sqlite+aiosqlite:///{site.path}")
        try:
            async with engine.begin() as connection:
                await connection.exec_driver_sql("INSERT INTO user VALUES ('a@b.c', 20, NULL)")
        finally:
            await engine.dispose()

    response = request(app, "GET", "/")
    assert (response.status_code, body(response)["reason"]) == (409, "unique")
