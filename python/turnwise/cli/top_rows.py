"""One moment of a server: which sessions are shown, in which order, and the same as JSON."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from turnwise.cli.top_statements import without_values

if TYPE_CHECKING:
    from turnwise.cli.top_documents import Lease
    from turnwise.cli.top_reports import Joined, Report
    from turnwise.sqlalchemy.server_sessions import ServerSession, ServerView

SORTS = ("blocked", "age", "state")
STATES = (
    "waiting",
    "aborted_tx",
    "idle_in_tx",
    "active",
    "resetting",
    "checked_out",
    "hidden",
    "untracked",
    "idle",
    "background",
)
_ALWAYS_SHOWN = set(STATES[:6])


@dataclass(frozen=True)
class Row:
    """One session as it is shown; `branch`: its place below those that block it."""

    session: ServerSession
    joined: Joined | None
    state: str
    age: float | None
    branch: tuple[bool, ...] = ()
    """For each level above and its own: whether it is the last one there."""
    below: int | None = None
    """The number of the session that it stands below."""

    def statement(self, product: str) -> str:
        """The last statement without values: the server's word, else the process's."""
        if self.session.statement:
            return without_values(self.session.statement, product)
        return self.joined.lease.statement if self.joined is not None else ""


@dataclass(frozen=True)
class Moment:
    """What the server and the processes say at one time."""

    view: ServerView
    joined: dict[int, Joined]
    reports: list[Report]
    notes: tuple[str, ...] = ()
    at: float = field(default_factory=time.time)

    def blocks(self) -> dict[int, list[int]]:
        """Whom each session blocks, by number."""
        found: dict[int, list[int]] = {}
        for session in self.view.sessions:
            for blocker in session.blocked_by:
                found.setdefault(blocker, []).append(session.pid)
        return found

    def rows(self, *, sort: str = "blocked", everything: bool = False) -> list[Row]:
        """The sessions to show. Idle ones are, if a process holds them or they block others."""
        every = [self._row(session) for session in self.view.sessions]
        blocks = self.blocks()
        shown = [
            row
            for row in every
            if everything
            or row.state in _ALWAYS_SHOWN
            or row.joined is not None
            or row.session.pid in blocks
        ]
        if sort == "state":
            shown.sort(key=lambda row: (STATES.index(row.state), -_longest(row)))
            return shown
        shown.sort(key=lambda row: (row.state in {"idle", "background"}, -_longest(row)))
        return _as_tree(shown, blocks) if sort == "blocked" else shown

    def counts(self) -> dict[str, int]:
        """How many sessions are in which state, in the order of `STATES`."""
        states = [self._row(session).state for session in self.view.sessions]
        return {state: states.count(state) for state in STATES if state in states}

    def _row(self, session: ServerSession) -> Row:
        joined = self.joined.get(session.pid)
        state, age = session.state, session.state_age
        is_open = joined is None or session.is_visible or state not in {"hidden", "idle"}
        if joined is not None and not is_open and joined.lease.state in STATES:
            state, age = joined.lease.state, joined.lease.state_age
        return Row(session, joined, state, age)

    def as_json(self, *, sort: str, everything: bool) -> dict[str, Any]:
        """The document of `--json`. Ages in seconds, what is not known is null."""
        view = self.view
        blocks = self.blocks()
        return {
            "version": 1,
            "time": round(self.at, 3),
            "server": {
                "product": view.product,
                "version": view.version,
                "connections": view.connections,
                "max_connections": view.max_connections,
            },
            "counts": self.counts(),
            "notes": list(self.notes),
            "sessions": [
                _row_as_json(row, blocks.get(row.session.pid, []), view.product)
                for row in self.rows(sort=sort, everything=everything)
            ],
            "processes": [
                {
                    "pid": report.pid,
                    "argv0": report.argv0,
                    "leases": len(report.leases),
                    "joined": sum(each.report is report for each in self.joined.values()),
                    "findings": [finding.document for finding in report.findings],
                }
                for report in self.reports
            ],
        }


def _row_as_json(row: Row, blocks: list[int], product: str) -> dict[str, Any]:
    session, joined = row.session, row.joined
    return {
        "pid": session.pid,
        "state": row.state,
        "state_age": row.age,
        "transaction_age": session.transaction_age,
        "wait": session.wait,
        "blocked_by": list(session.blocked_by),
        "blocks": blocks,
        "user": session.user,
        "database": session.database,
        "application": session.application,
        "client": {"address": session.address, "port": session.port},
        "statement": row.statement(product),
        "match": joined.match if joined else None,
        "process": {"pid": joined.report.pid, "argv0": joined.report.argv0} if joined else None,
        "owner": joined.lease.owner._asdict() if joined and joined.lease.owner else None,
        "lease": _lease_as_json(joined.lease) if joined else None,
    }


def _lease_as_json(lease: Lease) -> dict[str, Any]:
    document = lease._asdict()
    del document["owner"], document["backend_pid"], document["statement"]  # They stand beside it.
    return document


def _longest(row: Row) -> float:
    age = row.session.transaction_age
    return age if age is not None else -1.0 / (1.0 + (row.age or 0.0))


def _as_tree(rows: list[Row], blocks: dict[int, list[int]]) -> list[Row]:
    """Those that block others first, each followed by those that wait for it."""
    by_pid = {row.session.pid: row for row in rows}
    parents: dict[int, int] = {}
    for row in rows:
        blockers = [pid for pid in row.session.blocked_by if pid in by_pid]
        # Who waits for several waits in the end for one that waits for nobody.
        free = [pid for pid in blockers if not by_pid[pid].session.blocked_by]
        if blockers:
            parents[row.session.pid] = (free or blockers)[0]
    children: dict[int, list[Row]] = {}
    for row in rows:
        if row.session.pid in parents:
            children.setdefault(parents[row.session.pid], []).append(row)
    placed: set[int] = set()
    found: list[Row] = []

    def place(row: Row, branch: tuple[bool, ...]) -> None:
        placed.add(row.session.pid)
        below = parents[row.session.pid] if branch else None
        found.append(replace(row, branch=branch, below=below))
        waiting = [
            each for each in children.get(row.session.pid, ()) if each.session.pid not in placed
        ]
        for number, each in enumerate(waiting):
            place(each, (*branch, number == len(waiting) - 1))

    roots = [row for row in rows if row.session.pid not in parents]
    for row in sorted(roots, key=lambda row: row.session.pid not in blocks):
        place(row, ())
    for row in rows:  # A deadlock that the server has not ended yet.
        if row.session.pid not in placed:
            place(row, ())
    return found
