"""Mapped objects as the items of a batch: which may be, and what a rollback leaves on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import inspect
from sqlalchemy.orm import InstanceState, make_transient

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


class Restorer:
    """Takes back from new objects what the database gave them in a transaction that failed.

    A session that is closed keeps its objects as ones that are stored: the next attempt's ``add``
    would write nothing. And with the first attempt's generated key it would insert a row that on
    SQLite may be another's by then.
    """

    def __init__(self) -> None:
        self._given: dict[int, frozenset[str]] = {}

    def remember(self, entries: Iterable[tuple[int, Any]]) -> None:
        """Look at the items of a batch before its first attempt."""
        self._given = {
            index: frozenset(state.dict) for index, state in _states(entries) if state.transient
        }

    def restore(self, entries: Iterable[tuple[int, Any]]) -> None:
        """Have the new objects among the items hold what they held at first."""
        for index, state in _states(entries):
            if index in self._given:
                make_transient(state.obj())
                for name in set(state.dict) - self._given[index]:
                    del state.dict[name]


def _states(entries: Iterable[tuple[int, Any]]) -> Iterable[tuple[int, InstanceState[Any]]]:
    for index, item in entries:
        state = inspect(item, raiseerr=False)
        if isinstance(state, InstanceState):
            yield index, state
