"""What the commands print: results on standard output, everything else on standard error.

No colours, but in the live view of `top`.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO


class CommandError(Exception):
    """The command cannot run. The text is one line that says what is wrong and what to do."""


def complain(message: str) -> None:
    """Writes one line to standard error, after the name of the command."""
    line = " ".join(message.split())
    try:
        print(f"turnwise: {line}", file=sys.stderr, flush=True)
    except OSError:
        # Nobody reads standard error any more; the exit status still tells.
        pass


def show(text: str) -> None:
    """Writes a result to standard output. A reader that has gone away is not an error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # The interpreter flushes once more at exit and would print a traceback.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


@contextmanager
def plain_warnings(*, shown: bool) -> Iterator[None]:
    """Shows turnwise's own warnings as one line each, without source line, or not at all."""
    import warnings

    with warnings.catch_warnings():
        ordinary = warnings.showwarning
        seen: set[str] = set()

        def showwarning(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if category.__module__.partition(".")[0] != "turnwise":
                ordinary(message, category, filename, lineno, file, line)
            elif shown and str(message) not in seen:
                seen.add(str(message))
                complain(f"note: {_in_one_line(message, category)}")

        warnings.showwarning = showwarning
        yield


def _in_one_line(message: Warning | str, category: type[Warning]) -> str:
    from turnwise.errors import WalResetBugWarning

    if not issubclass(category, WalResetBugWarning):
        return str(message)
    import sqlite3

    return (
        f"Python's SQLite {sqlite3.sqlite_version} has the WAL-reset bug "
        "(sqlite.org/wal.html#walresetbug)"
    )


def is_terminal(stream: object) -> bool:
    """Whether a person is watching `stream`."""
    try:
        return bool(stream.isatty())  # type: ignore[attr-defined]
    except (AttributeError, ValueError, OSError):
        return False
