"""What `turnwise write` must know about the SQL statement before it reads any input."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from turnwise.cli.output import CommandError

if TYPE_CHECKING:
    from turnwise import BatchWriter

# Parameters are looked for outside strings, quoted names and comments (https://sqlite.org/lang_expr.html#varparam).
_TOKEN = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\] | --[^\n]* | /\*.*?(?:\*/|\Z)
      | (?P<positional>\?\d*) | [:@$](?P<name>[\w$]+) | [\w$]+""",
    re.VERBOSE | re.DOTALL,
)


def parameter_names(sql: str) -> list[str]:
    """The names of the statement's `:name`, `@name` and `$name` parameters, each once, in order.

    Raises `CommandError` when it has none (every row would write the same) or has unnamed ones.
    """
    tokens = list(_TOKEN.finditer(sql))
    if any(token["positional"] for token in tokens):
        raise CommandError(
            "the statement has ? parameters; name them after the input's fields, such as :id"
        )
    names = list(dict.fromkeys(token["name"] for token in tokens if token["name"]))
    if not names:
        raise CommandError(
            "the statement has no parameters; name the input's fields in it, such as :id"
        )
    return names


def compile_statement(writer: BatchWriter, sql: str, names: list[str]) -> bool:
    """Has SQLite compile the statement without running it; returns whether it writes.

    Raises the package's error when SQLite refuses it. Reads the `Transaction` opcode of EXPLAIN,
    whose P2 is not 0 for a writing statement (https://sqlite.org/opcode.html#Transaction).
    """
    program = writer.execute(f"EXPLAIN {sql}", dict.fromkeys(names)).rows
    return any(step[1] == "Transaction" and step[3] for step in program)
