"""How drivers tell the server's number of a connection, without a round trip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_WAYS: tuple[Callable[[Any], object], ...] = (
    lambda connection: connection.info.backend_pid,  # psycopg, psycopg2
    lambda connection: connection.get_server_pid(),  # asyncpg
    lambda connection: connection.thread_id(),  # PyMySQL, mysqlclient, aiomysql, asyncmy
    lambda connection: connection.connection_id,  # mysql-connector, mariadb
)


def backend_pid(connection: object) -> int:
    """The server's number of a driver's connection; 0 where the driver does not tell."""
    for ask in _WAYS:
        try:
            number = ask(connection)
        except Exception:  # noqa: BLE001, S112 - another driver's way
            continue
        if isinstance(number, int):
            return number
    return 0


__all__ = ["backend_pid"]
