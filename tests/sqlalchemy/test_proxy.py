"""The proxy that cuts at COMMIT: what the client hears, and what the database holds."""

from __future__ import annotations

import contextlib
import time

import psycopg
import pytest
from sqlalchemy.exc import DBAPIError

from proxy import AFTER, BEFORE, PARTITION, Proxy
from servers import DRIVERS, Database, commit, until

SESSIONS = {
    "postgresql": "SELECT pid FROM pg_stat_activity"
    " WHERE pid <> pg_backend_pid() AND datname = current_database()",
    "mariadb": "SELECT id FROM information_schema.processlist"
    " WHERE id <> CONNECTION_ID() AND db = DATABASE()",
}
INSERT = "INSERT INTO t VALUES (1)"
# How a COMMIT looks on the wire is the driver's affair, what a cut does to it is not.
CUTS = [(driver, AFTER) for driver in DRIVERS]
CUTS += [(driver, mode) for driver in ("psycopg2", "pymysql") for mode in (BEFORE, PARTITION)]


class Scene:
    """A database with an empty table, and a way to it that can be cut."""

    def __init__(self, database: Database, proxy: Proxy) -> None:
        self.database, self.proxy = database, proxy
        database.sql("CREATE TABLE t (i INT)")

    def write(self, driver: str) -> None:
        commit(self.proxy.url(self.database.url(driver)), INSERT)

    def rows(self) -> int:
        return len(self.database.sql("SELECT i FROM t"))

    def sessions(self) -> int:
        return len(self.database.sql(SESSIONS[self.database.dialect]))


@contextlib.contextmanager
def opened(server):
    with server.database() as name, Proxy(server) as proxy:
        yield Scene(Database(server, name), proxy)


@pytest.mark.servers
@pytest.mark.parametrize(("driver", "mode"), CUTS)
def test_the_truth_after_a_cut_at_commit(request, driver, mode) -> None:
    with opened(request.getfixturevalue(DRIVERS[driver])) as scene:
        scene.proxy.cut_next_commit(mode)
        with pytest.raises(DBAPIError):
            scene.write(driver)
        assert scene.proxy.has_cut.wait(30)
        if mode == PARTITION:
            time.sleep(0.2)
            assert (scene.sessions(), scene.rows()) == (1, 0)
            scene.proxy.heal()
        assert until(lambda: scene.sessions() == 0)
        landed = int(mode == AFTER)
        assert scene.rows() == landed
        scene.write(driver)
        assert (scene.proxy.commits, scene.rows()) == (2, landed + 1)


@pytest.mark.parametrize("is_prepared", [False, True])
def test_a_commit_is_seen_in_the_extended_protocol(postgresql, is_prepared) -> None:
    with opened(postgresql) as scene:
        url = scene.proxy.url(scene.database.url("psycopg"))
        target = url.set(drivername="postgresql").render_as_string(hide_password=False)
        connection = psycopg.connect(target, autocommit=True)
        scene.proxy.cut_next_commit(BEFORE)
        for statement in ("BEGIN", INSERT):
            connection.execute(statement, prepare=is_prepared)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("commit", prepare=is_prepared, binary=True)
        connection.close()
        assert scene.proxy.commits == 1
        assert scene.rows() == 0


def test_all_connections_can_be_lost_at_once(database, proxy) -> None:
    database.sql("CREATE TABLE t (i INT)")
    connection = database.raw(port=proxy.port)
    cursor = connection.cursor()
    cursor.execute(INSERT)
    proxy.cut_all()
    with pytest.raises(Exception, match="(?i)lost connection|closed the connection"):
        cursor.execute(INSERT)
    assert database.sql("SELECT i FROM t") == [(1,)]
    with contextlib.suppress(Exception):
        connection.close()
