"""What `turnwise write` says at its end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from turnwise.cli.output import complain, show

if TYPE_CHECKING:
    from argparse import Namespace

    from turnwise import BatchWriter
    from turnwise.cli.ledger import Ledger


class Stop(NamedTuple):
    """Why a load ended before its input did."""

    kind: str
    message: str
    line: int | None


def summary(
    arguments: Namespace,
    ledger: Ledger,
    writer: BatchWriter,
    *,
    stop: Stop | None,
    seconds: float,
    **more: object,
) -> dict[str, Any]:
    """The numbers of the load, ready for JSON; `more` goes in as it is."""
    return {
        "database": arguments.database,
        "input": arguments.input,
        "read": ledger.read,
        "landed": ledger.landed,
        "unchanged": ledger.unchanged,
        "rejected": ledger.rejected,
        "seconds": round(seconds, 6),
        "rows_per_second": round(ledger.landed / seconds, 1),
        "workers": arguments.workers,
        "sqlite_version": writer.settings.sqlite_version,
        "journal_mode": writer.settings.journal_mode,
        "durability": writer.settings.durability,
        "stopped": None if stop is None else stop._asdict(),
        "resume_line": None if stop is None else ledger.resume_line,
        "skip_lines": None if stop is None else ledger.settled_beyond() or None,
        "unknown_lines": ledger.unknown,
        **more,
    }


def report(arguments: Namespace, summary: dict[str, Any]) -> None:
    """Shows what went wrong on standard error and the summary on standard output."""
    if stop := summary["stopped"]:
        where = "" if stop["line"] is None else f"line {stop['line']}: "
        complain(f"{where}{stop['message']}")
        if summary["unknown_lines"]:
            lines = ", ".join(map(str, summary["unknown_lines"]))
            complain(
                f"look in the database for lines {lines}: it is unknown whether they were written"
            )
        skip = f" --skip-lines {summary['skip_lines']}" if summary["skip_lines"] else ""
        complain(f"resume with --start-line {summary['resume_line']}{skip}")
    if summary["rejected"]:
        complain(f"{summary['rejected']} rejected, see {summary['rejects']}")
    if arguments.json:
        show(json.dumps(summary, indent=2))
    elif not arguments.quiet:
        unchanged = f" ({summary['unchanged']} changed no row)" if summary["unchanged"] else ""
        show(
            f"{summary['read']} read, {summary['landed']} landed{unchanged}, "
            f"{summary['rejected']} rejected, {summary['transactions']} transactions, "
            f"{summary['seconds']:.2f} s, {summary['rows_per_second']:.0f} rows/s"
        )
