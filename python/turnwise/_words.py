"""What a statement does to the transaction, by its words: what is judged when it has failed."""

from __future__ import annotations

import re

_BLANK = r"(?:[\s;(\ufeff]|--[^\n]*(?:\n|\Z)|/\*.*?\*/)*"
_FIRST = re.compile(rf"{_BLANK}([A-Za-z]+)(?:\s+([A-Za-z]+))?(?:\s+([A-Za-z]+))?", re.DOTALL)
_MORE = re.compile(r";\s*([A-Za-z]+)")
_DML = re.compile(r"\b(?:INSERT|UPDATE|DELETE|MERGE|REPLACE)\b", re.IGNORECASE)

_READS = frozenset(
    (
        *("BEGIN", "COMMIT", "DECLARE", "DESC", "DESCRIBE", "END", "EXPLAIN", "FETCH", "PRAGMA"),
        *("RELEASE", "ROLLBACK", "SAVEPOINT", "SELECT", "SET", "SHOW", "START", "TABLE", "USE"),
        *("VALUES", "XA"),
    )
)
_COMMITS = frozenset({"COMMIT", "END", "PREPARE"})
_PHASES = {
    "BEGIN": "begin",
    "START": "begin",
    "COMMIT": "commit",
    "END": "commit",
    "ROLLBACK": "rollback",
    "SAVEPOINT": "savepoint",
    "RELEASE": "savepoint",
}
_XA = {"BEGIN": "begin", "START": "begin", "PREPARE": "commit", "COMMIT": "commit"}


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
    """The phase of a statement that is sent as one; `"commit"` for a script that commits.

    A lost answer to a COMMIT that was taken for something else would be a transaction done twice.
    """
    found = _FIRST.match(sql)
    first, *others = ((word or "").upper() for word in found.groups()) if found else ("", "", "")
    phase = _PHASES.get(first, "statement")
    if first == "XA":
        return _XA.get(others[0], "statement")
    if first == "PREPARE" and others[0] == "TRANSACTION":
        return "commit"
    if phase == "rollback" and "TO" in others:
        return "savepoint"
    more = {word.upper() for word in _MORE.findall(sql)}
    if "COMMIT" in more or (phase == "begin" and "END" in more):
        return "commit"
    return "statement" if phase == "begin" and (more or others[0] == "NOT") else phase
