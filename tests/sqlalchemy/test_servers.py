"""The servers that the tests run on: private, unprivileged, and gone with the process that started them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from servers import DRIVERS, SERVERS, commit, until

STARTER = """
import sys, time
import servers
server = getattr(servers, sys.argv[1])()
print(server.pid, server.folder, flush=True)
time.sleep(600)
"""


def test_a_database_is_empty_and_its_changes_are_seen(database) -> None:
    assert database.sql("CREATE TABLE t (i INT); INSERT INTO t VALUES (1), (2)") == []
    assert database.sql("SELECT i FROM t ORDER BY i") == [(1,), (2,)]
    with database.server.database() as other:
        assert other != database.name
        with pytest.raises(Exception, match="exist"):
            database.server.sql(other, "SELECT i FROM t")


def test_a_database_goes_also_under_an_open_transaction(database) -> None:
    server = database.server
    with server.database() as name:
        open_one = server.raw(name)
        cursor = open_one.cursor()
        for statement in ("CREATE TABLE t (i INT)", "BEGIN", "INSERT INTO t VALUES (1)"):
            cursor.execute(statement)
    with pytest.raises(Exception, match="(?i)not exist|unknown database|denied"):
        server.raw(name)
    with contextlib.suppress(Exception):
        open_one.close()


def test_the_role_is_no_superuser(database) -> None:
    forbidden = {
        "postgresql": ["SET deadlock_timeout = '1s'", "CREATE DATABASE other", "CREATE ROLE other"],
        "mariadb": ["SET GLOBAL wait_timeout = 1", "CREATE DATABASE other", "CREATE USER other"],
    }
    for statement in forbidden[database.dialect]:
        with pytest.raises(Exception, match="(?i)denied"):
            database.sql(statement)


def test_deadlocks_are_found_soon(postgresql_database) -> None:
    assert postgresql_database.sql("SHOW deadlock_timeout") == [("100ms",)]


def test_a_server_is_private_and_unprivileged(database) -> None:
    process = psutil.Process(database.server.pid)
    assert process.uids().effective != 0
    listens = [c.laddr for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
    assert listens == [(database.server.host, database.server.port)]
    assert database.server.host == "127.0.0.1"
    assert database.server.version >= {"postgresql": (15,), "mariadb": (10, 11)}[database.dialect]


@pytest.mark.parametrize("driver", DRIVERS)
def test_every_driver_connects(request, driver) -> None:
    server = request.getfixturevalue(DRIVERS[driver])
    with server.database() as name:
        assert commit(server.url(driver, name), "SELECT 42") == 42


@pytest.mark.parametrize("kind", SERVERS.values())
def test_a_server_ends_with_the_process_that_started_it(kind) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, kind.__name__],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with starter:
        pid, folder = starter.stdout.readline().split(maxsplit=1)
        family = [psutil.Process(int(pid)), *psutil.Process(int(pid)).children(recursive=True)]
        assert Path(folder.strip()).is_dir()
        starter.kill()
    # Not by noticing that its folder is gone, which takes PostgreSQL up to a minute.
    assert until(lambda: not any(process.is_running() for process in family), 10)
    assert until(lambda: not Path(folder.strip()).exists())
