"""The sessions of a PostgreSQL server (10 or newer), by pg_stat_activity."""

from __future__ import annotations

from typing import TYPE_CHECKING

from turnwise.sqlalchemy.server_sessions import STATEMENT_SECONDS, ServerSession, ServerView

if TYPE_CHECKING:
    from typing import Any

    from sqlalchemy.engine import Connection

_HIDDEN = "<insufficient privilege>"
# pg_blocking_pids stops the lock manager for a moment: it is asked only for those that wait. Of the
# sessions of others a plain role sees that in pg_locks alone.
_SESSIONS = f"""
SELECT pid, backend_type, state, usename, datname, application_name, host(client_addr), client_port,
       extract(epoch FROM clock_timestamp() - xact_start)::float8,
       extract(epoch FROM clock_timestamp() - state_change)::float8,
       wait_event_type, wait_event, left(query, 2000),
       CASE WHEN wait_event_type = 'Lock'
              OR (query = '{_HIDDEN}' AND pid IN (SELECT pid FROM pg_locks WHERE NOT granted))
            THEN pg_blocking_pids(pid) ELSE '{{}}' END,
       pid = pg_backend_pid()
FROM pg_stat_activity ORDER BY pid
"""  # noqa: S608 - a constant of ours
_STATES = {
    "active": "active",
    "fastpath function call": "active",
    "idle": "idle",
    "idle in transaction": "idle_in_tx",
    "idle in transaction (aborted)": "aborted_tx",
    "disabled": "untracked",
}


class PostgreSQLReader:
    """Asks PostgreSQL."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        for name, value in (
            ("application_name", "'turnwise top'"),
            ("statement_timeout", f"'{STATEMENT_SECONDS}s'"),
            ("lock_timeout", f"'{STATEMENT_SECONDS}s'"),
        ):
            connection.exec_driver_sql(f"SET {name} = {value}")
        self._version, most = connection.exec_driver_sql(
            "SELECT current_setting('server_version'), current_setting('max_connections')::int"
        ).one()
        self._max_connections = int(most)

    def read(self) -> ServerView:
        """What it says now."""
        rows = self._connection.exec_driver_sql(_SESSIONS).all()
        own: ServerSession | None = None
        sessions = []
        hidden = 0
        for row in rows:
            session = _session(*row[:14])
            hidden += not session.is_visible and session.state != "background"
            if row[14]:
                own = session
            else:
                sessions.append(session)
        assert own is not None  # noqa: S101 - PostgreSQL lists whoever asks
        notes = []
        if hidden:
            many = f"{hidden} session{'s' if hidden > 1 else ''}"
            notes.append(f"hidden from this role: {many} of others (GRANT pg_read_all_stats)")
        return ServerView(
            product="PostgreSQL",
            version=str(self._version).split(" ", maxsplit=1)[0],
            connections=1 + sum(session.state != "background" for session in sessions),
            max_connections=self._max_connections,
            own=own,
            sessions=tuple(sessions),
            notes=tuple(notes),
        )


def _session(
    pid: int,
    kind: str | None,
    state: str | None,
    user: str | None,
    database: str | None,
    application: str | None,
    address: str | None,
    port: int | None,
    transaction_age: float | None,
    state_age: float | None,
    wait_kind: str | None,
    wait: str | None,
    statement: str | None,
    blocked_by: Any,
) -> ServerSession:
    blockers = tuple(dict.fromkeys(int(each) for each in blocked_by or ()))
    is_hidden = statement == _HIDDEN
    if blockers or wait_kind == "Lock":
        known = "waiting"
    elif kind not in {"client backend", None} or (is_hidden and not database):
        known = "background"
    elif is_hidden:
        known = "hidden"
    else:
        known = _STATES.get(state or "", "active")
    waits = known in {"active", "waiting", "background"} and bool(wait)
    return ServerSession(
        pid=pid,
        state=known,
        user=user or "",
        database=database or "",
        application=application or (kind or "" if known == "background" else ""),
        address=address or "",
        # -1 is a Unix socket.
        port=port if port is not None and port > 0 else None,
        transaction_age=_seconds(transaction_age),
        state_age=_seconds(state_age),
        wait=f"{wait_kind}:{wait}" if waits else "",
        statement="" if is_hidden else statement or "",
        blocked_by=blockers,
        is_visible=not is_hidden,
    )


def _seconds(age: float | None) -> float | None:
    return None if age is None else max(0.0, float(age))
