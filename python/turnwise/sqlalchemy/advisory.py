"""Advisory locks: one holder at a time of a key, on PostgreSQL, MySQL, MariaDB and SQLite."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Connection, Engine, event, func, literal, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from turnwise import drivers, errors
from turnwise.attempts import add_note
from turnwise.sqlalchemy.transactions import (
    MYSQL,
    driver_of,
    in_greenlet,
    refuse_autocommit,
    server_of,
    unwrapped,
)
from turnwise.turn import TurnLock

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from sqlalchemy.ext.asyncio import (
        AsyncConnection,
        AsyncEngine,
        AsyncSession,
        async_scoped_session,
    )
    from sqlalchemy.orm import scoped_session
    from typing_extensions import Self

    Target = (
        Engine
        | Connection
        | Session
        | scoped_session[Session]
        | AsyncEngine
        | AsyncConnection
        | AsyncSession
        | async_scoped_session[AsyncSession]
    )
    Key = str | int | tuple[str | int, ...]

_HELD = "turnwise.advisory"
_FOR_EVER = 10.0 * 365 * 86_400


def advisory_key(key: Key, *, namespace: str = "") -> int:
    """The number that stands for a key: 64 bits with sign, the same in every language and release.

    The first 8 bytes, big-endian, of SHA-256 over the namespace and the parts of the key, each
    written as a letter (``s`` text, ``i`` integer), its length in bytes, a colon and its bytes
    (UTF-8, or decimal): ``advisory_key(("user", 7), namespace="shop")`` hashes
    ``s4:shops4:useri1:7``. A key alone and a tuple of it alone are the same key.

    Raises:
        TypeError: The key is no text, integer or tuple of these, or it is an empty tuple.
    """
    parts = key if isinstance(key, tuple) else (key,)
    if not parts:
        raise TypeError("the key of an advisory lock is an empty tuple")
    written = b"".join(map(_written, (namespace, *parts)))
    return int.from_bytes(hashlib.sha256(written).digest()[:8], "big", signed=True)


def _written(part: object) -> bytes:
    if isinstance(part, str):
        kind, content = b"s", part.encode()
    elif isinstance(part, int) and not isinstance(part, bool):
        kind, content = b"i", str(part).encode()
    else:
        raise TypeError(
            f"the key of an advisory lock holds text and integers, not {type(part).__name__}"
        )
    return b"%s%d:%s" % (kind, len(content), content)


def advisory_lock(
    session_or_engine: Target, key: Key, *, timeout: float | None = 30.0, namespace: str = ""
) -> AdvisoryLock:
    """Hold a key that only one may hold at a time: ``with`` or ``async with``.

    Given a session or a connection, the lock belongs to its transaction: it is free again when that
    has ended. On MySQL and MariaDB, which have no such locks, and on SQLite that is when the
    connection goes back to the pool, or with the block if the transaction has ended in it. Given
    an engine, the lock has a connection of its own and ends with the block; commit inside. A holder
    whose process or connection dies holds nothing.

    - ``key``: text, an integer, or a tuple of these; ``advisory_key`` says what it comes to.
    - ``timeout``: seconds to wait, 0 to take it only if it is free, ``None`` for ever. MySQL waits
      whole seconds.
    - ``namespace``: keeps equal keys of different applications apart.

    On SQLite the lock is a turn lock at the file ``<database>-advisory-<number>``, which stays.

    Raises, on entry:

    - ``LockTimeoutError``: another holder had it; the transaction is as it was before.
    - ``UnsupportedUnitError``: the connection is in AUTOCOMMIT.
    - ``UnsupportedServerError``: another database, or SQLite in memory.

    Raises, when the block of an engine's lock has ended: the driver's error with a note, or
    ``HoldLimitExceededError``, if the lock was lost meanwhile. What ran may not have been alone.
    """
    return AdvisoryLock(session_or_engine, key, timeout, namespace)


class AdvisoryLock:
    """What ``advisory_lock`` returns: entered once."""

    def __init__(self, target: Target, key: Key, timeout: float | None, namespace: str) -> None:
        if timeout is not None and not timeout >= 0:
            raise errors.InvalidSettingError("timeout is a number of seconds from 0, or None")
        self.number = advisory_key(key, namespace=namespace)
        """The number that stands for the key."""
        self._target, self._is_async = unwrapped(target)
        self._timeout = timeout
        self._name = f"the advisory lock {self.number}" + (f" of {namespace}" if namespace else "")
        self._connection: Connection | None = None
        self._turn: Any = None

    def __enter__(self) -> Self:
        """Wait for the lock, in this thread."""
        if self._is_async:
            raise TypeError("an async session or engine wants `async with advisory_lock(...)`")
        path = self._open()
        if path is not None:
            try:
                self._turn = self._turns(path)
                self._keep_turn(self._turn.__enter__())
            except BaseException as error:
                self._turn_failed(error)
        return self

    async def __aenter__(self) -> Self:
        """Wait for the lock, suspended."""
        if not self._is_async:
            raise TypeError("a sync session or engine wants `with advisory_lock(...)`")
        path = await in_greenlet(self._open)
        if path is not None:
            try:
                self._turn = self._turns(path)
                self._keep_turn(await self._turn.__aenter__())
            except BaseException as error:
                self._turn_failed(error)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let go of it, unless the transaction goes on that it belongs to."""
        connection, self._connection = self._connection, None
        turn, self._turn = self._turn, None
        if isinstance(self._target, Engine):
            if turn is not None:
                turn.__exit__(kind, error, traceback)
            elif connection is not None:
                self._give_back(connection, error)
        elif connection is not None and not connection.closed and not connection.in_transaction():
            _release(connection.info, driver_of(connection), self.number)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let go of it, unless the transaction goes on that it belongs to."""
        await in_greenlet(self.__exit__, kind, error, traceback)

    def _open(self) -> str | None:
        """Take the lock of a server; of SQLite give the path whose turn it is."""
        if isinstance(self._target, Engine):
            return self._open_own(self._target)
        target = self._target
        connection = target.connection() if isinstance(target, Session) else target
        path = None
        if connection.dialect.name == "sqlite":
            path = _path(driver_of(connection), self.number)
        else:
            refuse_autocommit(connection)
        if connection.dialect.name != "postgresql":
            pool = connection.engine.pool
            if not event.contains(pool, "checkin", _checked_in):
                event.listen(pool, "checkin", _checked_in)
        if path is None:
            self._take_for(connection)
        self._connection = connection
        return path

    def _take_for(self, connection: Connection) -> None:
        if connection.dialect.name not in MYSQL:
            self._take(connection, transaction=True)
            return
        # Noted before it is had: an interruption leaves no lock behind that nobody releases.
        name = _lock_name(self.number)
        note = (self.number, lambda driver: _release_lock(driver, name))
        held = _held(connection.info)
        held.append(note)
        try:
            self._take(connection, transaction=True)
        except errors.LockTimeoutError:
            held.remove(note)
            raise

    def _open_own(self, engine: Engine) -> str | None:
        connection = engine.connect()
        try:
            if connection.dialect.name == "sqlite":
                path = _path(driver_of(connection), self.number)
                connection.close()
                return path
            connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            self._take(connection, transaction=False)
        except (errors.LockTimeoutError, errors.UnsupportedServerError):
            connection.close()
            raise
        except BaseException:
            # The lock may have come: with the connection it goes.
            connection.invalidate()
            connection.close()
            raise
        self._connection = connection
        return None

    def _take(self, connection: Connection, *, transaction: bool) -> None:
        server = connection.dialect.name
        if server == "postgresql":
            had = _take_postgresql(connection, self.number, self._timeout, transaction=transaction)
        elif server in MYSQL:
            had = _take_mysql(connection, self.number, self._timeout)
        else:
            raise errors.UnsupportedServerError(
                f"advisory locks are there on PostgreSQL, MySQL, MariaDB and SQLite, "
                f"not on {server_of(connection.dialect)[0]}"
            )
        if not had:
            raise self._late()

    def _late(self) -> errors.LockTimeoutError:
        return errors.LockTimeoutError(
            f"{self._name} was held by another for {self._timeout:g} s; nothing was changed"
        )

    def _turns(self, path: str) -> Any:  # noqa: ANN401 - a TurnContext, or none of it is needed
        connection = self._connection
        if connection is not None and any(n == self.number for n, _ in _held(connection.info)):
            return _Again()
        return TurnLock(path, turn_timeout=None).turn(timeout=self._timeout)

    def _keep_turn(self, turn: Any) -> None:  # noqa: ANN401 - as above
        if self._connection is not None:
            turn.disclaim()  # The thread that returns the connection may be another.
            _held(self._connection.info).append((self.number, lambda _: turn.release()))

    def _turn_failed(self, error: BaseException) -> None:
        self._turn = self._connection = None
        if isinstance(error, errors.LockTimeoutError):
            raise self._late() from error
        raise error

    def _give_back(self, connection: Connection, error: BaseException | None) -> None:
        lost = f"turnwise: {self._name} was lost while it was held; others may have held it too"
        release = (
            select(func.pg_advisory_unlock(literal(self.number, BigInteger)))
            if connection.dialect.name == "postgresql"
            else select(func.release_lock(_lock_name(self.number)))
        )
        try:
            had = connection.scalar(release)
        except BaseException as failure:
            connection.invalidate()
            add_note(error or failure, lost)
            if error is None:
                raise
        else:
            if not had:
                connection.invalidate()
                if error is None:
                    raise errors.HoldLimitExceededError(lost)
                add_note(error, lost)
        finally:
            connection.close()


class _Again:
    """The turn of a connection that has it already."""

    def __enter__(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    def disclaim(self) -> None:
        """Nothing to disclaim."""

    release = disclaim


def _take_postgresql(
    connection: Connection, number: int, timeout: float | None, *, transaction: bool
) -> bool:
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
    wait: Any,  # noqa: ANN401 - a SELECT of whatever the lock function gives
    timeout: float | None,
    *,
    is_local: bool,
) -> None:
    bound = "0" if timeout is None else f"{max(1, round(timeout * 1000))}ms"
    was = connection.scalar(select(func.current_setting("lock_timeout")))
    connection.execute(select(func.set_config("lock_timeout", bound, is_local)))
    try:
        connection.execute(wait)
    except BaseException:
        if not is_local:
            connection.execute(select(func.set_config("lock_timeout", was, is_local)))
        raise
    connection.execute(select(func.set_config("lock_timeout", was, is_local)))


def _take_mysql(connection: Connection, number: int, timeout: float | None) -> bool:
    seconds = _FOR_EVER if timeout is None else timeout
    if not getattr(connection.dialect, "is_mariadb", False):
        seconds = -(-seconds // 1)  # MySQL rounds, and would give up too early.
    return connection.scalar(select(func.get_lock(_lock_name(number), seconds))) == 1


def _lock_name(number: int) -> str:
    # At most 64 characters; MySQL takes upper and lower case for equal, MariaDB does not.
    return f"turnwise-{number & 0xFFFF_FFFF_FFFF_FFFF:016x}"


def _release_lock(driver: Any, name: str) -> None:  # noqa: ANN401 - every driver's own
    cursor = driver.cursor()
    try:
        cursor.execute(f"DO RELEASE_LOCK('{name}')")
    finally:
        cursor.close()


def _held(info: dict[Any, Any]) -> list[tuple[int, Callable[[Any], None]]]:
    held: list[tuple[int, Callable[[Any], None]]] = info.setdefault(_HELD, [])
    return held


def _release(info: dict[Any, Any], driver: Any, number: int) -> None:  # noqa: ANN401 - as above
    held = _held(info)
    for place in reversed(range(len(held))):
        if held[place][0] == number:
            _, release = held.pop(place)
            release(driver)
            return


def _checked_in(driver: Any, record: Any) -> None:  # noqa: ANN401 - as above
    """No connection is in the pool with a lock: its next user would hold it unknowingly."""
    for _, release in reversed(record.info.pop(_HELD, ())):
        try:
            release(driver)
        except Exception:  # noqa: BLE001 - without its connection the server frees the lock
            record.invalidate()


def _path(driver: Any, number: int) -> str:  # noqa: ANN401 - as above
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
