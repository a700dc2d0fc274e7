"""The limits of a server that end connections, read once when a connection is opened."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

POSTGRESQL = (
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "transaction_timeout",
    "statement_timeout",
)
MYSQL = (
    "wait_timeout",
    "idle_transaction_timeout",
    "idle_write_transaction_timeout",
    "idle_readonly_transaction_timeout",
)
IN_TRANSACTION = (
    "idle_in_transaction_session_timeout",
    "idle_transaction_timeout",
    "idle_write_transaction_timeout",
    "idle_readonly_transaction_timeout",
)
IDLE = ("idle_session_timeout", "wait_timeout")

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_AMOUNT = re.compile(r"(\d+)([a-z]*)")


def read(connection: Any, dialect: str) -> Mapping[str, float]:
    """The limits that are set, in seconds; empty where they cannot be read.

    Two round trips: one statement, and the end of the transaction that it began.
    """
    rows: list[Any] = []
    with suppress(Exception):
        cursor = connection.cursor()
        try:
            if dialect == "postgresql":
                # An older server has not all of them, which the second argument allows for.
                settings = ", ".join(f"current_setting('{name}', true)" for name in POSTGRESQL)
                cursor.execute(f"SELECT {settings}")
                rows = list(zip(POSTGRESQL, cursor.fetchone(), strict=True))
            else:
                names = ", ".join(f"'{name}'" for name in MYSQL)
                cursor.execute(f"SHOW SESSION VARIABLES WHERE Variable_name IN ({names})")
                rows = list(cursor.fetchall())
        finally:
            cursor.close()
    with suppress(Exception):
        connection.rollback()
    found = {str(row[0]): _seconds(row[1]) for row in rows}
    return {name: seconds for name, seconds in found.items() if seconds}


def _seconds(value: object) -> float:
    amount = _AMOUNT.fullmatch(str(value or "0"))
    return int(amount[1]) * _UNITS.get(amount[2] or "s", 0.0) if amount else 0.0


__all__ = ["IDLE", "IN_TRANSACTION", "MYSQL", "POSTGRESQL", "read"]
