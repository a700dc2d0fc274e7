"""What a statement does, by its first words: only as much as the guard has to know."""

from __future__ import annotations

import re

_BLANK = r"(?:[\s;(\ufeff]|--[^\n]*(?:\n|\Z)|/\*.*?\*/)*"
_FIRST = re.compile(rf"{_BLANK}([A-Za-z]+)", re.DOTALL)
_DML = re.compile(r"\b(?:INSERT|UPDATE|DELETE|MERGE|REPLACE)\b", re.IGNORECASE)

_READS = frozenset(
    (
        *("BEGIN", "COMMIT", "DECLARE", "DESC", "DESCRIBE", "END", "EXPLAIN", "FETCH", "PRAGMA"),
        *("RELEASE", "ROLLBACK", "SAVEPOINT", "SELECT", "SET", "SHOW", "START", "TABLE", "USE"),
        *("VALUES", "XA"),
    )
)
_COMMITS = frozenset({"COMMIT", "END", "PREPARE"})
_SAVEPOINTS = frozenset({"SAVEPOINT", "RELEASE", "ROLLBACK"})


def first_word(sql: str) -> str:
    """The first keyword in capitals, past comments and parentheses; empty if there is none."""
    found = _FIRST.match(sql)
    return found.group(1).upper() if found else ""


def writes(sql: str) -> bool:
    """Whether the statement changes data or tables; what is not known is taken to."""
    word = first_word(sql)
    return bool(_DML.search(sql)) if word == "WITH" else word not in _READS


def commits(sql: str) -> bool:
    """Whether the statement ends a transaction with the intent to keep it."""
    return first_word(sql) in _COMMITS


def phase_of(sql: str) -> str:
    """`"savepoint"` for the statements that set, release and go back to one, else `"statement"`."""
    return "savepoint" if first_word(sql) in _SAVEPOINTS else "statement"
