"""What a server says of its sessions: state, age, who waits for whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.pool import NullPool

if TYPE_CHECKING:
    from sqlalchemy.engine import URL, Connection, Engine

STATEMENT_SECONDS = 3
CONNECT_SECONDS = 5
# Synchronous drivers that take the place of an asynchronous one.
_SYNCHRONOUS = {
    "postgresql": ("psycopg", "psycopg2", "pg8000"),
    "mysql": ("pymysql", "mysqldb", "mysqlconnector", "mariadbconnector"),
}
_ASYNCPG_ONLY = {"prepared_statement_cache_size", "prepared_statement_name_func"}


@dataclass(frozen=True)
class ServerSession:
    """One session as the server sees it. Ages are seconds; `None`: not known."""

    pid: int
    state: str
    """active, waiting (for a lock), idle_in_tx, aborted_tx, idle, background, hidden, untracked."""
    user: str = ""
    database: str = ""
    application: str = ""
    address: str = ""
    """Of the client; empty: a Unix socket, or not known."""
    port: int | None = None
    transaction_age: float | None = None
    state_age: float | None = None
    wait: str = ""
    statement: str = ""
    blocked_by: tuple[int, ...] = ()
    is_visible: bool = True
    """Whether the server tells this role all of it."""


@dataclass(frozen=True)
class ServerView:
    """What a server says at one moment. `own` is the session that asked."""

    product: str
    version: str
    connections: int
    max_connections: int
    own: ServerSession
    sessions: tuple[ServerSession, ...]
    notes: tuple[str, ...] = ()


class Reader(Protocol):
    """Asks one kind of server, on one connection."""

    def read(self) -> ServerView:
        """What it says now."""


class UnreachableServerError(Exception):
    """The server gives no answer. The text is one line that says why."""


class UnusableURLError(UnreachableServerError):
    """There is no way to ask the server of this URL."""


class Server:
    """A server and one connection to it, made when it is first asked and again after an error.

    Raises:
        UnusableURLError: The URL is none, or of another kind of database, or no driver is there.
    """

    def __init__(self, text: str) -> None:
        self._engine = _engine_for(text)
        self._connection: Connection | None = None
        self._reader: Reader | None = None
        url = self._engine.url
        port = f":{url.port}" if url.port else ""
        self.name = f"{url.username or ''}@{url.host or ''}{port}/{url.database or ''}"
        """User, host and database, without password."""

    def read(self) -> ServerView:
        """What it says now.

        Raises:
            UnreachableServerError: It cannot be reached, or refuses.
        """
        try:
            if self._reader is None:
                self._connection = self._engine.connect()
                self._reader = _reader_for(self._connection)
            return self._reader.read()
        except Exception as error:
            self.close()
            raise UnreachableServerError(_said_by(error)) from error

    def close(self) -> None:
        """End the connection, if there is one."""
        connection, self._connection, self._reader = self._connection, None, None
        if connection is not None:
            try:
                connection.invalidate()
                connection.close()
            except Exception:  # noqa: BLE001, S110 - it may be broken already
                pass


def _said_by(error: Exception) -> str:
    """The driver's own words, without SQLAlchemy's and in one line."""
    text = " ".join(str(getattr(error, "orig", None) or error).split())
    return text if len(text) <= 400 else f"{text[:400]}..."


def _engine_for(text: str) -> Engine:
    """An engine without pool for one connection, each statement a transaction of its own.

    An asynchronous driver is replaced by a synchronous one that is installed.
    """
    try:
        url = make_url(text)
        family = {"mariadb": "mysql"}.get(url.get_backend_name(), url.get_backend_name())
        if family not in _SYNCHRONOUS:
            raise UnusableURLError(
                f"{url.get_backend_name()} has no sessions to show: "
                "PostgreSQL, MariaDB and MySQL have"
            )
        if url.get_dialect().is_async:
            return _synchronous(url, family)
        return _engine(url)
    except NoSuchModuleError as error:
        raise UnusableURLError(str(error)) from None
    except (ArgumentError, ValueError):
        # Their own text may repeat a password.
        raise UnusableURLError(
            "not a database URL, such as postgresql+psycopg://user@host/database"
        ) from None
    except ModuleNotFoundError as error:
        raise UnusableURLError(f"the driver {error.name} is not installed") from None


def _synchronous(url: URL, family: str) -> Engine:
    query = {name: value for name, value in url.query.items() if name not in _ASYNCPG_ONLY}
    if "ssl" in query and family == "postgresql":
        query["sslmode"] = query.pop("ssl")
    for driver in _SYNCHRONOUS[family]:
        try:
            return _engine(url.set(drivername=f"{url.get_backend_name()}+{driver}", query=query))
        except ModuleNotFoundError:
            continue
    raise UnusableURLError(
        f"{url.drivername} is asynchronous, and none of {', '.join(_SYNCHRONOUS[family])} is there"
    )


def _engine(url: URL) -> Engine:
    limits: dict[str, dict[str, Any]] = {
        "psycopg": {"connect_timeout": CONNECT_SECONDS, "tcp_user_timeout": 10_000},
        "psycopg2": {"connect_timeout": CONNECT_SECONDS, "tcp_user_timeout": 10_000},
        "pg8000": {"timeout": CONNECT_SECONDS},
        "pymysql": {"connect_timeout": CONNECT_SECONDS, "read_timeout": 2 * CONNECT_SECONDS},
        "mysqldb": {"connect_timeout": CONNECT_SECONDS, "read_timeout": 2 * CONNECT_SECONDS},
        "mysqlconnector": {"connection_timeout": CONNECT_SECONDS},
        "mariadbconnector": {"connect_timeout": CONNECT_SECONDS},
    }
    given = limits.get(url.get_dialect().driver, {})
    arguments = {name: value for name, value in given.items() if name not in url.query}
    return create_engine(
        url, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=arguments
    )


def _reader_for(connection: Connection) -> Reader:
    """What can read from the server of this connection; sets its statement time-out."""
    if connection.dialect.name == "postgresql":
        from turnwise.sqlalchemy.postgresql_sessions import PostgreSQLReader

        return PostgreSQLReader(connection)
    from turnwise.sqlalchemy.mysql_sessions import MySQLReader

    return MySQLReader(connection)
