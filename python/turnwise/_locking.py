"""What the errors of Python's ``sqlite3`` say of locks and of the transaction."""

from __future__ import annotations

import sqlite3

BUSY, READONLY = 5, 8
BUSY_SNAPSHOT = 517

FIRST_PAUSE, LONGEST_PAUSE = 0.001, 0.025
"""Seconds between two tries where SQLite's lock is not to be waited for otherwise."""


def error_code(error: BaseException) -> int:
    """SQLite's primary result code; 0 for another exception."""
    return extended_code(error) & 0xFF


def extended_code(error: BaseException) -> int:
    """SQLite's extended result code; the primary one in Python 3.10, which has the text alone."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None and isinstance(error, sqlite3.OperationalError):
        text = str(error)
        code = BUSY if "locked" in text else READONLY if "readonly" in text else 0
    return int(code or 0)


def may_commit_later(connection: sqlite3.Connection, error: sqlite3.Error) -> bool:
    """Whether a COMMIT that failed may succeed later: the transaction is open, the lock busy."""
    # "SQL statements in progress" has the same code, and ends only with the caller's own cursor.
    return error_code(error) == BUSY and "progress" not in str(error) and is_open(connection)


def is_open(connection: sqlite3.Connection) -> bool:
    """Whether a transaction is open; none is on a connection that is closed."""
    try:
        return connection.in_transaction
    except sqlite3.Error:
        return False
