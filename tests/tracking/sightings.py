"""What the database itself sees, and which line of a scene a finding must name."""

from __future__ import annotations

import contextlib
from pathlib import Path

OPEN = """
    SELECT state FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
      AND backend_type = 'client backend' AND state <> 'idle'
    ORDER BY state
"""
IDLE_IN_TRANSACTION = "idle in transaction"


def line_of(module, mark):
    """``scene.py:41``: the line that ends in ``# line: mark``."""
    path = Path(module)
    lines = path.read_text(encoding="utf-8").splitlines()
    (number,) = [n for n, line in enumerate(lines, 1) if line.endswith(f"# line: {mark}")]
    return f"{path.name}:{number}"


def is_at(site, line):
    """Whether a site such as ``tests/scene.py:41 in handler`` is that line."""
    return site.split(" ")[0].endswith(line)


class Onlooker(contextlib.closing):
    """A connection beside the application's, to one PostgreSQL database."""

    def __init__(self, dsn):
        import psycopg2

        self._connection = psycopg2.connect(dsn)
        self._connection.autocommit = True
        super().__init__(self._connection)

    def __enter__(self):
        super().__enter__()
        return self

    def rows(self, statement, *values):
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def states(self):
        """The states of the database's other sessions, except those with nothing to do."""
        return [state for (state,) in self.rows(OPEN)]


FIELDS = [
    "code",
    "severity",
    "exact",
    "owner_kind",
    "owner_name",
    "phase",
    "opened",
    "last",
    "state",
    "detail",
    "text",
]


def fields(finding):
    """A finding as JSON can hold it."""
    return {name: getattr(finding, name) for name in FIELDS}


def codes():
    """The codes of all findings, in their order."""
    import turnwise

    return [finding.code for finding in turnwise.findings()]


def alarms():
    """The codes of what is more than an info, such as that a lease came back after all."""
    import turnwise

    return [finding.code for finding in turnwise.findings() if finding.severity != "info"]


def only(code):
    """The one finding with this code that is more than an info."""
    import turnwise

    found = [f for f in turnwise.findings() if f.code == code and f.severity != "info"]
    assert len(found) == 1, [finding.text for finding in turnwise.findings()]
    return found[0]


def came_back(code):
    """The info that what was found with this code is over."""
    import turnwise

    (found,) = [f for f in turnwise.findings() if f.code == code and f.severity == "info"]
    assert "given back" in found.detail
    return found
