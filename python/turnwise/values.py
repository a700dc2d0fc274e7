"""Plain values for a database: enum members and nested payloads without their classes."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, overload

from turnwise.errors import UnsupportedParameterError

if TYPE_CHECKING:
    from collections.abc import Hashable

_SCALARS = {type(None), bool, int, float, str, bytes}
_SEQUENCES = (list, tuple, AbstractSet)
_LONGEST_KEY = 40
_SHOWN = 6
_MOST_LEVELS = 100
"""Far more than a payload has, and a fraction of Python's own limit."""


@overload
def normalize_for_db(value: Mapping[Any, Any]) -> dict[Any, Any]: ...
@overload
def normalize_for_db(value: list[Any] | tuple[Any, ...] | AbstractSet[Any]) -> list[Any]: ...
@overload
def normalize_for_db(value: object) -> Any: ...  # noqa: ANN401 - an enum member's value is anything
def normalize_for_db(value: object) -> object:
    """The value as a driver or a JSON column takes it, however deep it is nested.

    - An enum member becomes its value, also as a key, and also if the enum is a `str` or an `int`.
    - A mapping, a dataclass or a pydantic model (of version 1 or 2, by its own `dict()` or
      `model_dump()`) becomes a `dict`; a list, tuple, set or frozenset a `list`.
    - A set is sorted where its members can be compared, so that equal sets give equal lists.
    - Everything else is handed back as it is: numbers, text, bytes, dates, times, `timedelta`,
      `Decimal`, `UUID`.

    Containers are always new ones; the argument is not changed.

    Raises `UnsupportedParameterError`, with the path to the place: for a value that contains
    itself, for more than 100 levels, and for two keys that become one.
    """
    return _plain(value, ["value"], {})


def _plain(value: object, path: list[str], outer: dict[int, int]) -> object:
    """`outer` holds the containers around the value by identity, and how long their paths are."""
    if isinstance(value, enum.Enum):
        return _plain(value.value, path, outer)
    if type(value) in _SCALARS or not _is_container(value):
        return value
    if id(value) in outer:
        whole = _text(path[: outer[id(value)]])
        raise UnsupportedParameterError(
            f"{_text(path)} is {whole} again: what contains itself cannot be stored"
        )
    if len(path) > _MOST_LEVELS:
        raise UnsupportedParameterError(f"{_text(path)} is nested more than {_MOST_LEVELS} deep")
    outer[id(value)] = len(path)
    try:
        return _opened(value, path, outer)
    finally:
        outer.popitem()


def _opened(value: object, path: list[str], outer: dict[int, int]) -> object:
    if isinstance(value, Mapping):
        return _mapping(value, path, outer)
    if isinstance(value, _SEQUENCES):
        items = [_plain(item, [*path, f"[{index}]"], outer) for index, item in enumerate(value)]
        return _sorted(items) if isinstance(value, AbstractSet) else items
    if _is_model(type(value)):
        return _plain(_dump(value, path), path, outer)
    fields = {name: getattr(value, name) for name in _field_names(value)}
    return _mapping(fields, path, outer)


def _mapping(value: Mapping[Any, Any], path: list[str], outer: dict[int, int]) -> dict[Any, Any]:
    plain: dict[Any, Any] = {}
    for key, item in value.items():
        name = _key(key)
        place = [*path, f"[{_short(name)}]"]
        if name in plain:
            raise UnsupportedParameterError(f"{_text(place)} is there twice: two keys became one")
        plain[name] = _plain(item, place, outer)
    return plain


def _key(key: Hashable) -> Hashable:
    """A key must stay hashable: a tuple stays a tuple."""
    if isinstance(key, enum.Enum):
        value: Hashable = key.value
        return _key(value)
    return tuple(map(_key, key)) if isinstance(key, tuple) else key


def _sorted(items: list[Any]) -> list[Any]:
    try:
        return sorted(items)
    except TypeError:
        return items


def _is_container(value: object) -> bool:
    cls = type(value)
    return (
        isinstance(value, (Mapping, *_SEQUENCES))
        or hasattr(cls, "__dataclass_fields__")
        or _is_model(cls)
    )


def _is_model(cls: type) -> bool:
    return any(
        base.__name__ == "BaseModel" and base.__module__.startswith("pydantic.")
        for base in cls.__mro__
    )


def _dump(model: Any, path: list[str]) -> object:  # noqa: ANN401 - pydantic is not imported
    """Version 2 has `model_dump`, version 1 only `dict`."""
    dump = getattr(model, "model_dump", None) or model.dict
    try:
        fields: object = dump()
    except (ValueError, RecursionError) as error:
        raise UnsupportedParameterError(f"{_text(path)} cannot be dumped") from error
    return fields


def _field_names(value: Any) -> list[str]:  # noqa: ANN401 - a dataclass of the caller's
    import dataclasses

    return [field.name for field in dataclasses.fields(value)]


def _short(key: object) -> str:
    text = repr(key)
    return text if len(text) <= _LONGEST_KEY else f"{text[:_LONGEST_KEY]}…"


def _text(path: list[str]) -> str:
    if len(path) > 2 * _SHOWN:
        path = [*path[:_SHOWN], "…", *path[-_SHOWN:]]
    return "".join(path)
