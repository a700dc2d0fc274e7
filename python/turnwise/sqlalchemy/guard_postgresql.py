"""PostgreSQL answers COMMIT of a transaction in which a statement has failed with ROLLBACK.

The drivers take that for success; pg8000 alone looks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from turnwise import drivers
from turnwise.errors import RolledBackError
from turnwise.sqlalchemy import words
from turnwise.sqlalchemy.guard import Guard, Handle, described

if TYPE_CHECKING:
    from turnwise.sqlalchemy.interception import Function

_IDLE, _IN_ERROR = 0, 3
"""What libpq calls PQTRANS_IDLE and PQTRANS_INERROR."""
_IN_FAILED_TRANSACTION = "25P02"


class PostgresqlGuard(Guard):
    """Never sends COMMIT where the server would roll back."""

    def do_commit(self, proceed: Function, connection: Any) -> Any:
        """Commit, unless a statement has failed and nobody has rolled back."""
        if self._is_aborted(connection):
            self._give_up(connection, lambda: self.dialect.do_rollback(connection))
        return super().do_commit(proceed, connection)

    def do_prepare_twophase(self, proceed: Function, connection: Any, xid: Any) -> Any:
        """Prepare, as above. SQLAlchemy rolls back itself after an error."""
        if self._is_aborted(connection.connection):
            handle = self.handle_of(connection.connection)
            raise self._rolled_back_error(handle) from handle.error
        return proceed(connection, xid)

    def do_commit_twophase(
        self, proceed: Function, connection: Any, xid: Any, *prepared: Any, **o: Any
    ) -> Any:
        """Commit, as above, if it was not prepared."""
        if prepared == (False,) and self._is_aborted(connection.connection):
            self._give_up(
                connection.connection,
                lambda: self.dialect.do_rollback_twophase(connection, xid, is_prepared=False),
            )
        return proceed(connection, xid, *prepared, **o)

    def in_transaction(self, connection: Any) -> bool | None:
        """What the driver says, where it says it."""
        status = _status(connection)
        return None if status is None else status != _IDLE

    def _is_aborted(self, connection: Any) -> bool:
        status = _status(connection)
        if status is not None:
            return status == _IN_ERROR
        handle = self.handle_of(connection)
        if handle.error is None and not handle.is_doubtful:
            return False
        return _is_refused(connection)

    def _give_up(self, connection: Any, roll_back: Function) -> NoReturn:
        handle = self.handle_of(connection)
        refusal, first = self._rolled_back_error(handle), handle.error
        self.roll_back(handle, roll_back)
        raise refusal from first

    def _rolled_back_error(self, handle: Handle) -> RolledBackError:
        return RolledBackError(
            "PostgreSQL would have answered COMMIT with ROLLBACK, because a statement had failed "
            f"and the transaction went on: {described(handle)}. Nothing of it is stored"
        )

    def _check_after(self, statement: str, context: Any) -> None:
        """After an error only the end of the transaction, or of a savepoint, succeeds."""
        handle = self.handle_of(context.root_connection.connection)
        if handle.error is None:
            return
        refusal, first = self._rolled_back_error(handle), handle.error
        ends = words.commits(statement)
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
            handle.is_doubtful, handle.statement = True, handle.statement or statement
        return result


def _status(connection: Any) -> int | None:
    """The state of the transaction, of libpq; None where the driver hides it (asyncpg, pg8000)."""
    driver = connection.driver_connection
    libpq = getattr(driver, "pgconn", None)  # psycopg
    if libpq is None:
        libpq = getattr(driver, "info", None)  # psycopg2
    status = getattr(libpq, "transaction_status", None)
    return None if status is None else int(status)


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
