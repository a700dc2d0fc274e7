"""Which line of the input has which outcome, and where a later run must go on."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Ledger:
    """Counts outcomes and knows the first line that has none.

    Lines are handed out in rising order and settled in any order. Every line before `resume_line`
    is settled; `settled_beyond()` are the few settled lines after it, which a later run must pass
    over. Memory grows with the records in flight, not with the input.
    """

    def __init__(self, next_line: int) -> None:
        self._lock = threading.Lock()
        self._open: deque[int] = deque()
        self._settled: set[int] = set()
        self._next_line = next_line
        self.read = 0
        self.landed = 0
        self.unchanged = 0
        self.rejected = 0
        self.unknown: list[int] = []

    def hand_out(self, line: int, next_line: int) -> None:
        """A record on `line` now waits for its outcome."""
        with self._lock:
            self._open.append(line)
            self._next_line = next_line
            self.read += 1

    def pass_over(self, next_line: int) -> None:
        """A record that an earlier run settled ends before `next_line`."""
        with self._lock:
            self._next_line = next_line

    def land(self, lines: Iterable[int], unchanged: int) -> None:
        """These lines are committed. `unchanged` of them changed no row."""
        with self._lock:
            for line in lines:
                self._settle(line)
                self.landed += 1
            self.unchanged += unchanged

    def reject(self, line: int) -> None:
        """This line is in the rejects file."""
        with self._lock:
            self._settle(line)
            self.rejected += 1

    def lose_sight(self, line: int) -> None:
        """COMMIT failed in a way that leaves open whether this line was kept.

        It is never to be written blindly.
        """
        with self._lock:
            self._settle(line)
            self.unknown.append(line)

    def _settle(self, line: int) -> None:
        self._settled.add(line)
        while self._open and self._open[0] in self._settled:
            self._settled.remove(self._open.popleft())

    @property
    def unsettled(self) -> int:
        """Records that were read and have no outcome."""
        with self._lock:
            return len(self._open) - len(self._settled)

    @property
    def resume_line(self) -> int:
        """The first line without an outcome."""
        with self._lock:
            return self._open[0] if self._open else self._next_line

    def settled_beyond(self) -> str:
        """The settled lines after `resume_line`, as ranges of records, such as `7,9-12`."""
        with self._lock:
            ranges: list[list[int]] = []
            follows = False
            for line in self._open:
                settled = line in self._settled
                if settled and follows:
                    ranges[-1][1] = line
                elif settled:
                    ranges.append([line, line])
                follows = settled
            return ",".join(
                f"{first}-{last}" if last > first else f"{first}" for first, last in ranges
            )
