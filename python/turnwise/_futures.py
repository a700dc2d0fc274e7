"""Futures of submitted writes."""

from __future__ import annotations

import concurrent.futures
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from turnwise._native import NativePlace, WriteResult  # noqa: F401 - the base names it as text


class WriteFuture(concurrent.futures.Future["WriteResult"]):
    """The outcome of a submitted write."""

    place: NativePlace | None = None

    def cancel(self) -> bool:
        """Take the write back, unless it has begun."""
        if self.done():
            return self.cancelled()
        if self.place is None or not self.place.withdraw():
            return False
        # Nobody is going to run it, and nobody else tells `wait()` and `as_completed()`.
        return super().cancel() and not self.set_running_or_notify_cancel()
