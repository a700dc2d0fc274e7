"""Mapped objects as the items of a batch: which may be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import inspect
from sqlalchemy.orm import InstanceState

from turnwise import errors

if TYPE_CHECKING:
    from collections.abc import Iterable


def check(entries: Iterable[tuple[int, Any]]) -> None:
    """Raise for an object whose changes a batch would not write, or would lose with a rollback.

    Raises:
        UnsupportedUnitError: It belongs to a session, or is detached with changes.
    """
    for index, item in entries:
        state = inspect(item, raiseerr=False)
        if not isinstance(state, InstanceState):
            continue
        name = f"item {index}, of {type(item).__name__},"
        if state.session is not None:
            raise errors.UnsupportedUnitError(
                f"{name} belongs to another session, which a batch does not commit: give primary "
                "keys and load the objects in fn, or expunge them from their session first"
            )
        if state.detached and state.modified:
            raise errors.UnsupportedUnitError(
                f"{name} is detached and has changes, which a rollback would throw away: give "
                "primary keys and values, and change the objects in fn"
            )
