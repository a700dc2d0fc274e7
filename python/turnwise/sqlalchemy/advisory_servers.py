"""How each database holds an advisory lock."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Connection, func, literal, select
from sqlalchemy.exc import DBAPIError

from turnwise import drivers, errors

if TYPE_CHECKING:
    from collections.abc import Callable

_HELD = "turnwise.advisory"
_FOR_EVER = 10.0 * 365 * 86_400
_LONGEST_MS = 2**31 - 1  # PostgreSQL's bound of lock_timeout.


def take_postgresql(
    connection: Connection, number: int, timeout: float | None, *, transaction: bool
) -> bool:
    """Take the lock, for the transaction or the connection; whether it was to be had."""
    key = literal(number, BigInteger)
    scope = "_xact" if transaction else ""
    if connection.scalar(select(getattr(func, f"pg_try_advisory{scope}_lock")(key))):
        return True
    if timeout == 0:
        return False
    wait = select(getattr(func, f"pg_advisory{scope}_lock")(key))
    try:
        if not transaction:
            _wait_postgresql(connection, wait, timeout, is_local=False)
            return True
        # The time-out (55P03) ends at the savepoint, the caller's transaction goes on.
        with connection.begin_nested():
            _wait_postgresql(connection, wait, timeout, is_local=True)
    except DBAPIError as error:
        if _is_lock_timeout(error):
            return False
        raise
    return True


def _is_lock_timeout(error: DBAPIError) -> bool:
    reading = drivers.read(error.orig) if error.orig else None
    return reading is not None and reading.code == "55P03"


def _wait_postgresql(
    connection: Connection,
    wait: Any,
    timeout: float | None,
    *,
    is_local: bool,
) -> None:
    bound = "0" if timeout is None else f"{min(max(1, round(timeout * 1000)), _LONGEST_MS)}ms"
    was = connection.scalar(select(func.current_setting("lock_timeout")))
    connection.execute(select(func.set_config("lock_timeout", bound, is_local)))
    try:
        connection.execute(wait)
    except DBAPIError:
        if not is_local and not connection.invalidated:
            connection.execute(select(func.set_config("lock_timeout", was, is_local)))
        raise
    connection.execute(select(func.set_config("lock_timeout", was, is_local)))


def take_mysql(connection: Connection, number: int, timeout: float | None) -> bool:
    """Take the lock, for the connection; whether it was to be had."""
    seconds = _FOR_EVER if timeout is None else timeout
    if not getattr(connection.dialect, "is_mariadb", False):
        seconds = -(-seconds // 1)  # MySQL rounds, and would give up too early.
    return connection.scalar(select(func.get_lock(lock_name(number), seconds))) == 1


def lock_name(number: int) -> str:
    """What MySQL and MariaDB call the lock."""
    # At most 64 characters; MySQL takes upper and lower case for equal, MariaDB does not.
    return f"turnwise-{number & 0xFFFF_FFFF_FFFF_FFFF:016x}"


def release_lock(driver: Any, name: str) -> None:
    """Release it below SQLAlchemy, which would begin a transaction."""
    cursor = driver.cursor()
    try:
        cursor.execute(f"DO RELEASE_LOCK('{name}')")
    finally:
        cursor.close()


def held_by(info: dict[Any, Any]) -> list[tuple[int, Callable[[Any], None]]]:
    """What a connection holds until it goes back to the pool, and how it is released."""
    held: list[tuple[int, Callable[[Any], None]]] = info.setdefault(_HELD, [])
    return held


def let_go(info: dict[Any, Any], driver: Any, number: int) -> None:
    """Release one of the locks that a connection holds."""
    held = held_by(info)
    for place in reversed(range(len(held))):
        if held[place][0] == number:
            _, release = held.pop(place)
            release(driver)
            return


def checked_in(driver: Any, record: Any) -> None:
    """No connection is in the pool with a lock: its next user would hold it unknowingly."""
    for _, release in reversed(record.info.pop(_HELD, ())):
        try:
            release(driver)
        except Exception:  # noqa: BLE001 - without its connection the server frees the lock
            record.invalidate()


def turn_file(driver: Any, number: int) -> str:
    """The file whose turn stands for a key, beside the database; made if it is missing."""
    cursor = driver.cursor()
    try:
        cursor.execute("PRAGMA database_list")
        database = next((row[2] for row in cursor.fetchall() if row[1] == "main"), "")
    finally:
        cursor.close()
    if not database:
        raise errors.UnsupportedServerError(
            "a SQLite database in memory has no advisory locks: use a file"
        )
    path = f"{database}-advisory-{number & 0xFFFF_FFFF_FFFF_FFFF:016x}"
    mode = os.stat(database).st_mode & 0o666
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, mode))
    return path
