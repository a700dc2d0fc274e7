"""What a strict run must find."""

import asyncio

import app as shelf
import pytest
from suite import (  # noqa: F401 - fixtures
    anyio_backend,
    client_on_the_loop_of_the_test,
    client_with_a_database_of_its_own,
)


def test_in_the_background(client):
    client.post("/books", json={"title": "one"})
    client.post("/books/1/wrong")


@pytest.mark.anyio
async def test_after_the_response(browser):
    await browser.get("/wrong")
    await asyncio.gather(*shelf.later, return_exceptions=True)
