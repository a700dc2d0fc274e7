"""What is read from a driver's exception."""

from __future__ import annotations

from typing import NamedTuple


class Reading(NamedTuple):
    """What one exception of a driver says. No field holds parameters."""

    dialect: str
    """`"sqlite"`, `"postgresql"`, `"mysql"` or `"mariadb"`."""
    code: int | str | None = None
    """SQLite's extended code, PostgreSQL's SQLSTATE, MySQL's error number; `None`: it has none."""
    sqlstate: str | None = None
    message: str = ""
    is_lost: bool = False
    """The exception has no code, and says that the connection is gone."""
    phase: str | None = None
    """`"connect"`, where the error can come from nowhere else."""
    constraint: str | None = None
    """The name of the violated constraint, where the driver has a field for it."""
    table: str | None = None
    columns: tuple[str, ...] = ()
