"""Objects that were brought into sessions, as they were before: an attempt that fails spoils them.

A session that is closed keeps its new objects as ones that are stored, and one that is rolled back
throws away what was changed on objects that came from elsewhere: the next attempt's ``add`` would
write nothing, and its COMMIT would succeed.
"""

from __future__ import annotations

import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import event
from sqlalchemy.orm import Session, make_transient
from sqlalchemy.orm.attributes import instance_state

from turnwise._process import running_task
from turnwise.sqlalchemy.restoring import Kept, NotRestoredError

if TYPE_CHECKING:
    from sqlalchemy.orm import InstanceState

_BEFORE = "_turnwise_before"
# Of one that is added again and again; a unit of work needs the first of its own.
_MOST = 16


class _Before(NamedTuple):
    """An object before it was attached. ``at_ns`` is of ``time.monotonic_ns()``."""

    at_ns: int
    task: int | None
    kept: Kept | None
    """All of it, unless it is stored and has no changes."""


class _Here(threading.local):
    """The objects that this thread has brought into sessions and that are still referred to."""

    def __init__(self) -> None:
        self.states: weakref.WeakSet[InstanceState[Any]] = weakref.WeakSet()


_here = _Here()


def watch() -> None:
    """Look at objects that are attached to a session from now on."""
    event.listen(Session, "before_attach", _look)


def _look(session: Session, instance: object) -> None:
    state = instance_state(instance)
    kept = None
    if state.key is None or state.modified:
        kept = Kept(instance)
        kept.let_go()
    known = vars(state).setdefault(_BEFORE, [])
    known.append(_Before(time.monotonic_ns(), running_task(), kept))
    del known[:-_MOST]
    _here.states.add(state)


def put_back(mark: int) -> str | None:
    """Have the objects that this thread or task has brought in since ``mark`` be as before.

    Why that is not possible; ``None``: it is done.
    """
    obstacle = None
    task = running_task()
    for state in list(_here.states):
        known = vars(state).get(_BEFORE, [])
        before = next((one for one in known if one.at_ns > mark and one.task == task), None)
        instance = state.obj()
        if before is None or instance is None:
            continue
        del known[known.index(before) :]
        if not known:
            _here.states.discard(state)
        is_free = state.session_id is None
        if before.kept is None:
            if is_free:
                # What a flush has written passes for stored, so that setting it again does nothing.
                state._expire(state.dict, set())  # noqa: SLF001 - `Session.expire` wants a session
        elif before.kept.key is not None or is_free:
            if before.kept.key is None:
                make_transient(instance)
            try:
                before.kept.put_back(instance)
            except NotRestoredError as reason:
                obstacle = str(reason)
    return obstacle


__all__ = ["put_back", "watch"]
