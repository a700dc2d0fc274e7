"""The layer that turns silence into errors, and changes nothing else.

It remembers the errors of a transaction, tells ``turnwise.classify`` what was known when they came,
refuses what would end half a transaction as if it were whole, and rolls back where SQLAlchemy takes
a transaction for ended that the driver still has open. What a database keeps quiet about is in
``guard_sqlite``, ``guard_postgresql`` and ``guard_mysql``.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, NoReturn

from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util import is_exit_exception

from turnwise import _words
from turnwise.classification import Observation, observation_of, observe
from turnwise.errors import TransactionPoisonedError, TurnwiseError

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import Dialect

    from turnwise.sqlalchemy.interception import Function
    from turnwise.sqlalchemy.settings import Settings

KEY = "turnwise.guard"
_LONGEST_STATEMENT = 300


class Losses:
    """Where a session hears of writes that an error has thrown away."""

    __slots__ = ("error", "guard")

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.error: BaseException | None = None


class Handle:
    """What the guard remembers of a checked-out connection and its transaction.

    It belongs to the pool's proxy, which ends with the checkout, and not to the connection's
    ``info``: an error holds the frames that it passed, and with them what would return a forgotten
    connection to the pool.
    """

    __slots__ = (
        "__weakref__",
        "error",
        "guard",
        "has_read",
        "has_written",
        "is_doubtful",
        "is_poisoned",
        "is_used",
        "last",
        "losses",
        "statement",
        "wants_to_write",
    )

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.end()

    def end(self) -> None:
        """Forget the transaction."""
        self.error: BaseException | None = None
        """The first error since the last statement that succeeded."""
        self.last: BaseException | None = None
        self.statement: str | None = None
        self.losses: Losses | None = None
        self.is_poisoned = False
        self.is_doubtful = False
        """Errors can come that the guard does not see."""
        self.has_read = self.has_written = False
        self.wants_to_write = False
        self.is_used = False
        """Whether there is anything to forget."""

    def lose(self) -> None:
        """The transaction is gone. Say so if an error took writes with it."""
        if self.losses is not None and (self.has_written or self.wants_to_write):
            self.losses.error = self.losses.error or self.error
        self.end()


class Guard:
    """The guard of one dialect."""

    def __init__(self, dialect: Dialect, settings: Settings, title: str) -> None:
        self.dialect = dialect
        self.settings = settings
        self.title = title
        """What log lines and events call the database."""
        self.troubled: dict[int, weakref.ref[Handle]] = {}
        """The handles that remember an error: while there are none, statements are not checked."""

    # Transactions.

    def do_begin(self, proceed: Function, connection: Any) -> Any:
        """Tell what was known when BEGIN failed."""
        try:
            return proceed(connection)
        except BaseException as error:
            self._observe(error, self.handle_of(connection), connection, "begin", was=False)
            raise

    def do_commit(self, proceed: Function, connection: Any) -> Any:
        """Commit, unless the transaction is gone already. What failed is rolled back at once.

        SQLAlchemy sends no ROLLBACK after a COMMIT that failed: a driver that still has the
        transaction open would commit it with the next one.
        """
        if self.must_not_commit(connection):
            self._refuse_commit(connection, lambda: self.dialect.do_rollback(connection))
        try:
            result = proceed(connection)
        except BaseException as error:
            self._commit_failed(error, self.handle_of(connection), connection)
            raise
        self._ended(connection)
        return result

    def do_rollback(self, proceed: Function, connection: Any) -> Any:
        """Roll back, and forget what was wrong."""
        try:
            result = proceed(connection)
        except BaseException as error:
            self._observe(error, self.handle_of(connection), connection, "rollback")
            raise
        self._ended(connection)
        return result

    def do_rollback_to_savepoint(self, proceed: Function, connection: Any, name: str) -> Any:
        """Go back to a savepoint; where the whole transaction is gone, the next statement tells."""
        handle = self.handle_of(connection.connection)
        if handle.is_poisoned:
            return None
        result = proceed(connection, name)
        if handle.error is not None:
            self._overcome(handle)
        return result

    def do_commit_twophase(self, proceed: Function, connection: Any, *rest: Any, **o: Any) -> Any:
        """Commit, and forget the transaction."""
        result = proceed(connection, *rest, **o)
        self._ended(connection.connection)
        return result

    def do_rollback_twophase(self, proceed: Function, connection: Any, *rest: Any, **o: Any) -> Any:
        """Roll back, as above: with statements, which must not be refused."""
        pooled = connection.connection
        handle = self.handle_of(pooled)
        was_poisoned, handle.is_poisoned = handle.is_poisoned, False
        note = pooled.info.pop(KEY, None)
        try:
            result = proceed(connection, *rest, **o)
        except BaseException:
            handle.is_poisoned = was_poisoned
            if note is not None:
                pooled.info[KEY] = note
            raise
        self._ended(pooled)
        return result

    # Statements. This is the path whose cost counts.

    def do_execute(
        self, proceed: Function, cursor: Any, statement: str, parameters: Any, context: Any
    ) -> Any:
        """Run a statement, unless its transaction is gone; remember its error."""
        if self.troubled:
            self._check(context)
        try:
            result = proceed(cursor, statement, parameters, context)
        except BaseException as error:
            self._failed(error, statement, context)
            raise
        if context is not None and (context.is_crud or context.is_text or context.isddl):
            self._succeeded(statement, context)
        if self.troubled:
            self._check_after(statement, context)
        return result

    do_executemany = do_execute

    def do_execute_no_params(
        self, proceed: Function, cursor: Any, statement: str, context: Any
    ) -> Any:
        """Run a statement, as above."""
        return self.do_execute(
            lambda cursor, statement, _, context: proceed(cursor, statement, context),
            *(cursor, statement, (), context),
        )

    def is_disconnect(self, proceed: Function, error: Any, connection: Any, cursor: Any) -> Any:
        """Remember errors that came while rows were fetched: SQLAlchemy asks about every one."""
        lost = proceed(error, connection, cursor)
        if isinstance(connection, PoolProxiedConnection) and not isinstance(error, TurnwiseError):
            handle = self.handle_of(connection)
            if not lost and handle.last is not error and observation_of(error) is None:
                self._remember(error, handle, None, connection, was=None, is_write=False)
            if lost:
                handle.error = handle.error or error
                self._ended(connection)
        return lost

    # What a family of databases knows better.

    @property
    def name(self) -> str:
        """The dialect's name, in the words of ``classify``."""
        return self.dialect.name

    def in_transaction(self, connection: Any) -> bool | None:
        """Whether the driver says that a transaction is open."""
        return None

    def journal(self, connection: Any, error: BaseException, phase: str) -> str | None:
        """SQLite's journal mode, where it decides what an error means."""
        return None

    def has_ended(
        self, error: BaseException, observation: Observation, connection: Any, statement: str | None
    ) -> bool:
        """Whether the database has ended the transaction with this error."""
        return False

    # The rest.

    def must_not_commit(self, connection: Any) -> bool:
        """Whether the transaction is gone already."""
        return bool(self.troubled) and self._is_poisoned(connection)

    def refusal(self, handle: Handle) -> TurnwiseError:
        """The error that a statement, or COMMIT, gets without its transaction."""
        return TransactionPoisonedError(
            f"{self.name} has ended this transaction, and what it had written is gone, when "
            f"{described(handle)}: roll back, then begin again"
        )

    def handle_of(self, connection: Any) -> Handle:
        """What is remembered of a connection of the pool."""
        own = _own(connection)
        handle: Handle | None = own.get(KEY)
        if handle is None:
            handle = own[KEY] = Handle(self)
        return handle

    def roll_back(self, connection: Any, roll_back: Function) -> None:
        """Roll back for SQLAlchemy. If that fails, the handle is poisoned."""
        try:
            roll_back()
        except Exception:  # noqa: BLE001 - the error that led here is the one to raise
            self._poison(connection)

    def _refuse_commit(self, connection: Any, roll_back: Function) -> NoReturn:
        handle = self.handle_of(connection)
        refusal, first = self.refusal(handle), handle.error
        self.roll_back(connection, roll_back)
        raise refusal from first

    def _poison(self, connection: Any) -> None:
        handle = self.handle_of(connection)
        handle.is_poisoned = True
        self._trouble(handle)
        # For others who share the driver's connection (StaticPool), without the error.
        connection.info[KEY] = described(handle)

    def _is_poisoned(self, connection: Any) -> bool:
        return self.handle_of(connection).is_poisoned or KEY in connection.info

    def _check(self, context: Any) -> None:
        if context is not None and self._is_poisoned(context.root_connection.connection):
            handle = self.handle_of(context.root_connection.connection)
            raise self.refusal(handle) from handle.error

    def _check_after(self, statement: str, context: Any) -> None:
        if context is not None:
            handle = self.handle_of(context.root_connection.connection)
            if handle.error is not None:
                self._overcome(handle)

    def _succeeded(self, statement: str, context: Any) -> None:
        handle = self.handle_of(context.root_connection.connection)
        if not handle.has_written and (context.is_crud or _words.writes(statement)):
            handle.has_written = handle.is_used = True

    def _overcome(self, handle: Handle) -> None:
        """The transaction has gone on after an error."""
        self.troubled.pop(id(handle), None)
        handle.error = handle.statement = None
        handle.wants_to_write = False

    def _ended(self, connection: Any) -> None:
        handle = _own(connection).get(KEY)
        if handle is None:
            return
        if handle.is_used:
            handle.lose()
        if self.troubled:
            self.troubled.pop(id(handle), None)
            connection.info.pop(KEY, None)

    def _trouble(self, handle: Handle) -> None:
        key = id(handle)
        self.troubled[key] = weakref.ref(handle, lambda _: self.troubled.pop(key, None))

    def _failed(
        self, error: BaseException, statement: str, context: Any, *, was: bool | None = None
    ) -> None:
        if context is None:
            return
        connection = context.root_connection.connection
        is_write = context.is_crud or _words.writes(statement)
        handle = self.handle_of(connection)
        self._remember(error, handle, statement, connection, was=was, is_write=is_write)

    def _remember(
        self,
        error: BaseException,
        handle: Handle,
        statement: str | None,
        connection: Any,
        *,
        was: bool | None,
        is_write: bool,
    ) -> None:
        phase = _words.phase_of(statement or "")
        observation = self._observe(error, handle, connection, phase, was=was, is_read=not is_write)
        if handle.error is None:
            handle.error, handle.statement = error, statement
        handle.wants_to_write |= is_write
        handle.is_used = True
        self._trouble(handle)
        if is_exit_exception(error):  # SQLAlchemy discards the connection.
            self._ended(connection)
        elif self.has_ended(error, observation, connection, statement):
            self._poison(connection)

    def _observe(
        self,
        error: BaseException,
        handle: Handle,
        connection: Any,
        phase: str,
        *,
        was: bool | None = None,
        is_read: bool = False,
    ) -> Observation:
        observation = Observation(
            self.name,
            phase,
            self.in_transaction(connection),
            was,
            has_read=handle.has_read and not handle.has_written,
            is_read=is_read,
            journal=self.journal(connection, error, phase),
        )
        handle.last, handle.is_used = error, True
        observe(error, observation)
        return observation

    def _commit_failed(self, error: BaseException, handle: Handle, connection: Any) -> None:
        self._observe(error, handle, connection, "commit", was=True)
        if handle.error is None:
            handle.error, handle.statement = error, "COMMIT"
        handle.is_used = True
        if is_exit_exception(error):  # SQLAlchemy discards the connection.
            self._ended(connection)
        elif not self._is_lost(error, connection):
            self.roll_back(connection, lambda: self.dialect.do_rollback(connection))

    def _is_lost(self, error: BaseException, connection: Any) -> bool:
        if not isinstance(error, self.dialect.loaded_dbapi.Error):
            return False
        return bool(self.dialect.is_disconnect(error, connection, None))


def _own(connection: Any) -> dict[str, Any]:
    """The attributes of the pool's proxy itself, which passes on what it has not."""
    try:
        own: dict[str, Any] = object.__getattribute__(connection, "__dict__")
    except AttributeError:  # While a dialect is initialised.
        return {}
    return own


def described(handle: Handle) -> str:
    """What failed, and how, without parameters."""
    kind = "an error that it hid" if handle.error is None else type(handle.error).__name__
    if handle.statement is None:
        return f"{kind} was raised while rows were fetched"
    text = " ".join(handle.statement.split())
    if len(text) > _LONGEST_STATEMENT:
        text = text[:_LONGEST_STATEMENT] + "…"
    return f"{text!r} failed with {kind}"
