"""One goal of the table, and how a figure is judged."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

Parts = dict[str, Any]


@dataclass(frozen=True)
class Goal:
    """One figure, and the bound that it should keep; `None` for a figure that is only told."""

    key: str
    what: str
    part: str
    figures: Callable[[Parts], list[float]]
    at_least: float | None = None
    at_most: float | None = None
    unit: str = "x"
    worst: bool = False
    """Whether the figure is the highest of the rounds, not their median."""

    def judge(self, parts: Parts) -> dict[str, Any]:
        """The figure, and by how much the goal is missed."""
        rounds = self.figures(parts)
        figure = None
        if rounds:
            figure = max(rounds) if self.worst else statistics.median(rounds)
        bound = self.at_most if self.at_least is None else self.at_least
        if bound is None or figure is None:
            met, missed_by = None, None
        elif self.at_least is not None:
            met, missed_by = figure >= bound, 1 - figure / bound
        else:
            # What should not be at all is missed by the figure itself.
            met, missed_by = figure <= bound, figure / bound - 1 if bound else figure
        return {
            "key": self.key,
            "what": self.what,
            "figure": figure,
            "unit": self.unit,
            "at_least": self.at_least,
            "at_most": self.at_most,
            "met": met,
            "missed_by": None if met is not False else missed_by,
            "rounds": rounds,
        }
