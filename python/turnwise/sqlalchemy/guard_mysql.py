"""MySQL and MariaDB roll whole transactions back, and let the application go on.

What it does next is committed without what it did before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from turnwise import drivers
from turnwise.classification import classify, observe
from turnwise.sqlalchemy.guard import Guard

if TYPE_CHECKING:
    from turnwise.classification import Observation

_LOCK_WAIT_TIMEOUT = 1205
_IN_TRANSACTION = 1
"""SERVER_STATUS_IN_TRANS."""


class MysqlGuard(Guard):
    """Poisons a handle whose transaction the server has rolled back."""

    @property
    def name(self) -> str:
        """The server, whatever the URL calls it."""
        return "mariadb" if getattr(self.dialect, "is_mariadb", False) else "mysql"

    def has_ended(self, error: BaseException, observation: Observation, connection: Any) -> bool:
        """Ask the table; where it cannot know, ask the server, before anything is poisoned."""
        if self._is_autocommit(connection):
            return False
        verdict = classify(error, overrides=self.settings.overrides)
        reading = drivers.read(error)
        is_unlisted = verdict.class_ == "unlisted"
        if reading is not None and (reading.code == _LOCK_WAIT_TIMEOUT or is_unlisted):
            is_open = self._ask(connection)
            if is_open is not None:
                observe(error, observation._replace(in_transaction=is_open))
                return not is_open or is_unlisted
        return verdict.fate == "rolled_back" or (is_unlisted and reading is not None)

    def _is_autocommit(self, connection: Any) -> bool:
        try:
            return bool(self.dialect.detect_autocommit_setting(connection.dbapi_connection))
        except Exception:  # noqa: BLE001 - before SQLAlchemy 2.0.43, and foreign dialects
            return False

    def _ask(self, connection: Any) -> bool | None:
        """Whether the server has a transaction open: an error says nothing about it."""
        is_mariadb = self.name == "mariadb"
        cursor = connection.cursor()
        try:
            cursor.execute("SELECT @@in_transaction" if is_mariadb else "DO 0")
            if is_mariadb:
                return bool(cursor.fetchone()[0])
        except Exception:  # noqa: BLE001 - then the table decides
            return None
        finally:
            cursor.close()
        driver = connection.driver_connection
        status = getattr(driver, "server_status", None)
        if isinstance(status, int):
            return bool(status & _IN_TRANSACTION)
        answer = getattr(driver, "in_transaction", None)
        return answer if isinstance(answer, bool) else None
