"""sqlite3, aiosqlite, turnwise.sqlite3 and turnwise's own errors that SQLite caused."""

from __future__ import annotations

from turnwise.drivers import messages
from turnwise.drivers.reading import Reading


def read(error: BaseException) -> Reading:
    """The extended code, from Python 3.11 on; before, that of a well-known message."""
    message = str(error)
    code = getattr(error, "sqlite_errorcode", None)
    if not isinstance(code, int):
        code = messages.code_of(message, messages.SQLITE)
    return Reading("sqlite", code, message=message)
