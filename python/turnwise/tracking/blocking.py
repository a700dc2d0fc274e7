"""How long synchronous database calls have blocked event loops, by route."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from turnwise._native import Owner

_LOG = logging.getLogger("turnwise.findings")

_MOST_ROUTES = 500
_OTHERS = "(other routes)"
_WORTH_A_LINE = 0.1
_LINES_APART = 60.0


class BlockedTime(NamedTuple):
    """What the requests of one route have taken from their event loop, in seconds."""

    requests: int
    seconds: float
    longest: float


class _Route:
    __slots__ = ("longest", "next_line", "requests", "seconds")

    def __init__(self) -> None:
        self.requests = 0
        self.seconds = 0.0
        self.longest = 0.0
        self.next_line = 0.0


class BlockedRoutes:
    """Totals of a bounded number of routes; the others share one."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all. In a child, the lock may be that of a thread that it does not have."""
        self._lock = threading.Lock()
        self._routes: dict[str, _Route] = {}

    def add(self, owner: Owner) -> None:
        """Count what an owner that ends has blocked; log it where that is much."""
        blocked = owner.blocked
        if blocked <= 0:
            return
        name = owner.name
        now = time.monotonic()
        with self._lock:
            if name not in self._routes and len(self._routes) >= _MOST_ROUTES:
                name = _OTHERS
            route = self._routes.setdefault(name, _Route())
            route.requests += 1
            route.seconds += blocked
            route.longest = max(route.longest, blocked)
            logs = blocked > _WORTH_A_LINE and now >= route.next_line and _lines_are_wanted()
            if logs:
                route.next_line = now + _LINES_APART
            requests, seconds = route.requests, route.seconds
        if logs:
            _LOG.warning(
                "loop-blocked %.0fms %s%s (of %.0fms; its requests so far: %d, %.3fs in all) "
                '-> use an async engine, or make the route "def"',
                blocked * 1e3,
                owner.name,
                f" req={owner.id}" if owner.id else "",
                owner.age * 1e3,
                requests,
                seconds,
            )

    def totals(self) -> dict[str, BlockedTime]:
        """What was counted, the longest sum first."""
        with self._lock:
            rows = [
                (name, BlockedTime(route.requests, route.seconds, route.longest))
                for name, route in self._routes.items()
            ]
        return dict(sorted(rows, key=lambda row: -row[1].seconds))


def _lines_are_wanted() -> bool:
    from turnwise.tracking.watching import current_settings

    settings = current_settings()
    return settings.log and "sync-on-loop" not in settings.ignore


BLOCKED = BlockedRoutes()
os.register_at_fork(after_in_child=BLOCKED.clear)


def blocked_by_route() -> dict[str, BlockedTime]:
    """The time that each route has blocked the event loop of this process, the worst first.

    Counts requests and WebSockets of `OwnerMiddleware` that have ended and have blocked: those of
    an ``async`` route that calls a database synchronously, while turnwise is watching. The first
    500 routes are counted one by one, further ones together as ``"(other routes)"``.
    """
    return BLOCKED.totals()
