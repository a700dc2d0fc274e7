"""The names of ``sqlite3.dbapi2``, with connections that take turns."""

from __future__ import annotations

from turnwise.sqlite3 import *  # noqa: F403 - the standard library's module has no list either
