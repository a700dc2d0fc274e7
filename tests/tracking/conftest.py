"""What the incidents share: the private servers, one database with rows, and the tracker off and on."""

from __future__ import annotations

import pytest
import sqlalchemy

import turnwise
from redis_server import redis
from server_fixtures import mariadb, mariadb_database, postgresql, postgresql_database
from servers import Database
from shop import SCHEMA
from sightings import Onlooker

# Fixtures.
__all__ = ["mariadb", "mariadb_database", "postgresql", "postgresql_database", "redis"]

ONCE = (
    "test_asgi",
    "test_blocked_routes",
    "test_budget",
    "test_celery",
    "test_fastapi",
    "test_pytest_plugin",
    "test_reporting_socket",
    "test_top",
    "test_wsgi",
)
"""Modules that `make test` runs with one version of SQLAlchemy: their processes take their time, or
they have nothing to do with it."""


def pytest_report_header() -> str:
    return f"SQLAlchemy {sqlalchemy.__version__}"


def pytest_collection_modifyitems(items) -> None:
    for item in items:
        if item.path.name.startswith(ONCE):
            item.add_marker("once")


@pytest.fixture(scope="session")
def shop(postgresql):
    """A PostgreSQL database with items and parts, which the scenes leave as they found it."""
    with postgresql.database() as name:
        postgresql.sql(name, SCHEMA)
        yield Database(postgresql, name)


@pytest.fixture(scope="session")
def mariadb_shop(mariadb):
    """The same on MariaDB."""
    with mariadb.database() as name:
        mariadb.sql(name, SCHEMA)
        yield Database(mariadb, name)


@pytest.fixture
def onlooker(shop):
    """A connection beside the application's, which says what PostgreSQL sees."""
    with Onlooker(f"postgresql://app:app@{shop.server.host}:{shop.server.port}/{shop.name}") as it:
        yield it


@pytest.fixture
def engine(shop):
    """An engine of psycopg2, whose connections are named to the onlooker."""
    engine = sqlalchemy.create_engine(shop.url("psycopg2"))
    yield engine
    engine.dispose()


@pytest.fixture
def watch():
    """``watch(**settings)``, quiet and from no findings on; unwatched at the end."""

    def begin(**settings):
        turnwise.watch(**{"log": False, **settings})
        turnwise.clear_findings()

    yield begin
    turnwise.unwatch()
    turnwise.clear_findings()
