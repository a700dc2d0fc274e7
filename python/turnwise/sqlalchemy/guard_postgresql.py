"""PostgreSQL answers COMMIT of a transaction in which a statement has failed with ROLLBACK.

The drivers take that for success; pg8000 alone looks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from turnwise import _words, drivers
from turnwise.errors import RolledBackError
from turnwise.sqlalchemy.driver_connections import driver_of
from turnwise.sqlalchemy.guard import Guard, Handle, described

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine.interfaces import Dialect

    from turnwise.sqlalchemy.interception import Function
    from turnwise.sqlalchemy.settings import Settings

_IDLE, _IN_ERROR = 0, 3
"""What libpq calls PQTRANS_IDLE and PQTRANS_INERROR."""
_IN_FAILED_TRANSACTION = "25P02"


class PostgresqlGuard(Guard):
    """Never sends COMMIT where the server would roll back."""

    def __init__(self, dialect: Dialect, settings: Settings, title: str) -> None:
        super().__init__(dialect, settings, title)
        self._status = _STATUS.get(dialect.driver)
        """The state of the transaction, of libpq; None where the driver hides it."""

    def do_prepare_twophase(self, proceed: Function, connection: Any, xid: Any) -> Any:
        """Prepare, unless a statement has failed. SQLAlchemy rolls back itself after an error."""
        if self.must_not_commit(connection.connection):
            handle = self.handle_of(connection.connection)
            raise self.refusal(handle) from handle.error
        return proceed(connection, xid)

    def do_commit_twophase(
        self, proceed: Function, connection: Any, xid: Any, *prepared: Any, **o: Any
    ) -> Any:
        """Commit, unless a statement has failed and it was not prepared."""
        if prepared == (False,) and self.must_not_commit(connection.connection):
            self._refuse_commit(
                connection.connection,
                lambda: self.dialect.do_rollback_twophase(connection, xid, is_prepared=False),
            )
        return super().do_commit_twophase(proceed, connection, xid, *prepared, **o)

    def in_transaction(self, connection: Any) -> bool | None:
        """What the driver says, where it says it."""
        return None if self._status is None else self._status(connection) != _IDLE

    def must_not_commit(self, connection: Any) -> bool:
        """Whether a statement has failed, and nobody has rolled back."""
        if self._status is not None:
            return self._status(connection) == _IN_ERROR
        handle = self.handle_of(connection)
        if handle.error is None and not handle.is_doubtful:
            return False
        return _is_refused(connection)

    def refusal(self, handle: Handle) -> RolledBackError:
        """The error that COMMIT gets."""
        return RolledBackError(
            "PostgreSQL would have answered COMMIT with ROLLBACK, because a statement had failed "
            f"and the transaction went on: {described(handle)}. Nothing of it is stored"
        )

    def _check_after(self, statement: str, context: Any) -> None:
        """After an error only the end of the transaction, or of a savepoint, succeeds."""
        handle = self.handle_of(context.root_connection.connection)
        if handle.error is None:
            return
        refusal, first = self.refusal(handle), handle.error
        ends = _words.commits(statement)
        self._overcome(handle)
        if ends:
            raise refusal from first


class AsyncpgGuard(PostgresqlGuard):
    """As above. SQLAlchemy tells nobody of the errors of asyncpg's server-side cursors."""

    def do_execute(
        self, proceed: Function, cursor: Any, statement: str, parameters: Any, context: Any
    ) -> Any:
        """Run a statement; after a server-side cursor COMMIT asks the server first."""
        result = super().do_execute(proceed, cursor, statement, parameters, context)
        if cursor.server_side and context is not None:
            handle = self.handle_of(context.root_connection.connection)
            handle.is_doubtful = handle.is_used = True
            handle.statement = handle.statement or statement
        return result


def _of_psycopg2(connection: Any) -> int:
    status: int = connection.dbapi_connection.info.transaction_status
    return status


def _of_psycopg(connection: Any) -> int:
    status: int = driver_of(connection).pgconn.transaction_status
    return status


_STATUS: dict[str, Callable[[Any], int]] = {
    "psycopg2": _of_psycopg2,
    "psycopg": _of_psycopg,
    "psycopg_async": _of_psycopg,
}


def _is_refused(connection: Any) -> bool:
    """Whether the server would take no statement. Only asked after an error."""
    cursor = connection.cursor()
    try:
        cursor.execute("SELECT 1")
    except Exception as error:  # noqa: BLE001 - COMMIT then meets the same
        reading = drivers.read(error)
        return reading is not None and reading.code == _IN_FAILED_TRANSACTION
    finally:
        cursor.close()
    return False
