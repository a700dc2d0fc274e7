"""Engines of every driver, used in one way: what is asynchronous runs in a loop of its own."""

from __future__ import annotations

import asyncio
import gc

from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.util import greenlet_spawn

ASYNCHRONOUS = {"psycopg_async", "asyncpg", "aiomysql", "asyncmy", "aiosqlite"}


def use(url, body, **options):
    """Call ``body(engine)`` with an engine for the URL, and dispose of it."""
    if url.drivername.partition("+")[2] not in ASYNCHRONOUS:
        engine = create_engine(url, **options)
        try:
            return body(engine)
        finally:
            engine.dispose()

    async def main():
        engine = create_async_engine(url, **options)
        try:
            return await greenlet_spawn(body, engine.sync_engine)
        finally:
            await engine.dispose()
            gc.collect()

    return asyncio.run(main())
