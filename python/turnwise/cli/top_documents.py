"""What stands in the document that a process serves.

Another version of the package may have written it: what is missing or of another type is left out.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Owner(NamedTuple):
    """The request, task or job that a lease belongs to."""

    kind: str
    name: str
    id: str
    phase: str


class Lease(NamedTuple):
    """One checkout. Ages are seconds; `None`: not known."""

    number: int
    pool: str
    backend_pid: int
    state: str
    age: float | None
    state_age: float | None
    owner: Owner | None
    opened: str
    last: str
    statement: str
    wrote: bool
    statements: int


class Finding(NamedTuple):
    """One finding; `at` orders those of all processes of a machine."""

    at: float
    text: str
    document: dict[str, Any]


def leases_in(document: dict[str, Any]) -> tuple[Lease, ...]:
    """Those with a server's number, by which they can be found there."""
    found = []
    for each in _objects(document.get("leases")):
        owner = each.get("owner")
        lease = Lease(
            number=_whole(each.get("number", each.get("lease"))),
            pool=_text(each, "pool"),
            backend_pid=_whole(each.get("backend_pid")),
            state=_text(each, "state"),
            age=_seconds(each, "age"),
            state_age=_seconds(each, "state_age"),
            owner=Owner(*(_text(owner, name) for name in Owner._fields))
            if isinstance(owner, dict)
            else None,
            opened=_text(each, "opened"),
            last=_text(each, "last"),
            statement=_text(each, "statement"),
            wrote=bool(each.get("wrote")) or _seconds(each, "write_age") is not None,
            statements=_whole(each.get("statements")),
        )
        if lease.backend_pid:
            found.append(lease)
    return tuple(found)


def findings_in(document: dict[str, Any]) -> tuple[Finding, ...]:
    """The findings, as their processes say them."""
    return tuple(
        Finding(_number(each.get("at_ms")) or 0.0, _line(each), each)
        for each in _objects(document.get("findings"))
    )


def _line(finding: dict[str, Any]) -> str:
    said = _text(finding, "text")
    if said:
        return said
    owner = finding.get("owner")
    name = _text(owner, "name") if isinstance(owner, dict) else _text(finding, "owner_name")
    age = _seconds(finding, "age")
    site = _text(finding, "last") or _text(finding, "opened")
    parts = (_text(finding, "code"), f"{age:.1f}s" if age else "", name, site)
    return " ".join(part for part in parts if part)


def _objects(value: object) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _text(document: dict[str, Any], name: str) -> str:
    value = document.get(name)
    return value if isinstance(value, str) else ""


def _seconds(document: dict[str, Any], name: str) -> float | None:
    """An age: in seconds, or by its name in milliseconds."""
    seconds = _number(document.get(name))
    if seconds is not None:
        return seconds
    milliseconds = _number(document.get(f"{name}_ms"))
    return None if milliseconds is None else milliseconds / 1e3


def _number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None  # type: ignore[arg-type]


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
