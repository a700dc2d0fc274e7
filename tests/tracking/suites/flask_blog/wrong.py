"""What a strict run must find."""

from suite import app, client  # noqa: F401 - fixtures


def test_in_a_thread(client):  # noqa: F811
    client.get("/wrong")
