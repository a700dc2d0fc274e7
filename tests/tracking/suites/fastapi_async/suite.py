"""What the authors of the shelf test."""

import asyncio

import app as shelf
import pytest
from fastapi.testclient import TestClient
from httpx import ASGITransport, AsyncClient
from sqlalchemy import select


@pytest.fixture(name="client")
def client_with_a_database_of_its_own():
    shelf.DATABASE.unlink(missing_ok=True)
    with TestClient(shelf.app) as client:
        yield client


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(name="browser")
async def client_on_the_loop_of_the_test(anyio_backend):
    shelf.DATABASE.unlink(missing_ok=True)
    transport = ASGITransport(shelf.app)
    async with (
        shelf.lifespan(shelf.app),
        AsyncClient(transport=transport, base_url="http://a") as it,
    ):
        yield it


@pytest.fixture(name="session")
async def session_that_requests_share(browser):
    async with shelf.make_session() as session:
        shelf.app.dependency_overrides[shelf.get_session] = lambda: session
        yield session
        shelf.app.dependency_overrides.clear()


def test_books(client, no_open_sessions):
    assert client.get("/books").json() == []
    for title in ("one", "two"):
        assert client.post("/books", json={"title": title}).status_code == 201
    assert [each["title"] for each in client.get("/books").json()] == ["one", "two"]
    assert client.get("/books.txt").text == "one\ntwo\n"
    with client.stream("GET", "/books.txt") as response:
        assert list(response.iter_lines()) == ["one", "two"]


def test_background(client, no_open_sessions):
    client.post("/books", json={"title": "one"})
    for _ in range(2):
        assert client.post("/books/1/loans").status_code == 202
    assert client.post("/books/2/loans").status_code == 404
    assert client.get("/books").json()[0]["lent"] == 2


def test_summary(client, no_open_sessions):
    assert client.get("/summary").json() == [0, 0, 0]


def test_websocket(client, no_open_sessions):
    with client.websocket_connect("/counts") as websocket:
        for _ in range(2):
            websocket.send_text("?")
            assert websocket.receive_json() == 0


@pytest.mark.anyio
async def test_many_at_once(browser, no_open_sessions):
    async def add(number):
        await browser.post("/books", json={"title": f"book {number}"})
        return (await browser.get("/books")).status_code

    assert set(await asyncio.gather(*map(add, range(12)))) == {200}
    async with shelf.make_session() as session:
        assert len((await session.scalars(select(shelf.Book))).all()) == 12


@pytest.mark.anyio
async def test_shared_session(browser, session):
    assert (await browser.post("/books", json={"title": "one"})).status_code == 201
    assert len((await browser.get("/books")).json()) == 1
    assert (await session.scalars(select(shelf.Book.title))).all() == ["one"]
    assert len((await browser.get("/books")).json()) == 1
