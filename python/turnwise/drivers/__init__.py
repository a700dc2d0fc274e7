"""Reads the exceptions of every driver, in one place and without importing one.

A driver is known by the module of the exception's class or of one of its bases. What a class means
is never asked: mysql-connector raises a plain `DatabaseError` for a lock time-out, PyMySQL an
`OperationalError` for a check constraint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from turnwise.drivers import mysql, postgresql, sqlite
from turnwise.drivers.reading import Reading

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Reading", "dialect_of", "read"]

_DIALECTS = {
    "sqlite3": "sqlite",
    "aiosqlite": "sqlite",
    "psycopg2": "postgresql",
    "psycopg": "postgresql",
    "asyncpg": "postgresql",
    "pg8000": "postgresql",
    "MySQLdb": "mysql",
    "pymysql": "mysql",
    "aiomysql": "mysql",
    "asyncmy": "mysql",
    "mysql": "mysql",
    "mariadb": "mariadb",
}
_ADAPTER = "sqlalchemy.dialects."


def read(error: BaseException) -> Reading | None:
    """What the exception itself says; `None` if it is of no driver. Its causes are not looked at.

    MySQL and MariaDB share drivers. It is MariaDB where the driver is `mariadb`, the message names
    MariaDB or only MariaDB has the number; else MySQL.
    """
    for cls in type(error).__mro__:
        root = _root(cls.__module__ or "")
        dialect = _DIALECTS.get(root)
        if dialect == "sqlite":
            return sqlite.read(error)
        if dialect == "postgresql":
            reading = postgresql.read(error)
            return reading._replace(phase="connect") if _is_connecting(error) else reading
        if dialect is not None:
            return mysql.read(error, module=root)
    if isinstance(error, OSError):
        return _read_of_system(error)
    return None


def dialect_of(connection: object) -> str | None:
    """What a driver's connection speaks, its own or as SQLAlchemy adapts it; MariaDB is `mysql`."""
    for cls in type(connection).__mro__:
        dialect = _DIALECTS.get(_root(cls.__module__ or ""))
        if dialect is not None:
            return "mysql" if dialect == "mariadb" else dialect
    return None


def _is_connecting(error: BaseException) -> bool:
    """Whether asyncpg was connecting, which none of its errors tells."""
    return "asyncpg.connect_utils" in _modules(error.__traceback__)


def _modules(traceback: TracebackType | None) -> list[str]:
    """The modules that a traceback passes through, outermost first."""
    found = []
    while traceback is not None:
        found.append(str(traceback.tb_frame.f_globals.get("__name__", "")))
        traceback = traceback.tb_next
    return found


def _root(module: str) -> str:
    """The driver's package: of SQLAlchemy's adapters, that of the driver they adapt."""
    if module.startswith(_ADAPTER):
        return module.rpartition(".")[2]
    return module.partition(".")[0]


def _read_of_system(error: OSError) -> Reading | None:
    """An error of the operating system that came out of a driver: asyncpg wraps none of its own.

    A time-out without a number that did not happen at connect ended a statement, not a connection.
    """
    connecting = _is_connecting(error)
    modules = _modules(error.__traceback__)
    root = next((name for name in map(_root, reversed(modules)) if name in _DIALECTS), None)
    if root is None or (error.errno is None and not connecting):
        return None
    dialect = _DIALECTS[root]
    if dialect == "sqlite":
        return None
    if connecting:
        return Reading(dialect, postgresql.UNREACHABLE, phase="connect")
    return Reading(dialect, is_lost=True)
