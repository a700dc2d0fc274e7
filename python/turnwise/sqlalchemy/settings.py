"""What ``install`` was told."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from turnwise._native import Override


class Settings(NamedTuple):
    """The settings of one engine."""

    strict: bool = False
    begin: str = "auto"
    timeout: float | None = None
    overrides: tuple[Override, ...] = ()
