"""The proxy that cuts at COMMIT: what the client hears, and what the database holds."""

from __future__ import annotations

import asyncio
import time

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from proxy import AFTER, MODES, PARTITION, Proxy
from servers import Database, MariaDB, PostgreSQL
from test_servers import until

DRIVERS = [
    pytest.param(kind.dialect, name, id=name)
    for kind in (PostgreSQL, MariaDB)
    for name in kind.drivers
]
ASYNCHRONOUS = {"psycopg_async", "asyncpg", "aiomysql", "asyncmy"}
INSERT = text("INSERT INTO t VALUES (1)")


SESSIONS = {
    "postgresql": "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()",
    "mariadb": "SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID() AND db = DATABASE()",
}


def write(url, driver) -> None:
    """Insert one row and commit."""
    if driver not in ASYNCHRONOUS:
        engine = create_engine(url, poolclass=NullPool)
        with engine.connect() as connection:
            connection.execute(INSERT)
            connection.commit()
        return

    async def work():
        engine = create_async_engine(url, poolclass=NullPool)
        async with engine.connect() as connection:
            await connection.execute(INSERT)
            await connection.commit()

    asyncio.run(work())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("dialect", "driver"), DRIVERS)
def test_the_truth_after_each_cut(request, dialect, driver, mode) -> None:
    server = request.getfixturevalue(dialect)
    with server.database() as name, Proxy(server) as proxy:
        database = Database(server, name)
        database.sql("CREATE TABLE t (i INT)")
        proxy.cut_next_commit(mode)
        with pytest.raises(Exception) as caught:
            write(proxy.url(database.url(driver)), driver)
        assert proxy.has_cut.wait(30)
        assert proxy.commits == 1
        assert "COMMIT" not in str(caught.value)
        sessions = lambda: len(database.sql(SESSIONS[dialect]))
        rows = lambda: len(database.sql("SELECT i FROM t"))
        if mode == PARTITION:
            time.sleep(0.2)
            assert (sessions(), rows()) == (1, 0)
            proxy.heal()
        assert until(lambda: sessions() == 0)
        assert rows() == (1 if mode == AFTER else 0)
        print(driver, mode, type(caught.value), caught.value)
        write(proxy.url(database.url(driver)), driver)
        assert proxy.commits == 2
        assert rows() == (2 if mode == AFTER else 1)
