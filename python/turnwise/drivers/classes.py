"""The root exceptions of the drivers that an application uses, for frameworks that want classes."""

from __future__ import annotations

import sys

_ROOTS = (
    ("sqlite3", "Error"),
    ("psycopg2", "Error"),
    ("psycopg", "Error"),
    ("asyncpg", "PostgresError"),
    ("asyncpg", "InterfaceError"),
    ("pg8000.exceptions", "Error"),
    ("pymysql.err", "MySQLError"),
    ("MySQLdb", "MySQLError"),
    ("asyncmy.errors", "MySQLError"),
    ("mysql.connector.errors", "Error"),
    ("mariadb", "Error"),
    ("sqlalchemy.exc", "DBAPIError"),
    ("sqlalchemy.exc", "TimeoutError"),
    ("sqlalchemy.exc", "PendingRollbackError"),
    ("sqlalchemy.orm.exc", "StaleDataError"),
    ("turnwise.errors", "TurnwiseError"),
)


def loaded_roots() -> list[type[Exception]]:
    """The root exceptions of every driver that has been imported, of SQLAlchemy and turnwise."""
    found = []
    for module, name in _ROOTS:
        root = getattr(sys.modules.get(module), name, None)
        if isinstance(root, type) and issubclass(root, Exception):
            found.append(root)
    return found
