"""SQLite ends transactions on its own; its autocommit flag is the only way to know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from turnwise.sqlalchemy.driver_connections import driver_of
from turnwise.sqlalchemy.guard import Guard

if TYPE_CHECKING:
    from turnwise.classification import Observation
    from turnwise.sqlalchemy.interception import Function


class SqliteGuard(Guard):
    """Poisons a handle whose transaction INTERRUPT, a full disk or ROLLBACK in SQL has ended.

    The next statement would commit by itself, and the first half of the work would be missing.
    """

    def do_execute(
        self, proceed: Function, cursor: Any, statement: str, parameters: Any, context: Any
    ) -> Any:
        """Run a statement, and see whether its error has ended the transaction."""
        if context is None:
            return proceed(cursor, statement, parameters, context)
        if self.troubled:
            self._check(context)
        connection = context.root_connection.connection
        was = self.in_transaction(connection)
        try:
            result = proceed(cursor, statement, parameters, context)
        except BaseException as error:
            self._failed(error, statement, context, was=was)
            raise
        if context.is_crud or context.is_text or context.isddl:
            self._succeeded(statement, context)
        if cursor.description is not None and self.in_transaction(connection):
            handle = self.handle_of(connection)
            handle.has_read = handle.is_used = True
        if self.troubled:
            self._check_after(statement, context)
        return result

    do_executemany = do_execute

    def do_rollback(self, proceed: Function, connection: Any) -> Any:
        """Roll back, also where SQLAlchemy takes a connection for one in AUTOCOMMIT and skips it.

        ``skip_autocommit_rollback`` looks at ``isolation_level`` alone, which is None as well where
        the application, or turnwise, begins transactions itself.
        """
        if self.troubled and self._is_poisoned(connection):
            driver = driver_of(connection)
            if getattr(driver, "autocommit", None) is False and not driver.in_transaction:
                # Python 3.12: with nothing to roll back the driver fails, and begins no more.
                driver.execute("BEGIN")
        result = super().do_rollback(proceed, connection)
        skips = getattr(self.dialect, "skip_autocommit_rollback", False)
        if skips and self.in_transaction(connection):
            connection.rollback()
        return result

    def in_transaction(self, connection: Any) -> bool | None:
        """SQLite's autocommit flag, of `sqlite3` and of aiosqlite."""
        driver = connection.dbapi_connection
        answer = getattr(driver, "in_transaction", None)
        if answer is None:
            answer = getattr(getattr(driver, "driver_connection", None), "in_transaction", None)
        return answer

    def journal(self, connection: Any, error: BaseException, phase: str) -> str | None:
        """The journal mode, which decides what an I/O error at COMMIT means."""
        if phase != "commit":
            return None
        cursor = connection.cursor()
        try:
            cursor.execute("PRAGMA journal_mode")
            return str(cursor.fetchone()[0]).lower()
        except Exception:  # noqa: BLE001 - then it is not known
            return None
        finally:
            cursor.close()

    def has_ended(
        self, error: BaseException, observation: Observation, connection: Any, statement: str | None
    ) -> bool:
        """Whether a transaction that was open is open no more."""
        return bool(observation.was_in_transaction) and observation.in_transaction is False
