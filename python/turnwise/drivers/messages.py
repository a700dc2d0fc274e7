"""Messages that stand in for a code, where a driver gives none: the last resort.

They are English and belong to SQLite, libpq, psycopg and the MySQL clients. libpq translates some
of PostgreSQL's; a translated one is not recognised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

SQLITE = (
    ("database is locked", 5),
    ("database table is locked: ", 262),
    ("database schema is locked", 262),
    ("database table is locked", 6),
    ("unique constraint failed", 2067),
    ("foreign key constraint failed", 787),
    ("not null constraint failed", 1299),
    ("check constraint failed", 275),
    ("cannot store ", 3091),
    ("constraint failed", 19),
    ("datatype mismatch", 20),
    ("abort due to rollback", 516),
    ("database or disk is full", 13),
    ("disk i/o error", 10),
    ("interrupted", 9),
    ("attempt to write a readonly database", 8),
    ("unable to open database file", 14),
    ("database disk image is malformed", 11),
    ("file is not a database", 26),
    ("out of memory", 7),
    ("locking protocol", 15),
    ("database schema has changed", 17),
    ("string or blob too big", 18),
    ("no such table", 1),
    ("no such column", 1),
    ("syntax error", 1),
)
"""Python 3.10 has no codes, nor have errors that were made by hand. `database is locked` is also
the text of SQLITE_BUSY_SNAPSHOT (517): the two differ by whether the transaction has read."""

POSTGRESQL = (
    ("too many clients", "53300"),
    ("too many connections for", "53300"),
    ("remaining connection slots are reserved", "53300"),
    ("couldn't get a connection after", "53300"),
    ("connection pool exhausted", "53300"),
    ("database system is starting up", "57P03"),
    ("database system is shutting down", "57P03"),
    ("database system is in recovery", "57P03"),
    ("database system is not yet accepting", "57P03"),
    ("not accepting connections", "57P03"),
    ("due to administrator command", "57P01"),
    ("due to idle-in-transaction timeout", "25P03"),
    ("due to transaction timeout", "25P04"),
    ("due to idle-session timeout", "57P05"),
    ("terminating connection because of crash", "57P02"),
    ("password authentication failed", "28P01"),
    ("no pg_hba.conf entry", "28000"),
    ("no password supplied", "28P01"),
)
"""A failed connect of psycopg2 and psycopg has no SQLSTATE, nor has the last word of a server that
ends a connection, if it arrives together with the end."""

POSTGRESQL_UNREACHABLE = (
    "connection refused",
    "could not connect to server",
    "could not translate host name",
    "failed to resolve host",
    "name or service not known",
    "no route to host",
    "network is unreachable",
    "timeout expired",
    "connection timed out",
    "can't create a connection to host",
    "no such file or directory",
)
"""No server was reached: SQLSTATE 08001."""

POSTGRESQL_LOST = (
    "closed the connection unexpectedly",
    "connection has been closed unexpectedly",
    "connection already closed",
    "connection is closed",
    "connection is lost",
    "connection was closed",
    "connection was lost",
    "connection not open",
    "connection reset by peer",
    "connection pointer is null",
    "broken pipe",
    "could not receive data from server",
    "could not send data to server",
    "no connection to the server",
    "network error",
    "server closed the connection",
    "ssl syscall error",
    "ssl error: decryption failed",
    "terminating connection",
    "unpack_from requires a buffer",
)

MYSQL_LOST = (
    "(0, '')",
    "already closed",
    "not connected",
    "connection not available",
    "invalid connection",
    "network operation failed",
    "lost connection",
    "gone away",
    "read of closed file",
)


def code_of(message: str, table: Iterable[tuple[str, int | str]]) -> int | str | None:
    """The code of the first entry that is part of the message, in any case of letters."""
    lowered = message.lower()
    return next((code for text, code in table if text in lowered), None)


def has_one_of(message: str, texts: Iterable[str]) -> bool:
    """Whether one of the texts is part of the message, in any case of letters."""
    lowered = message.lower()
    return any(text in lowered for text in texts)
