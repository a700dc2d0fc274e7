"""Which sessions a task or job has begun and not ended."""

# ruff: noqa: SLF001 - what `sessions` knows of this thread

from __future__ import annotations

from typing import TYPE_CHECKING

from turnwise.sqlalchemy import sessions

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

_NAMED = "_turnwise_named"


def left_open(mark: int) -> list[tuple[Session, str]]:
    """The sessions that this thread has begun since ``mark`` and not ended, each with its line.

    Left out is what holds no connection and has nothing to write, and what was named before.
    """
    found = []
    for transaction in list(sessions._here.transactions):
        session, began = transaction.session, vars(transaction)[sessions._STAMP]
        if (
            began.at_ns > mark
            and sessions._root(session) is transaction
            and not vars(transaction).get(_NAMED)
            and (sessions._entries(transaction) or session.new or session.dirty or session.deleted)
        ):
            vars(transaction)[_NAMED] = True
            found.append((session, began.site))
    return found


def connection_of(session: Session) -> object | None:
    """A connection that a session's transaction holds, as the driver made it."""
    root = sessions._root(session)
    for connection, _, _, _ in () if root is None else sessions._entries(root):
        if not connection.invalidated and not connection.closed:
            return connection.connection.dbapi_connection
    return None
