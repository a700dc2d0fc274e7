"""What all tests of the SQLAlchemy layer share: real servers, and what could not be run here."""

from __future__ import annotations

import pytest
import sqlalchemy

from proxy import Proxy
from server_fixtures import (
    mariadb,
    mariadb_database,
    postgresql,
    postgresql_database,
)
from servers import Database
from unreached import NO_MYSQL, UNREACHED

__all__ = ["mariadb", "mariadb_database", "postgresql", "postgresql_database"]  # Fixtures.

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
