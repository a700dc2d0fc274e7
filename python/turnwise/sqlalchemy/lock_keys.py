"""In which order items are locked, so that no two batches wait for each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from sqlalchemy import inspect
from sqlalchemy.orm import InstanceState, Mapper

from turnwise import errors

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")


class _ByPrimaryKey:
    def __repr__(self) -> str:
        return "BY_PRIMARY_KEY"


BY_PRIMARY_KEY: Final = _ByPrimaryKey()
LockKey: TypeAlias = Callable[[Any], Any] | type[Any] | _ByPrimaryKey | None


def sorted_by(key: LockKey, entries: Iterable[tuple[int, T]]) -> list[tuple[int, T]]:
    """The numbered items in the order of what is locked for each; equal ones as they came.

    Raises:
        UnsupportedUnitError: They have no order.
    """
    entries = list(entries)
    if key is None:
        return entries
    function = _function(key)
    keyed = [(function(entry[1]), entry) for entry in entries]
    try:
        keyed.sort(key=lambda pair: pair[0])
    except TypeError as error:
        raise errors.UnsupportedUnitError(
            f"the items have no order ({error}): pass key=, the primary key that fn locks for an "
            "item; or key=None if it locks nothing that others do, which keeps their order"
        ) from error
    return [entry for _, entry in keyed]


def _function(key: LockKey) -> Callable[[Any], Any]:
    if isinstance(key, _ByPrimaryKey):
        return _primary_key
    if isinstance(key, type):
        mapper: object = inspect(key, raiseerr=False)
        if isinstance(mapper, Mapper):
            return _named(mapper)
    if not callable(key):
        raise TypeError("key is a mapped class, a function of an item, or None")
    function: Callable[[Any], Any] = key
    return function


def _primary_key(item: object) -> object:
    state = inspect(item, raiseerr=False)
    if isinstance(state, InstanceState):
        values = state.identity or tuple(state.mapper.primary_key_from_instance(item))
        is_new = None in values  # It locks nothing that exists.
        return is_new, str(state.mapper.local_table), () if is_new else values
    if isinstance(item, Mapping):
        if "id" not in item:
            raise errors.UnsupportedUnitError(
                "a mapping without the entry 'id' has no known primary key: pass key=, such as the "
                "mapped class whose primary key is among its entries"
            )
        return item["id"]
    return item


def _named(mapper: Mapper[Any]) -> Callable[[Any], object]:
    names = [mapper.get_property_by_column(column).key for column in mapper.primary_key]

    def primary_key(item: Any) -> object:
        if isinstance(item, Mapping):
            return tuple(item[name] for name in names)
        return tuple(getattr(item, name) for name in names)

    return primary_key
