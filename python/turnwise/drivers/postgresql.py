"""psycopg2, psycopg, asyncpg (also as SQLAlchemy wraps it) and pg8000."""

from __future__ import annotations

from typing import TYPE_CHECKING

from turnwise.drivers import messages
from turnwise.drivers.reading import Reading

if TYPE_CHECKING:
    from collections.abc import Mapping

UNREACHABLE = "08001"


def read(error: BaseException) -> Reading:
    """The SQLSTATE and the server's fields, wherever the driver keeps them."""
    fields = error.args[0] if error.args and isinstance(error.args[0], dict) else None
    if fields is not None:
        return _of_pg8000(fields)
    message = str(error)
    code = _text(getattr(error, "sqlstate", None)) or _text(getattr(error, "pgcode", None))
    if code is None:
        return _without_code(message)
    # psycopg has the fields in `diag`, asyncpg in the exception, SQLAlchemy's adapter for asyncpg
    # in the exception that caused its own.
    source = getattr(error, "diag", None) or (
        error if hasattr(error, "constraint_name") else error.__cause__
    )
    column = _text(getattr(source, "column_name", None))
    return Reading(
        "postgresql",
        code,
        code,
        message,
        constraint=_text(getattr(source, "constraint_name", None)),
        table=_text(getattr(source, "table_name", None)),
        columns=(column,) if column else (),
    )


def _of_pg8000(fields: Mapping[str, object]) -> Reading:
    code = _text(fields.get("C"))
    column = _text(fields.get("c"))
    return Reading(
        "postgresql",
        code,
        code,
        str(fields.get("M", "")),
        constraint=_text(fields.get("n")),
        table=_text(fields.get("t")),
        columns=(column,) if column else (),
    )


def _without_code(message: str) -> Reading:
    code = messages.code_of(message, messages.POSTGRESQL)
    if code is None and messages.has_one_of(message, messages.POSTGRESQL_LOST):
        return Reading("postgresql", message=message, is_lost=True)
    if code is None and messages.has_one_of(message, messages.POSTGRESQL_UNREACHABLE):
        return Reading("postgresql", UNREACHABLE, message=message, phase="connect")
    return Reading("postgresql", code, message=message)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
