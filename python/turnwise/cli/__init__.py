"""The command line `turnwise`.

`demo` measures the story on this machine (`story`, `machine`), `write` loads CSV or JSON Lines into
a database (`records` reads, `loader` writes, `ledger` knows which line has which outcome).
`explain` says what an error means (`codes` finds it in a text). `top` shows a server's sessions
(`top_rows` which, `top_picture` how, `top_screen` has the terminal) and joins them with what
processes report (`top_reports`).

Exit status of `demo` and `write`: 0 all landed, 1 some did not; of every command: 2 could not run
or was stopped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

ALL_LANDED = 0
SOME_REJECTED = 1
COULD_NOT_RUN = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status; `argv` defaults to the process's arguments.

    Raises `SystemExit` for `--help`, `--version` (status 0) and for options that cannot be
    understood (status 2).
    """
    from turnwise.cli.options import parse
    from turnwise.cli.output import complain, plain_warnings

    arguments = parse(argv)
    # `write` uses only the SQLite copy of this package; what is wrong with Python's own concerns
    # `demo` alone.
    with plain_warnings(shown=arguments.command == "demo"):
        try:
            if arguments.command == "demo":
                from turnwise.cli.demo import demo

                return demo(arguments)
            if arguments.command == "explain":
                from turnwise.cli.explain import explain

                return explain(arguments)
            if arguments.command == "top":
                from turnwise.cli.top import top

                return top(arguments)
            from turnwise.cli.write import write

            return write(arguments)
        except KeyboardInterrupt:
            complain("interrupted")
            return COULD_NOT_RUN
