"""What a strict run must find."""

from suite import client_with_a_database_of_its_own  # noqa: F401 - a fixture


def test_on_the_loop(client):
    client.get("/wrong")


def test_in_the_background(client):
    client.post("/plants", json={"name": "fern"})
    client.post("/plants/1/wrong")
