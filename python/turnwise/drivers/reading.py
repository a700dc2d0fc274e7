"""What is read from a driver's exception."""

from __future__ import annotations

import re
from typing import NamedTuple

_SQLSTATE = re.compile(r"[0-9A-Z]{5}")


class Reading(NamedTuple):
    """What one exception of a driver says."""

    dialect: str
    """`"sqlite"`, `"postgresql"`, `"mysql"` or `"mariadb"`."""
    code: int | str | None = None
    """SQLite's extended code, PostgreSQL's SQLSTATE, MySQL's error number; `None`: it has none."""
    sqlstate: str | None = None
    """The one beside an error number."""
    message: str = ""
    """The database's own words, which may hold values of a row: never to be kept or shown."""
    is_lost: bool = False
    """The exception has no code, and says that the connection is gone."""
    phase: str | None = None
    """`"connect"`, where the error can come from nowhere else."""
    constraint: str | None = None
    """The name of the violated constraint, where the driver has a field for it."""
    table: str | None = None
    columns: tuple[str, ...] = ()


def sqlstate_in(value: object) -> str | None:
    """The value, if it is a SQLSTATE."""
    return value if isinstance(value, str) and _SQLSTATE.fullmatch(value) else None


def says(message: str, texts: tuple[str, ...]) -> bool:
    """Whether one of the texts, all in lower case, is part of the message."""
    lowered = message.lower()
    return any(text in lowered for text in texts)
