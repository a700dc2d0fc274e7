"""Which task of asyncio belongs to which: what a task's children commit, it has committed too.

A task inherits the context of the one that makes it, and so does a thread of ``asyncio.to_thread``.
Every task that runs a unit of work therefore leaves a mark of its own there, once.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar
from typing import Any

# The task's id, when a session last committed in it or below it (`time.monotonic_ns()`), the mark
# of the task that made it, how many are above, and the loop. A list costs less than a class.
mark: ContextVar[list[Any] | None] = ContextVar("turnwise_lineage", default=None)
# Tasks that each make the next one would otherwise keep the marks of all before them.
_DEEPEST = 64


def join() -> None:
    """Leave the running task's mark. Without asyncio: none."""
    loaded = sys.modules.get("asyncio")
    try:
        task = None if loaded is None else loaded.current_task()
    except RuntimeError:
        return
    if task is not None:
        above = mark.get()
        if above is not None and above[3] >= _DEEPEST:
            above = None
        mark.set([id(task), 0, above, 0 if above is None else above[3] + 1, task.get_loop()])


def note_commit(now: int) -> None:
    """Record a commit, for the tasks above as well."""
    mine = mark.get()
    while mine is not None:
        mine[1], mine = now, mine[2]


def committed_at(*, anywhere: bool) -> int:
    """When a session last committed in this task or below it; ``anywhere``: or above. 0: never."""
    last, mine = 0, mark.get()
    while mine is not None:
        last = max(last, mine[1])
        mine = mine[2] if anywhere else None
    return last
