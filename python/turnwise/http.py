"""What a web client is told of a database's error: status, `Retry-After`, problem details.

No framework: `turnwise.flask` and `turnwise.fastapi` hand the answers on. The body follows RFC 9457
and holds no SQL, no parameter and none of the database's words: a constraint's name is all that it
tells of the schema.
"""

from __future__ import annotations

import logging
import math
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

from turnwise.classification import classify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from turnwise._native import Constraint, Override, Verdict

_LOG = logging.getLogger("turnwise.http")
_LOG.addHandler(logging.NullHandler())

CONTENT_TYPE = "application/problem+json"

_STATUSES = {"unique": 409, "exclusion": 409, "foreign_key": 409, "not_null": 422, "check": 422}
_DETAILS = {
    "unique": "Another entry has this value already.",
    "exclusion": "This is in conflict with another entry.",
    "foreign_key": "An entry that this refers to is missing, or others refer to this one.",
    "not_null": "A value is missing.",
    "check": "A value is not allowed.",
    "data": "A value is too long, out of range or of the wrong type.",
    "busy": "The database is busy: try again.",
    "unknown": "It is not known whether this was stored: look before you try again.",
    "error": "The request could not be completed.",
}
_OUTAGES = {"connection_lost", "server_going", "overload"}
_BUSY = {"contention", "deadlock", "serialization", "snapshot_stale", "timeout"}
_WRONG_DATA = {"22000", "22001", "22003", "22007", "22008", "22021", "22026", "22P02", "22P05"}
_WRONG_DATA_NUMBERS = {
    "sqlite": {18, 20},
    "mysql": {1264, 1265, 1292, 1366, 1406},
    "mariadb": {1264, 1265, 1292, 1366, 1406},
}
"""Too long, out of range or of a wrong type, where the driver has no SQLSTATE."""


class Problem(NamedTuple):
    """The answer to a request that a database's error has ended."""

    status: int
    body: dict[str, object]
    """Problem details: `type`, `title`, `status`, `detail`, `reason` and, where it is known, the
    name of the `constraint`."""
    headers: dict[str, str]
    verdict: Verdict


def problem_of(
    error: BaseException,
    *,
    constraints: Mapping[str, str | tuple[int, str]] | None = None,
    retry_after: float = 1.0,
    retry_after_outage: float = 5.0,
    overrides: Sequence[Override] = (),
    customize: Callable[[Problem, BaseException], Problem] | None = None,
) -> Problem:
    """The answer to an exception, of a database or not.

    | the verdict's class | status |
    |---|---|
    | a unique, exclusion or foreign key constraint | 409 |
    | another constraint, a value that is too long or of a wrong type | 422 |
    | a lock, a deadlock, a serialization failure, a time-out | 503, `Retry-After: retry_after` |
    | the server or a connection cannot be had | 503, `Retry-After: retry_after_outage` |
    | everything else, and a COMMIT in doubt | 500 |

    `constraints`: by name, the detail that the client gets, or its status and detail. Where a
    database does not name the constraint, by `table.column` (several: `table.a,b`); `table.name`
    tells apart constraints of one name, such as MySQL's `PRIMARY`. `retry_after`,
    `retry_after_outage`: seconds, rounded up. `overrides`: as `classify` takes them.
    `customize(problem, error)` returns what is sent instead.

    An answer of 500 is logged as an ERROR of `turnwise.http`, with the lines of the traceback and
    without the exception's text, which may hold parameters.
    """
    verdict = classify(error, overrides=overrides)
    problem = _plain(verdict, retry_after, retry_after_outage)
    if verdict.constraint is not None:
        problem = _named(problem, verdict.constraint, constraints or {})
    if customize is not None:
        problem = customize(problem, error)
    if problem.status == 500:
        _report(error, verdict)
    return problem


def _plain(verdict: Verdict, retry_after: float, retry_after_outage: float) -> Problem:
    headers = {"Content-Type": CONTENT_TYPE}
    reason = verdict.class_
    if verdict.is_in_doubt:
        status, detail = 500, "unknown"
    elif verdict.constraint is not None:
        reason = detail = verdict.constraint.kind
        status = _STATUSES[reason]
    elif _is_wrong_data(verdict):
        status, reason, detail = 422, "data", "data"
    elif verdict.class_ in _OUTAGES | _BUSY or verdict.is_retryable:
        status, detail = 503, "busy"
        is_outage = verdict.class_ in _OUTAGES or verdict.retry == "unavailable"
        seconds = math.ceil(retry_after_outage if is_outage else retry_after)
        headers["Retry-After"] = str(max(1, seconds))
    else:
        status, detail = 500, "error"
    body: dict[str, object] = {
        "type": "about:blank",
        "title": _title(status),
        "status": status,
        "detail": _DETAILS[detail],
        "reason": reason,
    }
    return Problem(status, body, headers, verdict)


def _title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def _is_wrong_data(verdict: Verdict) -> bool:
    return (
        verdict.class_ == "constraint"
        or verdict.sqlstate in _WRONG_DATA
        or verdict.code in _WRONG_DATA_NUMBERS.get(verdict.dialect or "", ())
    )


def _named(
    problem: Problem, constraint: Constraint, known: Mapping[str, str | tuple[int, str]]
) -> Problem:
    """The application's own words for this constraint."""
    name = next((name for name in _names(constraint) if name in known), None)
    if name is not None:
        told = known[name]
        status, detail = (problem.status, told) if isinstance(told, str) else told
        told_of = {"status": status, "title": _title(status), "detail": detail, "constraint": name}
        return problem._replace(status=status, body={**problem.body, **told_of})
    # SQLite calls an unnamed CHECK by its SQL.
    if constraint.name is not None and constraint.name.isidentifier():
        return problem._replace(body={**problem.body, "constraint": constraint.name})
    return problem


def _names(constraint: Constraint) -> Iterator[str]:
    if constraint.name is not None:
        yield constraint.name
        if constraint.table is not None:
            yield f"{constraint.table}.{constraint.name}"
    if constraint.columns:
        columns = ",".join(constraint.columns)
        yield columns if constraint.table is None else f"{constraint.table}.{columns}"


def _report(error: BaseException, verdict: Verdict) -> None:
    import traceback

    _LOG.error(
        "answered 500 to %s.%s (%s, code %s)\n%s",
        type(error).__module__,
        type(error).__qualname__,
        verdict.rule,
        verdict.sqlstate or verdict.code,
        "".join(traceback.format_tb(error.__traceback__)).rstrip(),
    )
