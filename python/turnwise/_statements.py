"""What a statement does with the turn, by its words alone.

Asking SQLite would be exact, but costs a second preparation and shows in the application's trace
and authorizer callbacks. The words are enough: SQLite's grammar names the kind of a statement in
its first keyword, and after ``WITH`` in the first one outside of parentheses.
"""

from __future__ import annotations

import enum
import functools
import re


class Kind(enum.Enum):
    """What a statement does with the turn."""

    READ = enum.auto()
    """Never waits for the turn. What is no statement at all, too: SQLite refuses it."""
    WRITE = enum.auto()
    PRAGMA = enum.auto()
    """A PRAGMA that writes the file. It may return rows, and works until they are fetched."""
    CONDITIONAL = enum.auto()
    """``IF EXISTS``, ``IF NOT EXISTS``: often there is nothing to write."""
    JOURNAL_MODE = enum.auto()
    """Sets the journal mode: nothing to write where the file has it already."""
    BEGIN = enum.auto()
    BEGIN_WRITE = enum.auto()
    SAVEPOINT = enum.auto()
    COMMIT = enum.auto()
    """``COMMIT``, ``END``, and ``RELEASE``, which commits with the outermost savepoint."""
    ROLLBACK = enum.auto()
    ATTACH = enum.auto()
    """``ATTACH`` and ``DETACH``."""
    BUSY_TIMEOUT = enum.auto()


_FIRST = {
    "ALTER": Kind.WRITE,
    "ANALYZE": Kind.WRITE,
    "ATTACH": Kind.ATTACH,
    "BEGIN": Kind.BEGIN,
    "COMMIT": Kind.COMMIT,
    "CREATE": Kind.WRITE,
    "DELETE": Kind.WRITE,
    "DETACH": Kind.ATTACH,
    "DROP": Kind.WRITE,
    "END": Kind.COMMIT,
    "INSERT": Kind.WRITE,
    "REINDEX": Kind.WRITE,
    "RELEASE": Kind.COMMIT,
    "REPLACE": Kind.WRITE,
    "ROLLBACK": Kind.ROLLBACK,
    "SAVEPOINT": Kind.SAVEPOINT,
    "UPDATE": Kind.WRITE,
    "VACUUM": Kind.WRITE,
}

# Those that write when they are given a value.
_SETTINGS = frozenset(
    {"application_id", "auto_vacuum", "default_cache_size", "schema_version", "user_version"}
)
_OUTSIDE = frozenset({"ATTACH", "DETACH", "PRAGMA", "VACUUM"})
# A PASSIVE checkpoint does not need the write lock.
_CHECKPOINTS = frozenset({"full", "restart", "truncate"})

_BLANK = re.compile(r"[\s\ufeff;]*")
_WORD = re.compile(r"[A-Za-z_]+")
_QUOTED = r"""'[^']*' | "[^"]*" | `[^`]*` | \[[^\]]*\]"""
_TOKEN = re.compile(
    rf"""--[^\n]* | /\*.*?(?:\*/|\Z) | (?P<quoted>{_QUOTED})
    | (?P<word>[A-Za-z_$\x80-\U0010ffff][\w$]*) | (?P<mark>[();=.])""",
    re.VERBOSE | re.DOTALL,
)
_VALUE = re.compile(rf"{_QUOTED} | [+-]?\s*[\w.]+", re.VERBOSE)
_QUOTES = "'\"`[]"
_CACHED_LENGTH = 4096


def kind_of(sql: str) -> Kind:
    """The kind of the one statement in this text."""
    return _cached(sql) if len(sql) <= _CACHED_LENGTH else _classify(sql)


def kinds_in(script: str) -> list[tuple[Kind, str]]:
    """The statements of a script, each with its kind.

    The statements inside of a trigger count as statements of their own: ``CREATE TRIGGER`` writes
    in any case.
    """
    found = []
    begin = 0
    for token in _TOKEN.finditer(script):
        if token["mark"] == ";":
            found.append(script[begin : token.start()])
            begin = token.end()
    found.append(script[begin:])
    return [(_classify(sql), sql) for sql in found]


def is_refused_in_transactions(sql: str) -> bool:
    """Whether a statement fails, or does nothing, in a transaction, or may: most PRAGMAs do."""
    match = _WORD.match(sql, _skip(sql))
    return match is not None and match[0].upper() in _OUTSIDE


def value_of(sql: str) -> str:
    """The value that a PRAGMA sets, in lower case."""
    return _pragma(sql)[1]


def _classify(sql: str) -> Kind:
    at = _skip(sql)
    match = _WORD.match(sql, at)
    if match is None:
        return Kind.READ
    first = match[0].upper()
    if first == "WITH":
        return _after_with(sql, match.end())
    if first == "PRAGMA":
        return _kind_of_pragma(sql)
    kind = _FIRST.get(first, Kind.READ)
    if first in {"BEGIN", "CREATE", "DROP", "VACUUM"}:
        return _with_next_words(kind, first, sql, match.end())
    return kind


_cached = functools.lru_cache(maxsize=512)(_classify)


def _skip(sql: str, at: int = 0) -> int:
    """Where the first token that is neither blank nor comment begins."""
    while True:
        blank = _BLANK.match(sql, at)
        at = blank.end() if blank else at
        if sql.startswith("--", at):
            at = sql.find("\n", at)
        elif sql.startswith("/*", at):
            end = sql.find("*/", at + 2)
            at = end + 2 if end >= 0 else -1
        else:
            return at
        if at < 0:
            return len(sql)


def _words(sql: str, at: int) -> list[str]:
    """The first words of what follows, as far as one may matter."""
    words = []
    for token in _TOKEN.finditer(sql, at):
        if token["word"]:
            words.append(token["word"].upper())
        if len(words) == 6 or token["mark"]:
            break
    return words


def _with_next_words(kind: Kind, first: str, sql: str, at: int) -> Kind:
    words = _words(sql, at)
    second = words[0] if words else ""
    if first == "BEGIN":
        return Kind.BEGIN_WRITE if second in {"IMMEDIATE", "EXCLUSIVE"} else kind
    if first == "VACUUM":
        return Kind.READ if "INTO" in words else kind
    if first == "CREATE" and second in {"TEMP", "TEMPORARY"}:
        return Kind.READ
    return Kind.CONDITIONAL if "IF" in words and "EXISTS" in words else kind


def _after_with(sql: str, at: int) -> Kind:
    depth = 0
    previous = ""
    for token in _TOKEN.finditer(sql, at):
        mark, word = token["mark"], (token["word"] or "").upper()
        if mark:
            depth += {"(": 1, ")": -1}.get(mark, 0)
        elif depth == 0 and word:
            if word in {"INSERT", "UPDATE", "DELETE"} or (previous, word) == ("REPLACE", "INTO"):
                return Kind.WRITE
            if word in {"SELECT", "VALUES"}:
                return Kind.READ
            previous = word
    return Kind.READ


def _pragma(sql: str) -> tuple[str, str]:
    """Name and value of a PRAGMA, in lower case; no value is an empty one."""
    name = value = ""
    tokens = _TOKEN.finditer(sql, _skip(sql))
    for token in tokens:
        if token["word"] or token["quoted"]:
            name = token[0].strip(_QUOTES).lower()
        elif token["mark"] == ";":
            break
        elif token["mark"] in {"=", "("}:
            found = _VALUE.match(sql, _skip(sql, token.end()))
            value = found[0].strip(_QUOTES).lower() if found else ""
            break
    return name, value


def _kind_of_pragma(sql: str) -> Kind:
    name, value = _pragma(sql)
    if name == "busy_timeout" and value:
        return Kind.BUSY_TIMEOUT
    if name == "journal_mode" and value:
        return Kind.JOURNAL_MODE
    writes = (
        (name in _SETTINGS and bool(value))
        or name in {"incremental_vacuum", "optimize"}
        or (name == "wal_checkpoint" and value in _CHECKPOINTS)
    )
    return Kind.PRAGMA if writes else Kind.READ
