"""Writes the Rust table of rules from its data file.

Usage: generate_rules.py FILE
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "crates" / "core" / "rules.json"
DIALECTS = ("sqlite", "postgresql", "mysql", "mariadb")
HEAD = """\
//! Generated from `crates/core/rules.json` by `make rules`.

use super::rule::{Rule, When};
use super::texts::Text;
use super::words::{ConstraintKind, Dialect, ErrorClass, Fate, Phase, RetryKind, Scope};
"""
KEYS = {"id", "dialects", "codes", "phases", "class", "fate", "scope", "why"}
OPTIONAL_KEYS = {"when", "sqlstate", "fate_if_open", "retry", "constraint"}


def packed(code: int | str) -> str:
    """Give the number of a code as a Rust literal: SQLSTATE six bits a character, first lowest."""
    if isinstance(code, str):
        code = sum((ord(c) - ord("0")) << 6 * i for i, c in enumerate(code))
    return f"{code:_}"


def variant(kind: str, name: str) -> str:
    """Give the Rust name of an enum's value."""
    return f"{kind}::" + "".join(part.capitalize() for part in name.split("_"))


def text(value: str) -> str:
    """Give a Rust string literal."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def optional(value: object, literal: str) -> str:
    """Give `Some` literal, or `None` for no value."""
    return "None" if value is None else f"Some({literal})"


def rust_rule(dialect: str, rule: dict[str, Any]) -> str:
    """Give the Rust literal of one rule, in one line."""
    wrong = rule.keys() - KEYS - OPTIONAL_KEYS | KEYS - rule.keys()
    if wrong:
        message = f"{rule.get('id')}: these keys are unknown or missing: {sorted(wrong)}"
        raise ValueError(message)
    fate = rule["fate"]
    kept = dialect == "postgresql" and fate in {"intact", "aborted", "rolled_back"}
    open_fate = rule.get("fate_if_open", "aborted" if kept else fate)
    constraint, sqlstate = rule.get("constraint"), rule.get("sqlstate")
    fields = {
        "id": text(f"{dialect}.{rule['id']}"),
        "codes": "&[" + ", ".join(map(packed, rule["codes"])) + "]",
        "phases": "&[" + ", ".join(variant("Phase", phase) for phase in rule["phases"]) + "]",
        "when": variant("When", rule.get("when", "always")),
        "sqlstate": optional(sqlstate, packed(sqlstate or 0)),
        "class": variant("ErrorClass", rule["class"]),
        "fate": variant("Fate", fate),
        "fate_if_open": variant("Fate", open_fate),
        "scope": variant("Scope", rule["scope"]),
        "retry": variant("RetryKind", rule.get("retry", "none")),
        "constraint": optional(constraint, variant("ConstraintKind", constraint or "")),
        "why": text(rule["why"]),
    }
    return "Rule { " + ", ".join(f"{name}: {value}" for name, value in fields.items()) + " }"


def rust_text(entry: dict[str, Any]) -> str:
    """Give the Rust literal of one text, in one line."""
    fields = {
        "dialect": variant("Dialect", entry["dialect"]),
        "says": text(entry["text"]),
        "code": packed(entry.get("code", 0)),
        "means": packed(entry["means"]),
    }
    return "Text { " + ", ".join(f"{name}: {value}" for name, value in fields.items()) + " }"


def constant(name: str, kind: str, items: list[str]) -> str:
    """Give a constant list, one item a line."""
    lines = "".join(f"    {item},\n" for item in items)
    return f"\n#[rustfmt::skip]\npub(super) const {name}: &[{kind}] = &[\n{lines}];\n"


def generate() -> str:
    """Give the Rust source.

    Raises:
        ValueError: A rule has a key that is unknown, or lacks one.
    """
    data = json.loads(SOURCE.read_text(encoding="utf-8"))
    parts = [HEAD]
    for dialect in DIALECTS:
        rules = [rust_rule(dialect, r) for r in data["rules"] if dialect in r["dialects"]]
        parts.append(constant(dialect.upper(), "Rule", rules))
    parts.append(constant("TEXTS", "Text", [rust_text(entry) for entry in data["texts"]]))
    return "".join(parts)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(generate(), encoding="utf-8")
