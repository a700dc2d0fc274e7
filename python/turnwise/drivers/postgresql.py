"""psycopg2, psycopg, asyncpg (also as SQLAlchemy wraps it) and pg8000."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from turnwise.drivers.reading import Reading, says, sqlstate_in

if TYPE_CHECKING:
    from collections.abc import Callable

UNREACHABLE = "08001"
_TOO_MANY_CONNECTIONS = "53300"

# The last resort, where a driver gives no SQLSTATE. libpq translates some of these texts; what it
# translates is not recognised.
_LOST = (
    "closed the connection",
    "connection already closed",
    "connection has been closed",
    "connection is closed",
    "connection is lost",
    "connection not open",
    "connection was closed",
    "could not receive data from server",
    "could not send data to server",
    "network error",
    "no connection to the server",
    "ssl error: decryption failed",
    "ssl syscall error",
    "terminating connection",
)
_UNREACHABLE = (
    "can't create a connection to host",
    "connection timed out",
    "could not connect to server",
    "failed to resolve host",
    "network is unreachable",
    "no route to host",
)
_POOL_EMPTY = ("connection pool exhausted", "couldn't get a connection after")

_KEY = re.compile(r"[^(]*\(([^()=]+)\)=\(")
"""`Key (a, b)=(…`: the columns, before any value. What is no plain list of columns is left out."""


def read(error: BaseException) -> Reading:
    """The SQLSTATE and the server's fields, wherever the driver keeps them."""
    fields = error.args[0] if error.args and isinstance(error.args[0], dict) else None
    if fields is not None:
        # pg8000: the fields of the protocol by their letters.
        return _reading(
            fields.get("C"),
            str(fields.get("M", "")),
            lambda name: fields.get({"table": "t", "column": "c", "constraint": "n"}[name]),
            fields.get("D"),
        )
    code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    diag = getattr(error, "diag", None)
    if diag is not None:
        return _reading(
            code,
            str(error),
            lambda name: getattr(diag, f"{name}_name", None),
            getattr(diag, "message_detail", None),
        )
    # asyncpg has the fields in the exception, SQLAlchemy's adapter in the one that caused its own.
    source = error if hasattr(error, "constraint_name") else error.__cause__
    return _reading(
        code,
        str(error),
        lambda name: getattr(source, f"{name}_name", None),
        getattr(source, "detail", None),
    )


def _reading(code: object, message: str, field: Callable[[str], object], detail: object) -> Reading:
    sqlstate = sqlstate_in(code)
    if sqlstate is None:
        return _without_code(message)
    column = _text(field("column"))
    return Reading(
        "postgresql",
        sqlstate,
        sqlstate,
        message,
        constraint=_text(field("constraint")),
        table=_text(field("table")),
        columns=(column,) if column else _columns(detail),
    )


def _without_code(message: str) -> Reading:
    if says(message, _POOL_EMPTY):
        return Reading("postgresql", _TOO_MANY_CONNECTIONS, message=message, phase="connect")
    if says(message, _UNREACHABLE):
        return Reading("postgresql", UNREACHABLE, message=message, phase="connect")
    return Reading("postgresql", message=message, is_lost=says(message, _LOST))


def _columns(detail: object) -> tuple[str, ...]:
    found = _KEY.match(detail) if isinstance(detail, str) else None
    return tuple(name.strip('" ') for name in found[1].split(",")) if found else ()


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
