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
from turnwise.sqlalchemy.restoring import Kept

if TYPE_CHECKING:
    from sqlalchemy.orm import InstanceState

_BEFORE = "_turnwise_before"
# Of one that is added again and again; a unit of work needs the first of its own.
_MOST = 16


class _Before(NamedTuple):
    """An object before it was attached. ``at_ns`` is of ``time.monotonic_ns()``."""

    at_ns: int
    task: int | None
    held: frozenset[str]
    """The attributes that a new object held."""
    committed: dict[str, Any]
    """What they were before they were changed, from which a flush knows what is new in them."""
    kept: Kept | None
    """All of a stored one with changes."""


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
    if state.key is not None and not state.modified:
        return
    kept = Kept(instance) if state.key is not None else None
    committed = state.committed_state.copy()
    before = _Before(time.monotonic_ns(), running_task(), frozenset(state.dict), committed, kept)
    known = vars(state).setdefault(_BEFORE, [])
    known.append(before)
    del known[:-_MOST]
    _here.states.add(state)


def put_back(mark: int) -> None:
    """Have the objects that this thread or task has brought in since ``mark`` be as before."""
    task = running_task()
    for state in list(_here.states):
        known = vars(state).get(_BEFORE, ())
        before = next((one for one in known if one.at_ns > mark and one.task == task), None)
        instance = state.obj()
        if before is None or instance is None:
            continue
        del vars(state)[_BEFORE]
        _here.states.discard(state)
        if before.kept is not None:
            before.kept.put_back()
        elif state.session_id is None:
            make_transient(instance)
            for name in state.dict.keys() - before.held:
                del state.dict[name]
            state.committed_state = before.committed


__all__ = ["put_back", "watch"]
