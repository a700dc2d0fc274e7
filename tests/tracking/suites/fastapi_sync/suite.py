"""What the authors of the garden test."""

from concurrent.futures import ThreadPoolExecutor

import app as garden
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import StaticPool, create_engine, select
from sqlalchemy.orm import Session


@pytest.fixture(name="client")
def client_with_a_database_of_its_own():
    garden.DATABASE.unlink(missing_ok=True)
    with TestClient(garden.app) as client:
        yield client


@pytest.fixture(name="session")
def session_in_memory():
    engine = create_engine(
        "sqlite://", connect_args={"check_same_thread": False}, poolclass=StaticPool
    )
    garden.Base.metadata.create_all(engine)
    with Session(engine) as session:
        yield session
    engine.dispose()


@pytest.fixture(name="shared")
def client_that_shares_the_session(session):
    garden.app.dependency_overrides[garden.get_session] = lambda: session
    yield TestClient(garden.app)
    garden.app.dependency_overrides.clear()


@pytest.fixture(name="rolled_back")
def client_in_an_outer_transaction(client):
    with garden.engine.connect() as connection:
        outer = connection.begin()
        session = Session(connection, join_transaction_mode="create_savepoint")
        garden.app.dependency_overrides[garden.get_session] = lambda: session
        yield client
        garden.app.dependency_overrides.clear()
        session.close()
        outer.rollback()


def test_life_of_a_plant(client, no_open_sessions):
    assert client.get("/plants").json() == []
    made = client.post("/plants", json={"id": 9000, "name": "fern", "height": 30})
    assert made.status_code == 201
    number = made.json()["id"]
    assert number != 9000
    assert client.get(f"/plants/{number}").json()["name"] == "fern"
    for name in ("moss", "ivy"):
        client.post("/plants", json={"name": name})
    assert len(client.get("/plants").json()) == 3
    assert [each["name"] for each in client.get("/plants?offset=1&limit=1").json()] == ["moss"]
    changed = client.patch(f"/plants/{number}", json={"name": "tall fern"})
    assert changed.json()["height"] == 30
    assert client.delete(f"/plants/{number}").json() == {"ok": True}
    for ask in (client.get, client.delete):
        assert ask(f"/plants/{number}").status_code == 404
    assert client.patch(f"/plants/{number}", json={"name": "x"}).status_code == 404
    assert client.post("/plants", json={}).status_code == 422


def test_streams(client, no_open_sessions):
    for name in "abcde":
        client.post("/plants", json={"name": name})
    assert client.get("/plants.csv").text.splitlines()[-1] == "5,e"
    assert client.get("/names.csv").text.splitlines() == list("abcde")
    with client.stream("GET", "/plants.csv") as response:
        assert len(list(response.iter_lines())) == 5


def test_background(client, no_open_sessions):
    client.post("/plants", json={"name": "fern"})
    for _ in range(3):
        assert client.post("/plants/1/waterings").status_code == 202
    assert client.get("/plants/1/waterings").json() == {"count": 3}


def test_summaries(client, no_open_sessions):
    client.post("/plants", json={"name": "fern"})
    assert client.get("/summary").json() == client.get("/async-summary").json() == {"plants": 1}


def test_websocket(client, no_open_sessions):
    with client.websocket_connect("/counts") as websocket:
        for _ in range(2):
            websocket.send_text("?")
            assert websocket.receive_json() == {"plants": 0}


def test_many_at_once(client, no_open_sessions):
    def grow(number):
        client.post("/plants", json={"name": f"plant {number}"})
        return client.get("/plants").status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(grow, range(24))) == {200}
    assert client.get("/summary").json() == {"plants": 24}


def test_shared_session(session, shared):
    session.add(garden.Plant(name="fern"))
    session.commit()
    assert shared.get("/plants").json()[0]["name"] == "fern"
    assert shared.patch("/plants/1", json={"name": "moss"}).status_code == 200
    assert session.get(garden.Plant, 1).name == "moss"
    assert shared.delete("/plants/1").json() == {"ok": True}
    assert session.get(garden.Plant, 1) is None


def test_shared_session_that_a_request_begins(session, shared):
    assert shared.post("/plants", json={"name": "fern"}).status_code == 201
    assert len(shared.get("/plants").json()) == 1
    assert session.scalars(select(garden.Plant.name)).all() == ["fern"]


@pytest.mark.parametrize("time", [1, 2])
def test_outer_transaction(rolled_back, time):
    assert rolled_back.post("/plants", json={"name": "fern"}).json()["id"] == 1
    assert len(rolled_back.get("/plants").json()) == 1
