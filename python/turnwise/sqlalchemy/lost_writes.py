"""A commit without statements, after a rollback that threw writes away because of an error.

The usual hand-made retry (``rollback(); commit()``) sends nothing and returns. A session is watched
by three listeners of its class, once for each transaction and not for each statement.
"""

from __future__ import annotations

import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import event
from sqlalchemy.orm import Session

from turnwise import events
from turnwise.classification import classify
from turnwise.errors import WritesLostError
from turnwise.sqlalchemy import interception
from turnwise.sqlalchemy.guard import Guard, Losses

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Connection
    from sqlalchemy.engine.interfaces import Dialect
    from sqlalchemy.orm import SessionTransaction

_LOSSES = "_turnwise_losses"
_LOST = "_turnwise_lost"

_changing = threading.Lock()
_watched: weakref.WeakSet[Dialect] = weakref.WeakSet()
"""The dialects that are installed: the listeners stay while there are some."""


class _Lost(NamedTuple):
    """What a session has lost, and when it is forgotten."""

    error: BaseException
    guard: Guard
    identity_map: object
    """A session that was closed meanwhile has another."""


def watch(dialect: Dialect) -> None:
    """Listen to sessions."""
    with _changing:
        for name, listener in _LISTENERS.items():
            # Those of an engine that was collected, not uninstalled, are still there.
            if not event.contains(Session, name, listener):
                event.listen(Session, name, listener)
        _watched.add(dialect)


def unwatch(dialect: Dialect) -> None:
    """Listen no more, after the last dialect."""
    with _changing:
        _watched.discard(dialect)
        for name, listener in _LISTENERS.items() if not _watched else ():
            if event.contains(Session, name, listener):
                event.remove(Session, name, listener)


def report(guard: Guard, error: BaseException) -> WritesLostError:
    """Tell the log and the hooks, and make the error."""
    verdict = classify(error, overrides=guard.settings.overrides)
    events.tell(
        events.UnitEvent(
            "failure", guard.title, verdict.class_, verdict.code, 1, error=WritesLostError.kind
        )
    )
    return WritesLostError(
        "this commit sends nothing: an error had thrown the writes away, the transaction was "
        f"rolled back, and they were not done again ({type(error).__name__})"
    )


def _after_begin(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    vars(session).pop(_LOST, None)
    if transaction.parent is None:
        guard = interception.layer_of(connection.dialect, "guard")
        if isinstance(guard, Guard):
            handle = guard.handle_of(connection.connection)
            handle.losses = vars(transaction).setdefault(_LOSSES, Losses(guard))
            handle.is_used = True


def _after_soft_rollback(session: Session, previous: SessionTransaction) -> None:
    path = [previous]
    while (outer := path[-1].parent) is not None:
        path.append(outer)
    if any(transaction.nested for transaction in path):
        return
    losses: Losses | None = vars(path[-1]).get(_LOSSES)
    guard = losses.guard if losses is not None else None
    error = losses.error if losses is not None else None
    if len(path) > 1 and error is None:
        # Only a flush is neither a savepoint nor the whole transaction, and it has failed.
        error, guard = sys.exc_info()[1], guard or _guard_of(session)
    if error is not None and guard is not None:
        known: _Lost | None = vars(session).get(_LOST)
        if known is None or known.identity_map is not session.identity_map:
            vars(session)[_LOST] = _Lost(error, guard, session.identity_map)


def _before_commit(session: Session) -> None:
    lost: _Lost | None = vars(session).get(_LOST)
    if lost is None or session.get_nested_transaction() is not None:
        return
    if session.identity_map is not lost.identity_map:
        del vars(session)[_LOST]
        return
    session.flush()  # As the commit does next. What has statements begins, and is forgotten.
    if _LOST in vars(session):
        refusal = report(lost.guard, lost.error)
        if lost.guard.settings.strict:
            raise refusal from lost.error


def _guard_of(session: Session) -> Guard | None:
    """The guard of the engine that everything of the session goes to, if it is installed."""
    try:
        guard = interception.layer_of(session.get_bind().dialect, "guard")
    except Exception:  # noqa: BLE001 - there are several engines
        return None
    return guard if isinstance(guard, Guard) else None


_LISTENERS: dict[str, Callable[..., Any]] = {
    "after_begin": _after_begin,
    "after_soft_rollback": _after_soft_rollback,
    "before_commit": _before_commit,
}
