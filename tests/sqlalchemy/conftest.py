"""What all tests of the SQLAlchemy layer share: real servers, and what could not be run here."""

from __future__ import annotations

import pytest
import sqlalchemy

from proxy import Proxy
from servers import Database, MariaDB, MissingServerError, PostgreSQL
from unreached import NO_MYSQL, UNREACHED

ONCE = (
    "test_facts_",
    "test_servers",
    "test_proxy",
    "test_classification_servers",
    "test_guard_mysql",
    "test_batches",
    "test_claims",
    "test_advisory",
    "test_sorting",
    "test_story",
)
"""Modules that `make test` runs with one version of SQLAlchemy: they are about servers and drivers,
or go through its public names alone, and take their time."""


def pytest_report_header() -> list[str]:
    return [f"SQLAlchemy {sqlalchemy.__version__}", NO_MYSQL]


def pytest_terminal_summary(terminalreporter) -> None:
    terminalreporter.section("NOT run on a server")
    terminalreporter.write_line(NO_MYSQL)
    for row, reason in UNREACHED.items():
        terminalreporter.write_line(f"{row}: {reason}")


def pytest_collection_modifyitems(items) -> None:
    for item in items:
        if {"postgresql", "mariadb", "database"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("servers")
        if item.path.name.startswith(ONCE):
            item.add_marker("once")


def _started(kind):
    try:
        server = kind()
    except MissingServerError as error:
        pytest.fail(str(error), pytrace=False)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgresql():
    """A private PostgreSQL."""
    yield from _started(PostgreSQL)


@pytest.fixture(scope="session")
def mariadb():
    """A private MariaDB."""
    yield from _started(MariaDB)


@pytest.fixture
def postgresql_database(postgresql):
    """A fresh database on PostgreSQL."""
    with postgresql.database() as name:
        yield Database(postgresql, name)


@pytest.fixture
def mariadb_database(mariadb):
    """A fresh database on MariaDB."""
    with mariadb.database() as name:
        yield Database(mariadb, name)


@pytest.fixture(params=["postgresql", "mariadb"])
def database(request):
    """A fresh database on each of the servers."""
    server = request.getfixturevalue(request.param)
    with server.database() as name:
        yield Database(server, name)


@pytest.fixture
def proxy(database):
    """A proxy before the server of `database`."""
    with Proxy(database.server) as proxy:
        yield proxy
