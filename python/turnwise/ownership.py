"""Whose transaction a failed unit of work was in, and the error that says so."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING

from turnwise.attempts import add_note
from turnwise.errors import TransactionNotOwnedError
from turnwise.sqlalchemy import sessions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def reachable(args: tuple[object, ...], kwargs: Mapping[str, object]) -> Iterator[object]:
    """The arguments of a unit, and what is in their attributes, such as ``self.session``."""
    for argument in (*args, *kwargs.values()):
        try:
            inside = list(getattr(argument, "__dict__", {}).values())
            things = [thing for thing in (argument, *inside) if thing.__class__]
        except Exception:  # noqa: BLE001, S112 - a proxy that stands for nothing just now
            continue
        yield from things


def survey(
    error: BaseException, mark: int, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> sessions.Survey:
    """Tell what a failed unit has found open from what it has begun.

    ``mark`` is when it began. A connection of ``sqlite3`` among the arguments does not tell when
    its transaction began: one that is open is taken for the caller's.
    """
    things = list(reachable(args, kwargs))
    module = sys.modules.get("sqlite3")
    if module is not None and any(
        isinstance(thing, module.Connection) and thing.in_transaction for thing in things
    ):
        return sessions.Survey("it was given a connection with an open transaction", None, [], [])
    if "sqlalchemy.orm" not in sys.modules:
        return sessions.Survey(None, None, [], [])
    return sessions.survey(error, mark, things)


def not_owned(error: Exception, why: str) -> TransactionNotOwnedError:
    """Turn an error into a ``TransactionNotOwnedError`` that is everything that it was."""
    owner = _restored(type(error), error.args, vars(error))
    reduced = error.__reduce_ex__(2)
    setter = getattr(owner, "__setstate__", None)
    # Some drivers keep the code outside of `__dict__`.
    if isinstance(reduced, tuple) and len(reduced) > 2 and reduced[2] and setter is not None:
        setter(reduced[2])
    owner.__cause__ = error.__cause__
    owner.__suppress_context__ = True
    add_note(owner, f"turnwise: not retried: {why}")
    return owner.with_traceback(error.__traceback__)


def _restored(
    kind: type[Exception], args: tuple[object, ...], state: dict[str, object]
) -> TransactionNotOwnedError:
    class_ = _class(kind)  # type: ignore[arg-type] # classes are hashable
    owner = class_.__new__(class_, *args)
    owner.args = args
    vars(owner).update({"sqlite_errorcode": None, "attempts": 1, **state})
    return owner


@functools.lru_cache(maxsize=256)
def _class(kind: type[Exception]) -> type[TransactionNotOwnedError]:
    """The driver's class first: its attributes are what the application reads."""

    def reduce(self: TransactionNotOwnedError) -> tuple[object, ...]:
        return _restored, (kind, self.args, vars(self))

    return type(
        TransactionNotOwnedError.__name__,
        (kind, TransactionNotOwnedError),
        {
            "__doc__": TransactionNotOwnedError.__doc__,
            "__module__": TransactionNotOwnedError.__module__,
            "__reduce__": reduce,
            "__reduce_ex__": lambda self, protocol: reduce(self),
        },
    )
