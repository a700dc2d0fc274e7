"""What the tests of the tracker share: the private servers."""

from __future__ import annotations

import sqlalchemy

from redis_server import redis
from server_fixtures import mariadb, mariadb_database, postgresql, postgresql_database

__all__ = ["mariadb", "mariadb_database", "postgresql", "postgresql_database", "redis"]  # Fixtures.


def pytest_report_header() -> str:
    return f"SQLAlchemy {sqlalchemy.__version__}"
