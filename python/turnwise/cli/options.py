"""The options of every command, and what their values must be."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from turnwise.cli.output import show

if TYPE_CHECKING:
    from collections.abc import Sequence

WRITE_HELP = """\
Streams CSV (the header names the :named parameters) or JSON Lines (the keys do)
through the batch writer into an existing database. The database keeps its journal mode."""

WRITE_EXAMPLES = """\
examples:
  turnwise write shop.db "INSERT INTO item(id, name) VALUES(:id, :name)" items.csv
  zcat items.jsonl.gz | turnwise write shop.db "INSERT INTO item(id, name) VALUES(:id, :name)"
  turnwise write shop.db "INSERT INTO item(id, name) VALUES(:id, :name)" items.csv --start-line 4711

Several workers write in no fixed order; --workers 1 keeps the order of the input.
Ctrl-C stops reading, writes what was read and prints the line to resume from.

exit status: 0 all landed, 1 some rows were rejected, 2 could not run or was stopped"""

DEMO_HELP = """\
Runs the story on a real SQLite file in a temporary folder: many threads save rows
one by one, all released together. Three sides: the app as it was (5 tries, no jitter),
the cure found by hand (10 tries, jitter), and the same saves through turnwise.BatchWriter."""

DEMO_EXAMPLES = """\
examples:
  turnwise demo
  turnwise demo --workers 8 --writes 1000 --seed 7
  turnwise demo --processes 8 --workers 64 --writes 640
  turnwise demo --json > demo.json

exit status: 0 every save through turnwise landed, 1 not, 2 could not run or was stopped"""

EXPLAIN_HELP = """\
Says what an error code or message of SQLite, PostgreSQL, MySQL or MariaDB means, what has
become of the transaction, and what is safe to do."""

EXPLAIN_EXAMPLES = """\
examples:
  turnwise explain 40P01
  turnwise explain mariadb 1020
  turnwise explain SQLITE_BUSY_SNAPSHOT
  turnwise explain "deadlock detected"
  turnwise explain "(1205, 'Lock wait timeout exceeded; try restarting transaction')"

exit status: 0 it is in the table, 1 it is not, 2 there is no code or known message in the text"""

TOP_HELP = """\
Shows the sessions of a PostgreSQL, MariaDB or MySQL server: state, age, who blocks whom. Processes
of this machine and user that call turnwise.watch(serve=True) add the request or task that
holds a session, and the line of code."""

TOP_EXAMPLES = """\
examples:
  turnwise top postgresql+psycopg://app@db.example/shop
  turnwise top mysql+pymysql://app@db.example/shop --sort age --interval 5
  turnwise top postgresql://app@db.example/shop --once --json | jq '.sessions[0]'

keys: q ends it, s sorts otherwise, a shows idle sessions too

exit status: 0 ended by q or Ctrl-C, or printed once; 2 could not run or was stopped"""

MOST_WORKERS = 1_000
"""Threads; far more than a disk can be kept busy with."""


MOST_PROCESSES = 64


def positive_int(text: str) -> int:
    """A whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return value


def workers(text: str) -> int:
    """A number of threads."""
    value = positive_int(text)
    if value > MOST_WORKERS:
        raise argparse.ArgumentTypeError(f"must be at most {MOST_WORKERS}, not {text!r}")
    return value


def processes(text: str) -> int:
    """A number of processes."""
    value = positive_int(text)
    if value > MOST_PROCESSES:
        raise argparse.ArgumentTypeError(f"must be at most {MOST_PROCESSES}, not {text!r}")
    return value


def positive_seconds(text: str) -> float:
    """A time in seconds, above 0 and below a day."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 86_400:
        raise argparse.ArgumentTypeError(f"must be seconds above 0 and at most 86400, not {text!r}")
    return value


def interval(text: str) -> float:
    """Seconds between two looks at a server, whose lock manager each look stops for a moment."""
    value = positive_seconds(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1 second, not {text!r}")
    return value


def delimiter(text: str) -> str:
    r"""One character; `tab` and `\t` mean a tab."""
    value = "\t" if text in {"tab", "\\t"} else text
    if len(value) != 1 or value in '"\r\n':
        raise argparse.ArgumentTypeError(f"must be one character (or tab), not {text!r}")
    return value


def line_ranges(text: str) -> list[range]:
    """Line numbers such as `7,9-12`."""
    found = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        try:
            lines = range(int(first), int(last if dash else first) + 1)
        except ValueError:
            lines = range(0)
        if not lines or lines.start < 1:
            raise argparse.ArgumentTypeError(f"must be line numbers such as 7,9-12, not {text!r}")
        found.append(lines)
    return found


class _Version(argparse.Action):
    """Prints the version; imports the package only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        import turnwise

        show(f"turnwise {turnwise.__version__}")
        parser.exit(0)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of a command line; None means the process's own.

    Raises `SystemExit` after `--help` and `--version`, and where they cannot be understood.
    """
    arguments, unknown = _parser().parse_known_args(argv)
    command: argparse.ArgumentParser = arguments.parser
    for text in unknown:
        if text.startswith("-"):
            command.error(f"no such option: {text}{_hint(command, text)}")
    if arguments.command == "demo" and arguments.processes > arguments.workers:
        command.error(f"--processes {arguments.processes}: there are {arguments.workers} threads")
    if arguments.command == "top" and arguments.json and not arguments.once:
        command.error("--json needs --once")
    if unknown:
        command.error(f"one argument too many: {unknown[0]}")
    return arguments


def _hint(command: argparse.ArgumentParser, text: str) -> str:
    import difflib

    known = re.findall(r"--[a-z-]+", command.format_usage())
    close = difflib.get_close_matches(text.partition("=")[0], known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    root = argparse.ArgumentParser(
        prog="turnwise",
        description="Database writes that take turns.",
        epilog="turnwise COMMAND --help shows a command's options and examples.",
        # A later option must not change what a shortened one means.
        allow_abbrev=False,
    )
    root.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = root.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_demo(
        commands.add_parser(
            "demo",
            help="measure the story on this machine",
            description=DEMO_HELP,
            epilog=DEMO_EXAMPLES,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    _add_write(
        commands.add_parser(
            "write",
            help="load CSV or JSON Lines into a database",
            description=WRITE_HELP,
            epilog=WRITE_EXAMPLES,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    _add_explain(
        commands.add_parser(
            "explain",
            help="say what an error means",
            description=EXPLAIN_HELP,
            epilog=EXPLAIN_EXAMPLES,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    _add_top(
        commands.add_parser(
            "top",
            help="watch a server's sessions and who holds them",
            description=TOP_HELP,
            epilog=TOP_EXAMPLES,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    return root


def _add_top(top: argparse.ArgumentParser) -> None:
    top.set_defaults(parser=top)
    top.add_argument("url", metavar="URL", help="the server, as SQLAlchemy writes it")
    top.add_argument(
        "--interval",
        type=interval,
        default=1.0,
        metavar="SECONDS",
        help="time between two looks, 1 or more (default 1)",
    )
    top.add_argument("--once", action="store_true", help="print once and end")
    top.add_argument("--json", action="store_true", help="with --once: print JSON")
    top.add_argument(
        "--sort",
        choices=["blocked", "age", "state"],
        default="blocked",
        help="blocked (default): those that block others first, the waiting ones below them; age: "
        "longest transaction first; state",
    )
    top.add_argument(
        "--all", action="store_true", help="idle sessions and the server's own processes too"
    )
    top.add_argument(
        "--socket-dir",
        metavar="DIR",
        help="where processes serve their reports (default: turnwise in XDG_RUNTIME_DIR, else "
        "turnwise-UID in the temporary folder)",
    )


def _add_explain(explain: argparse.ArgumentParser) -> None:
    explain.set_defaults(parser=explain)
    explain.add_argument(
        "text",
        metavar="CODE|TEXT",
        nargs="+",
        help="a code, its name, a message or a line of a traceback; sqlite, postgresql, mysql or "
        "mariadb before it says whose it is",
    )
    explain.add_argument("--json", action="store_true", help="print the rules as JSON")


def _add_demo(demo: argparse.ArgumentParser) -> None:
    demo.set_defaults(parser=demo)
    demo.add_argument(
        "--workers", type=workers, default=58, metavar="N", help="threads (default 58)"
    )
    demo.add_argument(
        "--processes",
        type=processes,
        default=1,
        metavar="N",
        help="share the threads among N processes (default 1)",
    )
    demo.add_argument(
        "--writes", type=positive_int, default=288, metavar="N", help="saves in all (default 288)"
    )
    demo.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the jitter (default 0)"
    )
    demo.add_argument(
        "--time-limit",
        type=positive_seconds,
        default=20.0,
        metavar="SECONDS",
        help="cut a side that takes longer, and say so (default 20)",
    )
    demo.add_argument(
        "--dir", metavar="DIR", help="make the temporary folder here (default: the system's)"
    )
    demo.add_argument(
        "--json", action="store_true", help="print JSON: all numbers, versions, the machine"
    )


def _add_write(write: argparse.ArgumentParser) -> None:
    write.set_defaults(parser=write)
    write.add_argument("database", metavar="DB", help="an existing SQLite database")
    write.add_argument("sql", metavar="SQL", help="one writing statement with :named parameters")
    write.add_argument(
        "input",
        metavar="FILE",
        nargs="?",
        default="-",
        help="the input; - is standard input (default)",
    )
    write.add_argument(
        "--format",
        choices=["csv", "jsonl"],
        help="default: by the file's extension, else by its first character",
    )
    write.add_argument(
        "--workers",
        type=workers,
        default=8,
        metavar="N",
        help="threads that write (default 8)",
    )
    write.add_argument(
        "--rejects",
        metavar="FILE",
        help="rows that cannot be written, as JSON Lines (default: FILE.rejects.jsonl, "
        "turnwise.rejects.jsonl for standard input); emptied at the start, "
        "but continued with --start-line",
    )
    write.add_argument(
        "--start-line",
        type=positive_int,
        default=1,
        metavar="N",
        help="pass over records that begin before line N",
    )
    write.add_argument(
        "--skip-lines",
        type=line_ranges,
        default=[],
        metavar="LINES",
        help="pass over the records that begin on these lines, such as 7,9-12",
    )
    write.add_argument(
        "--durability",
        choices=["full", "normal"],
        default="full",
        help="full: on disk when written (default); normal: a power cut may take the last rows",
    )
    write.add_argument(
        "--timeout",
        type=positive_seconds,
        default=30.0,
        metavar="SECONDS",
        help="longest wait for a database that others keep locked (default 30)",
    )
    write.add_argument(
        "--null", metavar="TEXT", help="the CSV field that means NULL (default: none)"
    )
    write.add_argument(
        "--delimiter", type=delimiter, metavar="CHAR", help="of CSV (default: comma, tab for .tsv)"
    )
    write.add_argument(
        "--encoding", default="utf-8-sig", help="of the input (default utf-8, with or without BOM)"
    )
    write.add_argument("--json", action="store_true", help="print the summary as JSON")
    write.add_argument(
        "--quiet", action="store_true", help="no summary, no progress bar; errors are still shown"
    )
