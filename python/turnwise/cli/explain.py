"""`turnwise explain`: what an error code or message means, and what is safe to do."""

from __future__ import annotations

import json
import re
import shutil
import textwrap
from typing import TYPE_CHECKING, Any

from turnwise import _native
from turnwise.cli import codes
from turnwise.cli.codes import Code
from turnwise.cli.output import CommandError, complain, show

if TYPE_CHECKING:
    import argparse

_TITLES = {
    "sqlite": "SQLite",
    "postgresql": "PostgreSQL",
    "mysql": "MySQL",
    "mariadb": "MariaDB",
}
_FATES = {
    "intact": "open and usable",
    "stale": "open, but can never write",
    "aborted": "open, and must be rolled back",
    "rolled_back": "rolled back already",
    "implicitly_committed": "committed by the statement",
    "lost_before_commit": "gone, and not committed",
    "unknown": "committed or not: nobody knows yet",
    "none": "none was open",
}
_ACTIONS = {
    ("statement", "wait"): "wait, then this statement again",
    ("statement", "redo"): "this statement again, a few times",
    ("statement", "none"): "this statement again, if you want it",
    ("savepoint", "wait"): "ROLLBACK TO a savepoint and the statement again, else all of it",
    ("commit", "wait"): "wait, then COMMIT again",
    ("transaction", "wait"): "ROLLBACK, wait, then all of it again",
    ("transaction", "redo"): "ROLLBACK, then all of it again",
    ("transaction", "none"): "ROLLBACK; all of it again only if you know why it came",
    ("connection", "unavailable"): "a new connection, then all of it again",
    ("connection", "redo"): "a new connection, then all of it again",
    ("connection", "none"): "a new connection; repeat nothing unasked",
    ("resolve", "none"): "nothing, before you have looked whether it is stored",
    ("never", "none"): "nothing: the same error would come again",
}
_CONDITIONS = {
    "always": "",
    "read": "that reads",
    "write_after_read": "that writes after a read",
    "after_read": "after a read",
    "commit_point_unclear": "in WAL, truncate or persist mode",
    "autocommit_write": "that writes in autocommit",
    "autocommit_write_commit_point_unclear": "that writes in autocommit, in WAL",
    "ddl": "that changes the schema",
    "user_lock": "with GET_LOCK",
    "read_only_transaction": "in a READ ONLY transaction",
    "rolls_back_on_timeout": "with innodb_rollback_on_timeout",
}
_PHASES = ("connect", "begin", "statement", "savepoint", "commit", "rollback")
_COLUMNS = ("when", "the transaction", "safe to do")


def explain(arguments: argparse.Namespace) -> int:
    """Prints what the code or text means. 0: it is in the table; 1: it is not; 2: there is none."""
    try:
        found = find(" ".join(arguments.text))
    except CommandError as error:
        complain(str(error))
        return 2
    rules = [(code, _rules_for(code)) for code in found]
    if arguments.json:
        show(json.dumps([_as_json(code, listed) for code, listed in rules], indent=2))
    else:
        show("\n\n".join(_sections(rules)))
    return 0 if any(listed for _, listed in rules) else 1


def find(text: str) -> list[Code]:
    """The codes that are meant. Raises `CommandError` if there is none."""
    text = text.strip()
    first, _, rest = text.partition(" ")
    dialects = codes.DIALECTS.get(first.lower(), ()) if rest else ()
    found = _by_code(rest.strip() if dialects else text) or codes.in_text(text)
    if dialects:
        found = [code for code in found if code.dialect in dialects]
    if not found:
        raise CommandError(f"no error code or known message in {text!r}{_hint(text)}")
    listed = [code for code in found if _rules_for(code)]
    # A number may be anybody's: only where it is in no table, all are meant.
    return listed or found


def _by_code(text: str) -> list[Code]:
    named = codes.names().get(text.upper(), [])
    if named:
        return named
    if text.isascii() and text.isdigit() and len(text) < 5:
        number = int(text)
        return [Code(dialect, number) for dialect in ("sqlite", *codes.TWINS)]
    if _native.sqlstate(text.upper()) is not None and any(map(str.isdigit, text)):
        return [Code("postgresql", text.upper())]
    return []


def _hint(text: str) -> str:
    import difflib

    from turnwise import errors

    for word in re.findall(r"\w+Error\b", text):
        meaning = getattr(errors, word, None)
        if isinstance(meaning, type) and issubclass(meaning, errors.TurnwiseError):
            said = " ".join((meaning.__doc__ or "").split("\n\n")[0].split())
            return f"; {word} is turnwise's own: {said}"
    close = difflib.get_close_matches(text.upper(), codes.names(), n=1, cutoff=0.75)
    if close:
        return f" (did you mean {close[0]}?)"
    messages = [message for message, _, _ in codes.MESSAGES]
    close = [message for message in messages if len(text) > 3 and text.lower() in message]
    close = close or difflib.get_close_matches(text.lower(), messages, n=1, cutoff=0.75)
    return f" (did you mean {' or '.join(map(json.dumps, close))}?)" if close else ""


def _rules_for(code: Code) -> list[dict[str, Any]]:
    """The rules for the code, then those for its group, each for the phases that are left to it."""
    wanted: list[int | str] = [code.code]
    if isinstance(code.code, str):
        wanted.append(f"{code.code[:2]}000")
    elif code.dialect == "sqlite":
        wanted.append(code.code & 0xFF)
    listed = []
    taken: set[str] = set()
    rules: list[dict[str, Any]] = _native.rules()
    for each in dict.fromkeys(wanted):
        for rule in rules:
            phases = [phase for phase in rule["phases"] if phase not in taken]
            if rule["dialect"] == code.dialect and each in rule["codes"] and phases:
                listed.append({**rule, "phases": phases})
                if rule["when"] == "always":
                    taken.update(phases)
    return listed


def _as_json(code: Code, rules: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "dialect": code.dialect,
        "code": code.code,
        "name": codes.name_of(code),
        "rules": [
            {"rule": rule["id"]}
            | {name: rule[name] for name in rule if name not in {"id", "dialect", "codes"}}
            for rule in rules
        ],
    }


def _sections(found: list[tuple[Code, list[dict[str, Any]]]]) -> list[str]:
    """One section for each code; MySQL and MariaDB share one."""
    sections = []
    for code in dict.fromkeys(code.code for code, _ in found):
        shared = [pair for pair in found if pair[0].code == code and pair[0].dialect in codes.TWINS]
        others = [[pair] for pair in found if pair[0].code == code and pair not in shared]
        sections += [_section(pairs) for pairs in (*others, shared) if pairs]
    return sections


def _section(pairs: list[tuple[Code, list[dict[str, Any]]]]) -> str:
    code = pairs[0][0]
    whose = " and ".join(_TITLES[pair[0].dialect] for pair in pairs)
    name = codes.name_of(code)
    title = f"{whose} {code.code}" + (f" ({name})" if name else "")
    merged: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for _, rules in pairs:
        for rule in rules:
            merged.setdefault((rule["id"].partition(".")[2], *rule["phases"]), []).append(rule)
    if not merged:
        return (
            f"{title}: not in the table\n\nAfter such an error ROLLBACK, and repeat nothing; if it "
            "came from COMMIT, look whether the work is stored."
        )
    classes = {same[0]["class_"].replace("_", " ") for same in merged.values()}
    rows = []
    notes: list[str] = []
    for same in sorted(merged.values(), key=lambda same: _order(same[0])):
        rule = same[0]
        only = f" ({_TITLES[rule['dialect']]} only)" if len(same) < len(pairs) else ""
        when = " ".join((", ".join(rule["phases"]), _CONDITIONS[rule["when"]])).strip()
        fate = _FATES[rule["fate"]]
        if rule["fate_if_open"] == "intact" and rule["fate"] not in {"intact", "none"}:
            fate += ", unless the driver still sees it open: then usable"
        rows.append((when + only, fate, _ACTIONS[rule["scope"], rule["retry"]]))
        if rule["why"] not in notes:
            notes.append(rule["why"])
    lines = [f"{title}: {', '.join(sorted(classes))}", "", *_table(rows), ""]
    width = shutil.get_terminal_size((100, 24)).columns
    for note in notes:
        lines += textwrap.wrap(note, max(40, width), initial_indent="- ", subsequent_indent="  ")
    return "\n".join(lines)


def _order(rule: dict[str, Any]) -> tuple[int, bool]:
    """In the order of a transaction's life, and special cases before the rule."""
    return (_PHASES.index(rule["phases"][0]), rule["when"] == "always")


def _table(rows: list[tuple[str, str, str]]) -> list[str]:
    width = max(60, shutil.get_terminal_size((100, 24)).columns) - 4
    widths = [max(len(row[i]) for row in (_COLUMNS, *rows)) for i in range(3)]
    while sum(widths) > width:
        widths[widths.index(max(widths))] -= 1
    lines = []
    for row in (_COLUMNS, tuple("-" * width for width in widths), *rows):
        cells = [textwrap.wrap(cell, widths[i]) for i, cell in enumerate(row)]
        for number in range(max(map(len, cells))):
            parts = [cell[number] if number < len(cell) else "" for cell in cells]
            lines.append("  ".join(part.ljust(widths[i]) for i, part in enumerate(parts)).rstrip())
    return lines
