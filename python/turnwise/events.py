"""What writes met on their way: retries, recoveries, failures.

Every event goes to the logger ``turnwise.events`` (a retry at DEBUG, a recovery at INFO, a failure
and what turnwise has to do without at WARNING) and to every hook of ``on_event``. Neither sees SQL
text or a parameter.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, NamedTuple, cast

from turnwise._native import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from queue import SimpleQueue
    from types import TracebackType

    from typing_extensions import Self

    Hook = Callable[[Event], object]

_LOG = logging.getLogger("turnwise.events")
# An application that has not set up logging sees nothing: it gets the errors themselves.
_LOG.addHandler(logging.NullHandler())

_LEVELS = {
    "retry": logging.DEBUG,
    "recovery": logging.INFO,
    "failure": logging.WARNING,
    "degraded": logging.WARNING,
}


class Subscription:
    """A hook that is called for every event, until it is closed."""

    def __init__(self, hook: Hook) -> None:
        self.hook = hook

    def close(self) -> None:
        """Call the hook no more. Harmless when it is closed."""
        _Hooks.all = tuple(known for known in _Hooks.all if known is not self)

    def __enter__(self) -> Self:
        """Return the subscription."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the subscription."""
        self.close()


class UnitEvent(NamedTuple):
    """One step of a unit of work that met trouble: the fields of ``turnwise.Event``.

    ``path`` is the name of the unit of work; ``statement`` is empty. ``code`` is that of the
    verdict, and ``sqlstate`` its text, where the database has one.
    """

    kind: str
    path: str
    class_: str
    code: int
    attempt: int
    delay: float = 0.0
    deadline_left: float = 0.0
    error: str | None = None
    stop: str | None = None
    statement: str = ""
    sqlstate: str | None = None


class _Hooks:
    """Who wants to hear. Replaced as a whole, so that nobody reads a half-made one."""

    all: tuple[Subscription, ...] = ()


def on_event(hook: Hook) -> Subscription:
    """Call ``hook(event)`` for every retry, recovery and failure of every writer in this process.

    Hooks run in a thread of their own, in the order in which a file's events happened, soon after
    the write and never in its way: a slow hook delays other hooks, a hook that raises is logged,
    and past 10,000 waiting events of a file more of them are dropped, and their number is logged.

    Returns a subscription; close it, or use it in a ``with`` statement, to hear no more.

    Raises:
        TypeError: ``hook`` cannot be called.
    """
    if not callable(hook):
        raise TypeError(f"a hook must be callable, not {type(hook).__name__}")
    subscription = Subscription(hook)
    _Hooks.all = (*_Hooks.all, subscription)
    return subscription


def tell(event: UnitEvent) -> None:
    """Log one step of a unit of work, and pass it on to the hooks without waiting for them."""
    known = cast("Event", event)
    _log(known)
    if _Hooks.all:
        _Courier.send(known)


def _tell(events: Sequence[Event], dropped: int) -> None:
    """Pass events on. Called by the native half, in a thread of its own."""
    for event in events:
        _log(event)
        _call_hooks(event)
    if dropped:
        _LOG.warning("%d events were dropped: a hook or a log handler is too slow", dropped)


def _log(event: Event) -> None:
    level = _LEVELS[event.kind]
    if _LOG.isEnabledFor(level):
        _LOG.log(level, "%s", _Line(event), extra={"event": event})


def _call_hooks(event: Event) -> None:
    for subscription in _Hooks.all:
        try:
            subscription.hook(event)
        except BaseException:  # noqa: BLE001 - even SystemExit must not stop the others
            _LOG.exception("the hook %r failed", subscription.hook)


class _Courier:
    """The thread in which hooks hear of units of work: neither a unit nor an event loop waits."""

    bag: SimpleQueue[Event] | None = None
    process = 0

    @classmethod
    def send(cls, event: Event) -> None:
        """Pass an event on. A fork has none of its parent's threads, so a child starts its own."""
        if cls.bag is None or cls.process != os.getpid():
            import threading
            from queue import SimpleQueue

            cls.bag, cls.process = SimpleQueue(), os.getpid()
            threading.Thread(
                target=cls._deliver, args=(cls.bag,), name="turnwise-hooks", daemon=True
            ).start()
        cls.bag.put(event)

    @staticmethod
    def _deliver(bag: SimpleQueue[Event]) -> None:
        while True:
            _call_hooks(bag.get())


class _Line:
    """An event as one line of text, made only if a handler wants it."""

    def __init__(self, event: Event) -> None:
        self._event = event

    def __str__(self) -> str:
        event = self._event
        words = [f"{event.kind}: {event.path}:"]
        if event.error:
            words.append(event.error)
        if event.kind == "degraded":
            return " ".join([*words, "turnwise goes on without it; see settings"])
        code = getattr(event, "sqlstate", None) or event.code
        words.append(f"{event.class_}, code {code}, attempt {event.attempt}")
        if event.kind == "retry":
            words.append(f"again in {event.delay:.3f} s, {event.deadline_left:.3f} s left")
        if event.statement:
            words.append(f"statement {event.statement}")
        return " ".join(words)


__all__ = ["Event", "Subscription", "UnitEvent", "on_event", "tell"]
