"""MySQL and MariaDB roll whole transactions back, and let the application go on.

What it does next is committed without what it did before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from turnwise import _words, drivers
from turnwise.classification import classify, observe
from turnwise.sqlalchemy.driver_connections import driver_of
from turnwise.sqlalchemy.guard import Guard

if TYPE_CHECKING:
    from turnwise.classification import Observation

_LOCK_WAIT_TIMEOUT = 1205
_IN_TRANSACTION = 1
"""SERVER_STATUS_IN_TRANS."""
_OF_STATEMENTS = frozenset({"01", "02", "07", "0A", "21", "22", "23", "42", "44", "45", "46"})
"""Classes of SQLSTATE that refuse or undo a statement alone: data, constraints, names, SIGNAL.

The others may come from the storage engine, which can undo a transaction and say that it is open
(MariaDB 11.8: 1030 of a bulk insert).
"""
_KEEPS_ROWS = frozenset(
    (
        *("ALTER", "ANALYZE", "CREATE", "DROP", "FLUSH", "GRANT", "LOCK", "OPTIMIZE", "RENAME"),
        *("REVOKE", "TRUNCATE", "UNLOCK"),
        *("KILL", "SET", "SHOW", "USE"),
    )
)
"""Statements that roll nothing back: the first commit what was written before, even if they fail.

`try: DROP TABLE … except: pass` of a migration goes on with a new transaction.
"""

_LAST_SQLSTATE = (
    "GET DIAGNOSTICS CONDITION 1 @turnwise = RETURNED_SQLSTATE",
    "SELECT @turnwise",
)
"""For the drivers that drop it (mysqlclient, asyncmy): the first statement after the error."""


class MysqlGuard(Guard):
    """Poisons a handle whose transaction the server has rolled back."""

    @property
    def name(self) -> str:
        """The server, whatever the URL calls it."""
        return "mariadb" if getattr(self.dialect, "is_mariadb", False) else "mysql"

    def has_ended(
        self, error: BaseException, observation: Observation, connection: Any, statement: str | None
    ) -> bool:
        """Ask the table; where it cannot know, ask the server, before anything is poisoned."""
        if self._is_autocommit(connection):
            return False
        reading = drivers.read(error)
        verdict = classify(error, overrides=self.settings.overrides)
        # Without a code it is the driver's own: the server has seen nothing.
        is_unlisted = (
            verdict.class_ == "unlisted" and reading is not None and reading.code is not None
        )
        is_timeout = reading is not None and reading.code == _LOCK_WAIT_TIMEOUT
        if not (is_unlisted or is_timeout):
            return verdict.fate == "rolled_back"
        if is_unlisted and _words.first_word(statement or "") in _KEEPS_ROWS:
            return False
        sqlstate = reading.sqlstate if reading is not None else None
        if is_unlisted and sqlstate is None:
            sqlstate = self._first(connection, *_LAST_SQLSTATE)
        is_open = self._ask_whether_open(connection, is_timeout=is_timeout)
        if is_open is not None:
            observe(error, observation._replace(in_transaction=is_open))
        return is_open is False or (is_unlisted and str(sqlstate)[:2] not in _OF_STATEMENTS)

    def _is_autocommit(self, connection: Any) -> bool:
        try:
            return bool(self.dialect.detect_autocommit_setting(connection.dbapi_connection))
        except Exception:  # noqa: BLE001 - before SQLAlchemy 2.0.43, and foreign dialects
            return False

    def _ask_whether_open(self, connection: Any, *, is_timeout: bool) -> bool | None:
        """Whether the server has a transaction open: an error says nothing about it."""
        if self.name == "mariadb":
            answer = self._first(connection, "SELECT @@in_transaction")
            return None if answer is None else bool(answer)
        self._first(connection, "DO 0")
        driver = driver_of(connection)
        status = getattr(driver, "server_status", None)
        if isinstance(status, int):
            return bool(status & _IN_TRANSACTION)
        answer = getattr(driver, "in_transaction", None)
        if isinstance(answer, bool) or not is_timeout:
            return answer
        return not self._first(connection, "SELECT @@innodb_rollback_on_timeout")

    def _first(self, connection: Any, *statements: str) -> Any:
        """The first value that the last of these statements returns; None if there is none."""
        cursor = connection.cursor()
        try:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchone()[0]
        except Exception:  # noqa: BLE001 - then the table decides
            return None
        finally:
            cursor.close()
