"""Advisory locks: one holder at a time of a key, on PostgreSQL, MySQL, MariaDB and SQLite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Connection, Engine, event, func, literal, select
from sqlalchemy.orm import Session

from turnwise import errors
from turnwise.attempts import add_note
from turnwise.sqlalchemy.advisory_keys import advisory_key
from turnwise.sqlalchemy.advisory_servers import (
    checked_in,
    held_by,
    let_go,
    lock_name,
    release_lock,
    take_mysql,
    take_postgresql,
    turn_file,
)
from turnwise.sqlalchemy.transactions import (
    MYSQL,
    dbapi_connection_of,
    in_greenlet,
    refuse_autocommit,
    server_of,
    unwrapped,
)
from turnwise.turn import TurnLock

if TYPE_CHECKING:
    from types import TracebackType

    from sqlalchemy.ext.asyncio import (
        AsyncConnection,
        AsyncEngine,
        AsyncSession,
        async_scoped_session,
    )
    from sqlalchemy.orm import scoped_session
    from typing_extensions import Self

    from turnwise.sqlalchemy.advisory_keys import Key

    Target = (
        Engine
        | Connection
        | Session
        | scoped_session[Any]
        | AsyncEngine
        | AsyncConnection
        | AsyncSession
        | async_scoped_session[Any]
    )


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
            except BaseException as error:  # noqa: BLE001 - raised again
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
            except BaseException as error:  # noqa: BLE001 - raised again
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
            let_go(connection.info, dbapi_connection_of(connection), self.number)

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
            path = turn_file(dbapi_connection_of(connection), self.number)
        else:
            refuse_autocommit(connection)
        if connection.dialect.name != "postgresql":
            pool = connection.engine.pool
            if not event.contains(pool, "checkin", checked_in):
                event.listen(pool, "checkin", checked_in)
        if path is None:
            self._take_for(connection)
        self._connection = connection
        return path

    def _take_for(self, connection: Connection) -> None:
        if connection.dialect.name not in MYSQL:
            self._take(connection, transaction=True)
            return
        # Noted before it is had: an interruption leaves no lock behind that nobody releases.
        name = lock_name(self.number)
        note = (self.number, lambda driver: release_lock(driver, name))
        held = held_by(connection.info)
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
                path = turn_file(dbapi_connection_of(connection), self.number)
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
            had = take_postgresql(connection, self.number, self._timeout, transaction=transaction)
        elif server in MYSQL:
            had = take_mysql(connection, self.number, self._timeout)
        else:
            raise errors.UnsupportedServerError(
                f"advisory locks are there on PostgreSQL, MySQL, MariaDB and SQLite, "
                f"not on {server_of(connection.dialect)[0]}"
            )
        if not had:
            raise self._late()

    def _late(self) -> errors.LockTimeoutError:
        return errors.LockTimeoutError(
            f"{self._name} was held by another for {self._timeout} s; nothing was changed"
        )

    def _turns(self, path: str) -> Any:
        connection = self._connection
        if connection is not None and any(n == self.number for n, _ in held_by(connection.info)):
            return _Again()
        return TurnLock(path, turn_timeout=None).turn(timeout=self._timeout)

    def _keep_turn(self, turn: Any) -> None:
        if self._connection is not None:
            turn.disclaim()  # The thread that returns the connection may be another.
            held_by(self._connection.info).append((self.number, lambda _: turn.release()))

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
            else select(func.release_lock(lock_name(self.number)))
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
