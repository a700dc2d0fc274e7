"""Fixtures of the private servers, for the conftest of each folder that needs them."""

from __future__ import annotations

import pytest

from servers import Database, MariaDB, MissingServerError, PostgreSQL


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
