"""The names of ``sqlite3.dbapi2``, with connections that take turns."""

from __future__ import annotations

from sqlite3 import dbapi2 as _stdlib
from typing import Any

from turnwise.sqlite3 import *  # noqa: F403 - the standard library's module has no list either


def __getattr__(name: str) -> Any:
    return getattr(_stdlib, name)
