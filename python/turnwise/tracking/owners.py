"""Owners: the requests, tasks and jobs that leases belong to."""

from __future__ import annotations

from contextvars import ContextVar
from contextvars import Token as ContextToken
from typing import TYPE_CHECKING, NamedTuple

from turnwise._native import Owner

if TYPE_CHECKING:
    from types import TracebackType

_current: ContextVar[Owner | None] = ContextVar("turnwise_owner", default=None)
current = _current.get
"""The owner of this context, or ``None``."""


class Token(NamedTuple):
    """An owner that was begun, and what ends it."""

    owner: Owner
    restores: ContextToken[Owner | None]


def begin(kind: str, name: str, *, id: str = "") -> Token:  # noqa: A002 - what people call it
    """Begin an owner, which is current in this context until ``end``.

    Raises:
        ValueError: there is no such kind.
    """
    made = Owner(kind, name, id=id, parent=_current.get())
    return Token(made, _current.set(made))


def end(token: Token) -> None:
    """End an owner. What runs on in its name is found from now on."""
    token.owner.phase = "ended"
    try:
        _current.reset(token.restores)
    except (ValueError, RuntimeError):
        # It ends in another context than it began in, and there it is current no more.
        if _current.get() is token.owner:
            _current.set(token.owner.parent)


def resume(owner: Owner) -> ContextToken[Owner | None]:
    """Make an owner current that was begun elsewhere; ``suspend`` takes what it returns."""
    return _current.set(owner)


def suspend(restores: ContextToken[Owner | None]) -> None:
    """Make current again what was so before ``begin`` or ``resume``. The owner goes on."""
    before = restores.old_value
    _current.set(None if before is ContextToken.MISSING else before)


class owner:  # noqa: N801 - used like a function
    """Make a job the owner of what its block opens: ``with owner("job", "nightly report"):``.

    Also ``async with``. ``kind`` is "request", "websocket", "task", "job" or "cli"; ``id`` tells it
    from others of the same name.
    """

    def __init__(self, kind: str, name: str, *, id: str = "") -> None:  # noqa: A002
        self._what = (kind, name, id)
        self._tokens: list[Token] = []

    def __enter__(self) -> Owner:
        kind, name, number = self._what
        self._tokens.append(begin(kind, name, id=number))
        return self._tokens[-1].owner

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        end(self._tokens.pop())

    async def __aenter__(self) -> Owner:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, traceback)
