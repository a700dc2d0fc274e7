"""A stand-in until the package reads every driver's errors itself."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from turnwise import _native

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from turnwise._native import Override, Verdict

_SERVERS = {
    "40P01": ("deadlock", "redo"),
    "40001": ("serialization", "redo"),
    "55P03": ("timeout", "redo"),
    1213: ("deadlock", "redo"),
    1020: ("serialization", "redo"),
    1205: ("timeout", "redo"),
    2013: ("connection_lost", "unavailable"),
    2006: ("connection_lost", "unavailable"),
}


def classify(
    error: BaseException,
    *,
    phase: str | None = None,
    in_transaction: bool | None = None,
    overrides: Sequence[Override] = (),
) -> Verdict:
    """Say what an error means."""
    for one in _chain(error):
        if getattr(one, "orig", None) is not None:
            committing = getattr(one, "statement", "") is None
            phase = phase or ("commit" if committing else None)
            continue
        if isinstance(one, sqlite3.Error):
            code = getattr(one, "sqlite_errorcode", None)
            if code is None:
                code = 5 if "locked" in str(one) else 1
            return _native.classify(
                "sqlite",
                code,
                phase=phase or "statement",
                in_transaction=in_transaction,
                overrides=list(overrides),
            )
        code = getattr(one, "sqlstate", None) or getattr(one, "pgcode", None)
        code = code if code in _SERVERS else next(iter(one.args), None)
        if isinstance(code, (int, str)) and code in _SERVERS:
            class_, retry = _SERVERS[code]
            scope = "connection" if retry == "unavailable" else "transaction"
            return _native.Verdict(fate="rolled_back", scope=scope, retry=retry, class_=class_)
    return _native.Verdict(fate="none", scope="never", retry="none")


def _chain(error: BaseException) -> Iterator[BaseException]:
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop()
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            nested = [getattr(one, "orig", None), one.__cause__, *getattr(one, "exceptions", ())]
            waiting += [other for other in nested if isinstance(other, BaseException)]
