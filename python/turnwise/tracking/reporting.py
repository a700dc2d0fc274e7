"""Findings of the detectors that are written in Python."""

from __future__ import annotations

from typing import Any


def report(code: str, *, detail: str, connection: Any = None, age: float | None = None) -> None:
    """Hand a finding to the tracker; ``connection`` names the lease that it is about."""
    try:
        from turnwise.tracking.watching import report as tell
    except ImportError:
        return
    tell(code, detail=detail, connection=connection, age=age)


__all__ = ["report"]
