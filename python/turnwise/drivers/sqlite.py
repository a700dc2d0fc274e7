"""sqlite3, aiosqlite and turnwise.sqlite3."""

from __future__ import annotations

from turnwise.drivers.reading import Reading


def read(error: BaseException) -> Reading:
    """The extended code. Python 3.10 has none; there the core looks at the message."""
    code = getattr(error, "sqlite_errorcode", None)
    return Reading("sqlite", code if isinstance(code, int) else None, message=str(error))
