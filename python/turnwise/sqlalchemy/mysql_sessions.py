"""The sessions of a MariaDB or MySQL server, by its process list and InnoDB's transactions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

from turnwise import drivers
from turnwise.sqlalchemy.server_sessions import STATEMENT_SECONDS, ServerSession, ServerView

if TYPE_CHECKING:
    from typing import Any

    from sqlalchemy.engine import Connection

_TRANSACTIONS = """
SELECT trx_mysql_thread_id, trx_state, TIMESTAMPDIFF(MICROSECOND, trx_started, NOW(6)) / 1e6
FROM information_schema.innodb_trx
"""
_WAITS = {
    "MariaDB": """
SELECT w.trx_mysql_thread_id, b.trx_mysql_thread_id
FROM information_schema.innodb_lock_waits l
JOIN information_schema.innodb_trx w ON w.trx_id = l.requesting_trx_id
JOIN information_schema.innodb_trx b ON b.trx_id = l.blocking_trx_id
""",
    # MySQL 8 and newer, by its manual: InnoDB's own table is gone there.
    "MySQL": "SELECT waiting_pid, blocking_pid FROM sys.innodb_lock_waits",
}
_SESSIONS = {
    "MariaDB": """
SELECT id, user, host, db, command, time_ms / 1000, state, LEFT(info, 2000)
FROM information_schema.processlist ORDER BY id
""",
    "MySQL": """
SELECT id, user, host, db, command, time, state, LEFT(info, 2000)
FROM performance_schema.processlist ORDER BY id
""",
}
_TIME_OUT = {
    "MariaDB": f"SET max_statement_time = {STATEMENT_SECONDS}",
    "MySQL": f"SET max_execution_time = {STATEMENT_SECONDS * 1000}",
}
_BACKGROUND = re.compile(r"(?i)^(?:Daemon|Binlog Dump.*|Slave.*|Connect)$")
_WAITING = re.compile(r"(?i)^(?:Waiting for .*lock|User lock$)")
# Access denied, of a database, of a table, for want of a privilege.
_REFUSED = {1044, 1142, 1227}


class MySQLReader:
    """Asks MariaDB or MySQL."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        version, most, self._own = connection.exec_driver_sql(
            "SELECT VERSION(), @@max_connections, CONNECTION_ID()"
        ).one()
        self._product = "MariaDB" if "mariadb" in str(version).lower() else "MySQL"
        self._version = str(version).split("-", maxsplit=1)[0]
        self._max_connections = int(most)
        connection.exec_driver_sql(_TIME_OUT[self._product])

    def read(self) -> ServerView:
        """What it says now."""
        notes = []
        transactions: dict[int, tuple[str, float]] = {}
        waits: dict[int, dict[int, None]] = {}
        try:
            # Both are InnoDB's one picture, made anew at most every 0.1 s.
            for pid, state, age in self._all(_TRANSACTIONS):
                transactions[int(pid)] = (str(state), float(age))
            for waiter, blocker in self._all(_WAITS[self._product]):
                waits.setdefault(int(waiter), {})[int(blocker)] = None
        except DBAPIError as error:
            if not _is_refused(error):
                raise
            notes.append(
                "this user is shown its own sessions only, and neither transactions nor who blocks "
                "whom: GRANT PROCESS"
            )
        sessions = {
            int(row[0]): _session(
                *row,
                transaction=transactions.get(int(row[0])),
                blockers=tuple(waits.get(int(row[0]), ())),
                is_visible=not notes,
            )
            for row in self._all(_SESSIONS[self._product])
        }
        own = sessions.pop(int(self._own), None) or ServerSession(int(self._own), "active")
        used = self._all("SHOW GLOBAL STATUS LIKE 'Threads_connected'")[0][1]
        return ServerView(
            product=self._product,
            version=self._version,
            connections=int(used),
            max_connections=self._max_connections,
            own=own,
            sessions=tuple(sessions.values()),
            notes=tuple(notes),
        )

    def _all(self, statement: str) -> list[Any]:
        return list(self._connection.exec_driver_sql(statement).all())


def _is_refused(error: DBAPIError) -> bool:
    reading = drivers.read(error.orig) if error.orig is not None else None
    return reading is not None and reading.code in _REFUSED


def _session(
    pid: int,
    user: str | None,
    host: str | None,
    database: str | None,
    command: str | None,
    seconds: Any,
    state: str | None,
    statement: str | None,
    *,
    transaction: tuple[str, float] | None,
    blockers: tuple[int, ...],
    is_visible: bool,
) -> ServerSession:
    in_state, in_command = state or "", command or ""
    locks = transaction is not None and transaction[0] == "LOCK WAIT"
    if user == "system user" or _BACKGROUND.match(in_command):
        known = "background"
    elif blockers or locks or _WAITING.match(in_state):
        known = "waiting"
    elif in_command != "Sleep":
        known = "active"
    else:
        known = "idle_in_tx" if transaction is not None else "idle"
    wait = ""
    if known == "waiting":
        wait = in_state if _WAITING.match(in_state) else "InnoDB row lock"
    elif known == "background":
        wait = in_state
    address, colon, port = (host or "").rpartition(":")
    by_port = bool(colon) and port.isdigit()
    return ServerSession(
        pid=int(pid),
        state=known,
        user=user or "",
        database=database or "",
        application=in_command if known == "background" else "",
        address=address.strip("[]") if by_port else "",
        port=int(port) if by_port else None,
        transaction_age=max(0.0, transaction[1]) if transaction is not None else None,
        state_age=max(0.0, float(seconds)) if seconds is not None else None,
        wait=wait,
        statement=statement or "",
        blocked_by=blockers,
        is_visible=is_visible,
    )
