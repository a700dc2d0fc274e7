"""The line that a lease names, whatever lies above and below it on the stack."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

import turnwise
from sightings import is_at, line_of

# Frames of no application, as those of a framework between a middleware and a handler.
LIBRARY = {}
exec("def through(n, call):\n    return through(n - 1, call) if n else call()", LIBRARY)
through = LIBRARY["through"]


@pytest.fixture
def engine(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path}/shop.db")
    yield engine
    engine.dispose()


def by_session(engine):
    with Session(engine) as session:
        session.execute(sa.text("SELECT 1"))  # line: session
        return turnwise.leases()[-1].opened


def by_core(engine):
    with engine.connect():  # line: core
        return turnwise.leases()[-1].opened


def by_loader(engine):
    with Session(engine) as session:
        session.connection()  # line: connection
        return turnwise.leases()[-1].opened


WAYS = {by_session: "session", by_core: "core", by_loader: "connection"}


@pytest.mark.parametrize("first", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("second", WAYS, ids=lambda way: way.__name__)
def test_frames_between_two_of_the_application_do_not_mislead(engine, watch, first, second):
    # Where the line of the last lease was may now be one of a middleware further out.
    watch()
    for frames in range(25):
        for way in (first, second, first):
            assert is_at(through(frames, lambda way=way: way(engine)), line_of(__file__, WAYS[way]))
            assert is_at(
                through(1, lambda way=way, n=frames: through(n, lambda: way(engine))),
                line_of(__file__, WAYS[way]),
            )


@pytest.mark.parametrize("driver", ["aiosqlite", "asyncpg"])
def test_lines_of_coroutines(tmp_path, watch, driver, request):
    url = f"sqlite+aiosqlite:///{tmp_path}/shop.db"
    if driver == "asyncpg":
        url = request.getfixturevalue("shop").url(driver)
    watch()

    async def handler(engine):
        async with AsyncSession(engine) as session:
            await session.execute(sa.text("SELECT 1"))  # line: coroutine
            return turnwise.leases()[-1].opened

    async def connected(engine):
        async with engine.connect():  # line: connected
            return turnwise.leases()[-1].opened

    async def main():
        engine = create_async_engine(url)
        try:
            for frames in range(25):
                for way, line in ((handler, "coroutine"), (connected, "connected")):
                    opened = await through(frames, lambda way=way: way(engine))
                    assert is_at(opened, line_of(__file__, line))
        finally:
            await engine.dispose()

    asyncio.run(main())
