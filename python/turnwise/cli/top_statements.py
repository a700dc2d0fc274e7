"""Statements without the values in them, for whoever looks at the screen."""

from __future__ import annotations

import re

_COMMENT = r"--[^\n]*|/\*.*?(?:\*/|\Z)"
_NUMBER = r"(?<![\w$.?])[0-9](?:[\w.]|(?<=[eE])[+-])*"
_STANDARD = r"'(?:[^']|'')*(?:'|\Z)"
_ESCAPED = r"'(?:[^'\\]|\\.|'')*(?:'|\\?\Z)"
# A server cuts long statements: what is begun and not ended is a value too.
_POSTGRESQL = re.compile(
    rf'(?P<comment>{_COMMENT})|(?P<kept>"(?:[^"]|"")*(?:"|\Z)|\$[0-9]+)'
    rf"|\b[eE]{_ESCAPED}|{_STANDARD}|\$(?P<tag>\w*)\$.*?(?:\$(?P=tag)\$|\Z)|{_NUMBER}",
    re.DOTALL,
)
_MYSQL = re.compile(
    rf"(?P<comment>{_COMMENT}|\#[^\n]*)|(?P<kept>`(?:[^`]|``)*(?:`|\Z))"
    rf"|{_ESCAPED}|{_ESCAPED.replace(chr(39), chr(34))}|{_NUMBER}",
    re.DOTALL,
)
_LIST = re.compile(r"\?(?:\s*,\s*\?)+")


def without_values(statement: str, product: str) -> str:
    """The statement in one line, `?` for each literal and `?, ...` for a list of them.

    Drivers that put parameters into the text (psycopg2, PyMySQL) leave them in the server's view.
    """
    pattern = _POSTGRESQL if product == "PostgreSQL" else _MYSQL
    text = pattern.sub(_replaced, statement)
    return " ".join(_LIST.sub("?, ...", text).split())


def _replaced(match: re.Match[str]) -> str:
    if match["comment"] is not None:
        return " "
    return match["kept"] if match["kept"] is not None else "?"
