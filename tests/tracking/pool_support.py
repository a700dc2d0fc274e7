"""What the tests of pools share: connections that are ended, and the findings about them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time

import pytest
from sqlalchemy import util

from servers import DRIVERS, Database, until
from turnwise.tracking import watching

NUMBER = {"postgresql": "SELECT pg_backend_pid()", "mariadb": "SELECT CONNECTION_ID()"}
END = {"postgresql": "SELECT pg_terminate_backend({})", "mariadb": "KILL CONNECTION {}"}
LIVING = {
    "postgresql": "SELECT pid FROM pg_stat_activity WHERE datname = '{}' AND usename = 'app'",
    "mariadb": "SELECT id FROM information_schema.processlist WHERE db = '{}' AND user = 'app'",
}
ALL = [*DRIVERS]
COMMON = ["psycopg2", "psycopg", "asyncpg", "pymysql", "mysqldb"]
QUIET = [
    # Drivers leave the sockets of lost connections to the garbage collector.
    pytest.mark.filterwarnings("ignore:.*unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def number_of(connection):
    """The server's number of SQLAlchemy's connection."""
    name = "postgresql" if connection.dialect.name == "postgresql" else "mariadb"
    return connection.exec_driver_sql(NUMBER[name]).scalar()


def living(database):
    """The numbers of the application's connections, as an administrator sees them."""
    rows = database.sql(LIVING[database.dialect].format(database.name), admin=True)
    return {row[0] for row in rows}


def end(database, number):
    """End a connection at its server, and wait until it is gone."""
    database.sql(END[database.dialect].format(number), admin=True)
    assert until(lambda: number not in living(database))
    time.sleep(0.02)  # Over the loopback, the news is there by then.


def crash(database, victim, *neighbours):
    """Kill a process of PostgreSQL, which ends the others too, and wait until it is back."""
    os.kill(victim, signal.SIGKILL)
    for number in neighbours:
        assert until(lambda number=number: not os.path.exists(f"/proc/{number}"))
    assert until(lambda: _answers(database))


def _answers(database):
    try:
        return database.sql("SELECT 1", admin=True) == [(1,)]
    except Exception:
        return False


def pause(engine, seconds):
    """Let time pass, and the event loop of an asynchronous engine run."""
    if engine.dialect.is_async:
        util.await_only(asyncio.sleep(seconds))
    else:
        time.sleep(seconds)


@contextlib.contextmanager
def database_of(request, driver):
    """A fresh database on the driver's server."""
    server = request.getfixturevalue(DRIVERS[driver])
    with server.database() as name:
        yield Database(server, name)


class Reports(list):
    """The findings."""

    @property
    def codes(self):
        return [finding.code for finding in self]


@pytest.fixture
def reports():
    """What is found while everything is watched."""
    found = Reports()
    watching.watch(log=False)
    watching.clear_findings()
    subscription = watching.on_finding(found.append)
    yield found
    subscription.cancel()
    watching.unwatch()
    watching.clear_findings()
