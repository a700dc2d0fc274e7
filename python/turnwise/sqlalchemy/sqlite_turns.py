"""The layer of SQLite engines: WAL, turns, transactions that begin at their first statement.

The driver keeps its legacy transaction control: a BEGIN of ours comes before the one that it would
send, and there is nothing that the pool could reset or that an uninstall would leave behind.
"""

from __future__ import annotations

import math
import sqlite3
import weakref
from typing import TYPE_CHECKING, Any, Literal, cast

from sqlalchemy.pool.base import _AdhocProxiedConnection  # For SQLAlchemy's own first questions.

from turnwise.errors import InvalidSettingError, LockTimeoutError
from turnwise.sqlalchemy import dialect_events
from turnwise.sqlalchemy.driver_connections import driver_of
from turnwise.sqlalchemy.sqlite_connection import FileConnection
from turnwise.sqlalchemy.sqlite_files import FileStats, file_at, is_alone
from turnwise.sqlalchemy.waiting import Blocking, Suspending

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Engine, ExceptionContext
    from sqlalchemy.engine.url import URL

    from turnwise.sqlalchemy.waiting import Waiting

OPTION = "turnwise_begin"
BEGINS = ("auto", "immediate", "deferred")

_KEY = "turnwise.sqlite"
# What the turn lock takes for a time.
_LONGEST_WAIT = 2.0**31 / 1000
_DRIVERS = frozenset({"pysqlite", "aiosqlite", "pysqlite_numeric", "pysqlite_dollar"})
_FALSE = frozenset({"0", "no", "false", "off"})


def layer(engine: Engine, *, begin: str = "auto", timeout: float | None = None) -> SQLiteTurns:
    """The layer for a SQLite engine.

    - ``begin``: ``"auto"`` (a transaction that begins with a read is deferred, one that begins with
      a write takes the turn and is immediate), ``"immediate"`` (takes the turn in any case) or
      ``"deferred"`` (takes it before the first write). The execution option ``turnwise_begin`` of a
      session, connection or statement outranks it.
    - ``timeout``: seconds that a statement waits for the turn and SQLite's lock together, and a
      COMMIT for readers; ``None`` for the busy timeout of the driver's connections (5 seconds
      unless ``connect_args`` or a PRAGMA says otherwise).

    Raises:
        InvalidSettingError: A setting is out of range.
    """
    return SQLiteTurns(engine, _checked(begin), _seconds(timeout))


class LeftAlone:
    """A connection that takes no turns. It is false."""

    def __init__(self, info: dict[str, Any]) -> None:
        self.info = info

    def __bool__(self) -> Literal[False]:
        return False


class SQLiteTurns:
    """Turns for the connections of one engine."""

    def __init__(self, engine: Engine, begin: str, timeout: float | None) -> None:
        # An engine with options may go before the one that has pool and dialect.
        self._engine = weakref.ref(getattr(engine, "_proxied", engine))
        self._begin = begin
        self._timeout = timeout
        self._is_async = engine.dialect.is_async
        self._takes_turns = engine.dialect.driver in _DRIVERS and _has_writers(engine.url)
        self._keeps_connections = self._had_events = self._is_detached = False
        self._connections: weakref.WeakSet[FileConnection] = weakref.WeakSet()
        self._left_alone: weakref.WeakSet[LeftAlone] = weakref.WeakSet()

    def attach(self) -> None:
        """Follow the connections of the engine's pool."""
        from sqlalchemy import event

        engine = cast("Engine", self._engine())
        event.listen(engine, "close", self._closing)
        event.listen(engine, "reset", self._resetting)

    def detach(self) -> None:
        """Leave the engine's connections as they were."""
        from sqlalchemy import event

        self._is_detached = True  # Before the list is read that others add to.
        engine = self._engine()
        if engine is not None and event.contains(engine, "close", self._closing):
            event.remove(engine, "close", self._closing)
            event.remove(engine, "reset", self._resetting)
            if self._keeps_connections:
                event.remove(engine, "handle_error", _keep_connection)
                # The flag costs something with every statement, and stays when listeners go.
                if not self._had_events:
                    dialect_events.lower_flag(engine.dialect)
        for known in list(self._connections):
            known.leave()
            known.info.pop(_KEY, None)
        self._connections.clear()
        for other in list(self._left_alone):
            other.info.pop(_KEY, None)

    def stats(self) -> list[FileStats]:
        """What was met at the engine's files, those that connections are open to."""
        files = {known.file.path: known.file for known in list(self._connections)}
        return [file.stats() for file in files.values()]

    def do_begin(self, proceed: Callable[..., Any], connection: Any) -> Any:
        """Remember that the next statement begins a transaction."""
        known = self._meet(connection)
        if known:
            known.begin()
        return proceed(connection)

    def do_commit(self, proceed: Callable[..., Any], connection: Any) -> Any:
        """Commit, again while the lock is busy, and give the turn back."""
        known = _known_of(connection)
        if not known:
            return proceed(connection)
        result = known.commit(proceed, connection)
        known.ended()
        return result

    def do_rollback(self, proceed: Callable[..., Any], connection: Any) -> Any:
        """Roll back, and give the turn back."""
        known = _known_of(connection)
        if not known:
            return proceed(connection)
        try:
            result = proceed(connection)
        except Exception:
            known.settle()
            raise
        known.ended()
        return result

    def do_execute(
        self,
        proceed: Callable[..., Any],
        cursor: Any,
        statement: str,
        parameters: Any,
        context: Any = None,
    ) -> Any:
        """Run a statement behind the turn that it needs."""
        known = self._known(context)
        if not known:
            return proceed(cursor, statement, parameters, context)
        arguments = (cursor, statement, parameters, context)
        return self._execute(known, proceed, arguments)

    def do_executemany(
        self,
        proceed: Callable[..., Any],
        cursor: Any,
        statement: str,
        parameters: Any,
        context: Any = None,
    ) -> Any:
        """Run a statement for many rows behind one turn."""
        known = self._known(context)
        if not known:
            return proceed(cursor, statement, parameters, context)
        arguments = (cursor, statement, parameters, context)
        return self._execute(known, proceed, arguments, many=True)

    def do_execute_no_params(
        self, proceed: Callable[..., Any], cursor: Any, statement: str, context: Any = None
    ) -> Any:
        """Run a statement without parameters behind the turn that it needs."""
        known = self._known(context)
        if not known:
            return proceed(cursor, statement, context)
        return self._execute(known, proceed, (cursor, statement, context))

    def _execute(
        self,
        known: FileConnection,
        proceed: Callable[..., Any],
        arguments: tuple[Any, ...],
        *,
        many: bool = False,
    ) -> Any:
        how = arguments[-1].execution_options.get(OPTION)
        how = self._begin if how is None else _checked(how)
        known.is_busy = True
        try:
            return known.execute(proceed, arguments, how, many=many)
        except LockTimeoutError:
            self._keep_connections()
            raise
        finally:
            known.is_busy = False
            if known.has_left:
                known.restore()

    def _keep_connections(self) -> None:
        """Listen to errors, from the first on that SQLAlchemy would close a connection for."""
        engine = self._engine()
        if engine is not None and not self._keeps_connections:
            from sqlalchemy import event

            self._keeps_connections = True
            self._had_events = engine.dialect._has_events  # noqa: SLF001 - listening sets it
            event.listen(engine, "handle_error", _keep_connection)

    def _known(self, context: Any) -> FileConnection | LeftAlone | None:
        """What is known of a statement's connection, from the first one on.

        SQLAlchemy calls the application's "begin" listeners before the dialect's own BEGIN.
        """
        if context is None:
            return None
        connection = context.root_connection.connection
        known: FileConnection | LeftAlone | None = _info_of(connection).get(_KEY)
        if known is None and not isinstance(connection, _AdhocProxiedConnection):
            raw, _ = _driver_parts(connection, is_async=self._is_async)
            if not getattr(raw, "in_transaction", True):
                known = self._meet(connection)
        return known

    def _meet(self, connection: Any) -> FileConnection | LeftAlone:
        info = _info_of(connection)
        known: FileConnection | LeftAlone | None = info.get(_KEY)
        if known is None:
            prepared = None if self._is_detached else self._prepare(connection)
            known = info[_KEY] = prepared or self._leave_alone(info)
            if self._is_detached:
                info.pop(_KEY, None)
        return known

    def _prepare(self, connection: Any) -> FileConnection | None:
        """Get to know a connection, once; none to a database that nobody else writes."""
        if not self._takes_turns or _shares_connections(connection):
            return None
        raw, waiting = _driver_parts(connection, is_async=self._is_async)
        # A connection of `turnwise.sqlite3` takes turns by itself.
        if getattr(raw, "_turns", None) is not None or not issubclass(
            type(raw), sqlite3.Connection
        ):
            return None
        own = None
        try:
            databases = waiting.run("PRAGMA database_list")
            path = databases[0][2]
            if not path:
                return None
            own = int(waiting.run("PRAGMA busy_timeout")[0][0])
            waiting.run("PRAGMA busy_timeout = 0")
            file = file_at(path)
            if not raw.in_transaction:
                file.use_wal(waiting)
        except sqlite3.Error:
            # No database, or an authorizer: the statement says so itself.
            return None
        timeout = self._timeout
        if timeout is None:
            timeout = own / 1000
        known = FileConnection(
            *(raw, waiting, file, connection.info),
            timeout=timeout,
            driver_timeout=own,
            alone=is_alone(databases),
        )
        self._connections.add(known)
        if self._is_detached:
            known.leave()
            return None
        return known

    def _leave_alone(self, info: dict[str, Any]) -> LeftAlone:
        other = LeftAlone(info)
        self._left_alone.add(other)
        return other

    def _closing(self, dbapi_connection: Any, record: Any) -> None:
        """A connection is about to be closed: its transaction ends, and then its turn."""
        known = record.info.pop(_KEY, None) if record is not None else None
        if not known:
            return
        self._connections.discard(known)
        if known.turn is not None and not self._is_async:
            try:
                dbapi_connection.rollback()
            except sqlite3.Error:
                pass  # Another thread's: it is closed in a moment.
        known.give_back()

    def _resetting(self, dbapi_connection: Any, record: Any, state: Any) -> None:
        """A forgotten connection of asyncio is about to be terminated, without a rollback."""
        if state.terminate_only and not state.asyncio_safe:
            self._closing(dbapi_connection, record)


def _known_of(connection: Any) -> FileConnection | LeftAlone | None:
    """What is known of a pool's connection."""
    known: FileConnection | LeftAlone | None = _info_of(connection).get(_KEY)
    return known


def _info_of(connection: Any) -> dict[str, Any]:
    try:
        info: dict[str, Any] = connection.info
    except NotImplementedError:
        return {}  # An `_AdhocProxiedConnection`.
    return info


def _keep_connection(context: ExceptionContext) -> None:
    """Keep the connection after a wait that timed out.

    SQLAlchemy takes every ``TimeoutError`` for a cancellation, after which a connection of asyncio
    is in an unknown state, and closes it.
    """
    if isinstance(context.original_exception, LockTimeoutError):
        context.is_disconnect = False


def _driver_parts(connection: Any, *, is_async: bool) -> tuple[sqlite3.Connection, Waiting]:
    driver = driver_of(connection)
    if is_async:
        return driver._conn, Suspending(driver)  # noqa: SLF001 - for what is read without a wait
    # A tracer's proxy claims to be of the class that it wraps, and `sqlite3` does not take it.
    while not issubclass(type(driver), sqlite3.Connection) and hasattr(driver, "__wrapped__"):
        driver = driver.__wrapped__
    return driver, Blocking(driver)


def _shares_connections(connection: Any) -> bool:
    """Whether the pool hands one connection to several users at once."""
    from sqlalchemy.pool import SingletonThreadPool, StaticPool

    return isinstance(connection._pool, (SingletonThreadPool, StaticPool))  # noqa: SLF001


def _has_writers(url: URL) -> bool:
    """Whether the URL leaves it possible that somebody else writes the database."""
    if str(url.query.get("uri", "")).lower() in {"", *_FALSE}:
        return True
    query = {
        name: value[-1] if isinstance(value, tuple) else value for name, value in url.query.items()
    }
    if query.get("mode") in {"ro", "memory"} or "vfs" in query or query.get("cache") == "shared":
        return False
    return query.get("immutable", "0").lower() in _FALSE


def _checked(begin: object) -> str:
    if isinstance(begin, str) and begin in BEGINS:
        return begin
    words = ", ".join(map(repr, BEGINS))
    raise InvalidSettingError(f"begin and {OPTION} are one of {words}, not {begin!r}")


def _seconds(timeout: float | None) -> float | None:
    if timeout is None:
        return None
    if math.isnan(timeout) or timeout < 0:
        raise InvalidSettingError(f"timeout is a number of seconds, 0 or more, not {timeout!r}")
    return min(float(timeout), _LONGEST_WAIT)
