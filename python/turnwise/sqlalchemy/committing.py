"""What a session's commit does on its connections: which there are, what became of each COMMIT."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from turnwise.errors import TransactionPoisonedError
from turnwise.sqlalchemy.driver_connections import driver_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session, SessionTransaction
    from typing_extensions import Self

    Heal = Callable[["Connection", Exception], bool]

Answer = TypeVar("Answer")

_COMMITS = ("_commit_impl", "_commit_twophase_impl")
_IN_ERROR = 3
"""What libpq calls a transaction in which a statement has failed."""


class Committing:
    """Stands beside a session's commits, as a context manager.

    SQLAlchemy has no event that could repeat a COMMIT or tell how it ended, so that the method that
    sends it is wrapped, on the session's own connections and while this is entered. ``heal`` is
    called with a connection and the error of its COMMIT: ``True``, it is committed all the same;
    ``False``, send COMMIT again; or it raises.
    """

    def __init__(self, session: Session, heal: Heal) -> None:
        self._session, self._heal = session, heal
        self._connections: list[Connection] = []
        self._to_commit = 0
        self._is_autocommit = self._is_entered = False
        self._is_joined = False
        # Gone once it fails at COMMIT.
        self._is_nested = session.in_nested_transaction()
        self.is_sent = False
        """COMMIT was sent, and its answer is awaited."""
        self.has_failed = False
        """A COMMIT has failed."""
        self.committed = 0
        """Connections whose COMMIT has succeeded."""

    def __enter__(self) -> Self:
        """Watch the connections that the session has, and those that it will take."""
        transaction = self._session.get_transaction()
        for connection in connections_of(transaction):
            self._join(self._session, transaction, connection)
        self._is_entered = True
        event.listen(self._session, "after_begin", self._join)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave no trace."""
        event.remove(self._session, "after_begin", self._join)
        self.forget()

    def forget(self) -> None:
        """Begin anew, after a rollback."""
        for connection in self._connections:
            for name in _COMMITS:
                vars(connection).pop(name, None)
        self._connections = []
        self._to_commit = self.committed = 0
        self.is_sent = self.has_failed = False

    def _join(
        self, _session: Session, transaction: SessionTransaction | None, connection: Connection
    ) -> None:
        if connection in self._connections:
            return
        entry = transaction._connections[connection] if transaction else None
        _, _, should_commit, is_own = entry or (None, None, True, True)
        self._connections.append(connection)
        self._to_commit += bool(should_commit)
        self._is_joined |= not is_own
        self._is_autocommit |= _commits_itself(connection)
        for name in _COMMITS:
            proceed = getattr(connection, name)
            vars(connection)[name] = self._wrapped(connection, proceed, is_new=self._is_entered)

    def _wrapped(
        self, connection: Connection, proceed: Callable[..., None], *, is_new: bool
    ) -> Callable[..., None]:
        def commit(*arguments: Any) -> None:
            require_intact(connection, is_new=is_new)
            is_committed = False
            while not is_committed:
                self.is_sent = True
                try:
                    proceed(*arguments)
                except Exception as error:  # noqa: BLE001 - drivers, pools and listeners raise what they like
                    self.is_sent, self.has_failed = False, True
                    is_committed = self._heal(connection, error)
                else:
                    is_committed = True
            self.is_sent = self.has_failed = False
            self.committed += 1

        return commit

    @property
    def is_complete(self) -> bool:
        """Every connection has committed: an error came after that."""
        return self.committed == self._to_commit

    @property
    def is_autocommit(self) -> bool:
        """A rollback undoes nothing, for each statement was a transaction of its own."""
        return self._is_autocommit

    def obstacle(self) -> str | None:
        """Why the transaction cannot be begun anew as it was; ``None`` if it can be."""
        if self._session.twophase:
            return "the transaction is committed in two phases"
        if self._is_nested:
            return "a savepoint is open"
        if self._is_joined:
            return "the session is bound to a connection that its caller has opened"
        if len(self._connections) > 1:
            return "the transaction spans several databases"
        if self._session._trans_context_manager is not None:
            return "the transaction is that of a `with session.begin()` block"
        return None


def connections_of(transaction: SessionTransaction | None) -> list[Connection]:
    """The connections on which a session's transaction has begun."""
    if transaction is None:
        return []
    return list(dict.fromkeys(entry[0] for entry in transaction._connections.values()))


def is_open(connection: Connection) -> bool | None:
    """Whether SQLite's driver still has a transaction; ``None`` where nobody knows."""
    if connection.dialect.name != "sqlite" or connection.closed or connection.invalidated:
        return None
    answer = getattr(driver_of(connection.connection), "in_transaction", None)
    return answer if isinstance(answer, bool) else None


def require_intact(connection: Connection, *, is_new: bool) -> None:
    """Refuse to send a COMMIT that PostgreSQL would answer with ROLLBACK, and drivers with silence.

    Where `install` watches the engine, that is done there. asyncpg knows nothing, and the server is
    asked, unless the transaction ``is_new``: then nobody has had an error to swallow.

    Raises:
        TransactionPoisonedError: A statement has failed, and its error was swallowed.
    """
    if connection.dialect.name != "postgresql" or connection.closed or connection.invalidated:
        return
    if layer_of(connection, "guard") is not None:
        return
    raw = driver_of(connection.connection)
    status = getattr(getattr(raw, "info", None), "transaction_status", None)
    cause = None
    if connection.dialect.driver == "asyncpg" and not is_new:
        try:
            connection.exec_driver_sql("SELECT 1")
        except DBAPIError as error:
            if connection.invalidated:
                raise
            status, cause = _IN_ERROR, error
    if status == _IN_ERROR or getattr(raw, "_transaction_status", None) == b"E":  # pg8000
        raise TransactionPoisonedError(
            "COMMIT was not sent: a statement of this transaction has failed, its error was"
            " swallowed, and the server would roll back; roll back, and do the work again"
        ) from cause


def require_intact_session(session: Session) -> None:
    """Do so for all connections that a session is about to commit. Raises the same."""
    for connection in connections_of(session.get_transaction()):
        require_intact(connection, is_new=False)


async def arequire_intact_session(session: AsyncSession) -> None:
    """Do so for an asynchronous session."""
    connections = connections_of(session.sync_session.get_transaction())
    if any(connection.dialect.name == "postgresql" for connection in connections):
        await session.run_sync(require_intact_session)


def _commits_itself(connection: Connection) -> bool:
    """Whether each statement is a transaction of its own, just after the transaction has begun."""
    if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
        return True
    dialect: Any = connection.dialect
    if dialect.name == "sqlite":
        raw = driver_of(connection.connection)
        if getattr(raw, "autocommit", None) is True:
            return True
        if getattr(raw, "isolation_level", "") is not None or is_open(connection):
            return False
        # Nobody begins, unless it is done before the first statement.
        return not has_turns(connection)
    if getattr(dialect, "_on_connect_isolation_level", None) == "AUTOCOMMIT":
        return True
    if dialect.driver == "mysqlconnector":  # It would ask the server.
        return False
    try:
        return bool(dialect.detect_autocommit_setting(connection.connection.dbapi_connection))
    except (AttributeError, NotImplementedError):  # Before SQLAlchemy 2.0.43, and other dialects.
        return False


def layer_of(connection: Connection, name: str) -> object:
    """What `install` has put around the connection's dialect under this name; or ``None``."""
    interception = sys.modules.get("turnwise.sqlalchemy.interception")
    return interception and interception.layer_of(connection.dialect, name)


def has_turns(connection: Connection) -> bool:
    """Whether `install` looks after this SQLite engine's transactions, and repeats its COMMIT."""
    return layer_of(connection, "sqlite_turns") is not None
