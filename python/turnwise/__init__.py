"""Database writes that take turns.

``BatchWriter`` lets many threads, tasks and futures write one SQLite file: the writes of all
callers share transactions, each caller gets its own result or its own error, and every write lands.

``install`` and the functions beside it do the same for applications on SQLAlchemy with SQLite,
PostgreSQL, MariaDB or MySQL: units of work that lose a turn are run again, and no loss is silent.

Everything is loaded on first use, so that ``import turnwise`` costs next to nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from turnwise._native import VERSION as __version__  # noqa: N811 - Python's name for it
    from turnwise._native import (
        Budget,
        Constraint,
        Event,
        Finding,
        Learner,
        Lease,
        Override,
        Owner,
        Retry,
        RetryPolicy,
        Verdict,
        WriteResult,
        classify_code,
        fingerprint,
    )
    from turnwise.classification import classify
    from turnwise.errors import TurnwiseError
    from turnwise.events import Subscription, UnitEvent, on_event
    from turnwise.sqlalchemy.advisory import advisory_lock
    from turnwise.sqlalchemy.advisory_keys import advisory_key
    from turnwise.sqlalchemy.batch_report import BatchReport
    from turnwise.sqlalchemy.batches import batch_commit_with_retry
    from turnwise.sqlalchemy.claims import claim
    from turnwise.sqlalchemy.commit import commit_with_retry
    from turnwise.sqlalchemy.installing import install, is_installed, uninstall
    from turnwise.sqlalchemy.skip_locked import get_for_update_skip_locked
    from turnwise.tracking.backstop import backstop
    from turnwise.tracking.blocking import blocked_by_route
    from turnwise.tracking.budget import check_budget
    from turnwise.tracking.disconnects import explain_disconnects
    from turnwise.tracking.liveness import check_liveness
    from turnwise.tracking.owners import owner
    from turnwise.tracking.resetting import reset_pool
    from turnwise.tracking.terminating import terminate
    from turnwise.tracking.watching import clear_findings, findings, is_watching, leases, on_finding, unwatch, watch
    from turnwise.tracking.scopes import session_scope
    from turnwise.tracking.threads import CancelledTooLateError, to_thread
    from turnwise.turn import TurnLock, TurnStats
    from turnwise.units import retry, retry_on_deadlock, run
    from turnwise.values import normalize_for_db
    from turnwise.writer import BatchWriter, Histogram, Transaction, WriterSettings, WriterStats

__all__ = [
    "BatchReport",
    "BatchWriter",
    "Budget",
    "CancelledTooLateError",
    "Constraint",
    "Event",
    "Finding",
    "Histogram",
    "Learner",
    "Lease",
    "Override",
    "Owner",
    "Retry",
    "RetryPolicy",
    "Subscription",
    "Transaction",
    "TurnLock",
    "TurnStats",
    "TurnwiseError",
    "UnitEvent",
    "Verdict",
    "WriteResult",
    "WriterSettings",
    "WriterStats",
    "__version__",
    "advisory_key",
    "advisory_lock",
    "backstop",
    "batch_commit_with_retry",
    "blocked_by_route",
    "check_budget",
    "check_liveness",
    "claim",
    "classify",
    "classify_code",
    "clear_findings",
    "commit_with_retry",
    "explain_disconnects",
    "findings",
    "fingerprint",
    "get_for_update_skip_locked",
    "install",
    "is_installed",
    "is_watching",
    "leases",
    "normalize_for_db",
    "on_event",
    "on_finding",
    "owner",
    "reset_pool",
    "retry",
    "retry_on_deadlock",
    "run",
    "session_scope",
    "terminate",
    "to_thread",
    "uninstall",
    "unwatch",
    "watch",
]

# Where each public name lives, and its name there.
_HOMES = {
    "BatchReport": ("turnwise.sqlalchemy.batch_report", "BatchReport"),
    "BatchWriter": ("turnwise.writer", "BatchWriter"),
    "Budget": ("turnwise._native", "Budget"),
    "CancelledTooLateError": ("turnwise.tracking.threads", "CancelledTooLateError"),
    "Constraint": ("turnwise._native", "Constraint"),
    "Event": ("turnwise._native", "Event"),
    "Finding": ("turnwise._native", "Finding"),
    "Histogram": ("turnwise.writer", "Histogram"),
    "Learner": ("turnwise._native", "Learner"),
    "Lease": ("turnwise._native", "Lease"),
    "Override": ("turnwise._native", "Override"),
    "Owner": ("turnwise._native", "Owner"),
    "Retry": ("turnwise._native", "Retry"),
    "RetryPolicy": ("turnwise._native", "RetryPolicy"),
    "Subscription": ("turnwise.events", "Subscription"),
    "Transaction": ("turnwise.writer", "Transaction"),
    "TurnLock": ("turnwise.turn", "TurnLock"),
    "TurnStats": ("turnwise.turn", "TurnStats"),
    "TurnwiseError": ("turnwise.errors", "TurnwiseError"),
    "UnitEvent": ("turnwise.events", "UnitEvent"),
    "Verdict": ("turnwise._native", "Verdict"),
    "WriteResult": ("turnwise._native", "WriteResult"),
    "WriterSettings": ("turnwise.writer", "WriterSettings"),
    "WriterStats": ("turnwise.writer", "WriterStats"),
    "__version__": ("turnwise._native", "VERSION"),
    "advisory_key": ("turnwise.sqlalchemy.advisory_keys", "advisory_key"),
    "advisory_lock": ("turnwise.sqlalchemy.advisory", "advisory_lock"),
    "backstop": ("turnwise.tracking.backstop", "backstop"),
    "batch_commit_with_retry": ("turnwise.sqlalchemy.batches", "batch_commit_with_retry"),
    "blocked_by_route": ("turnwise.tracking.blocking", "blocked_by_route"),
    "check_budget": ("turnwise.tracking.budget", "check_budget"),
    "check_liveness": ("turnwise.tracking.liveness", "check_liveness"),
    "claim": ("turnwise.sqlalchemy.claims", "claim"),
    "classify": ("turnwise.classification", "classify"),
    "classify_code": ("turnwise._native", "classify_code"),
    "clear_findings": ("turnwise.tracking.watching", "clear_findings"),
    "commit_with_retry": ("turnwise.sqlalchemy.commit", "commit_with_retry"),
    "explain_disconnects": ("turnwise.tracking.disconnects", "explain_disconnects"),
    "findings": ("turnwise.tracking.watching", "findings"),
    "fingerprint": ("turnwise._native", "fingerprint"),
    "get_for_update_skip_locked": ("turnwise.sqlalchemy.skip_locked", "get_for_update_skip_locked"),
    "install": ("turnwise.sqlalchemy.installing", "install"),
    "is_installed": ("turnwise.sqlalchemy.installing", "is_installed"),
    "is_watching": ("turnwise.tracking.watching", "is_watching"),
    "leases": ("turnwise.tracking.watching", "leases"),
    "normalize_for_db": ("turnwise.values", "normalize_for_db"),
    "on_event": ("turnwise.events", "on_event"),
    "on_finding": ("turnwise.tracking.watching", "on_finding"),
    "owner": ("turnwise.tracking.owners", "owner"),
    "reset_pool": ("turnwise.tracking.resetting", "reset_pool"),
    "retry": ("turnwise.units", "retry"),
    "retry_on_deadlock": ("turnwise.units", "retry_on_deadlock"),
    "run": ("turnwise.units", "run"),
    "session_scope": ("turnwise.tracking.scopes", "session_scope"),
    "terminate": ("turnwise.tracking.terminating", "terminate"),
    "to_thread": ("turnwise.tracking.threads", "to_thread"),
    "uninstall": ("turnwise.sqlalchemy.installing", "uninstall"),
    "unwatch": ("turnwise.tracking.watching", "unwatch"),
    "watch": ("turnwise.tracking.watching", "watch"),
}

_MODULES = (
    "celery",
    "errors",
    "events",
    "fastapi",
    "flask",
    "http",
    "sqlalchemy",
    "sqlite3",
    "testing",
    "turn",
    "writer",
)


def __getattr__(name: str) -> object:
    """Load a public name from its module."""
    import importlib

    if name in _MODULES:
        return importlib.import_module(f"turnwise.{name}")
    try:
        module, attribute = _HOMES[name]
    except KeyError:
        message = f"module 'turnwise' has no attribute {name!r}"
        raise AttributeError(message, name=name, obj=None) from None
    if _needs_sqlalchemy(name):
        from turnwise.sqlalchemy import require

        require(f"turnwise.{name}")
    value: object = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not. ``help`` and others get all that are listed."""
    from importlib.util import find_spec

    names = {*globals(), *_HOMES, *_MODULES}
    if find_spec("sqlalchemy") is None:
        names -= {name for name in _HOMES if _needs_sqlalchemy(name)}
    return sorted(names)


def _needs_sqlalchemy(name: str) -> bool:
    home = _HOMES[name][0]
    if home.startswith("turnwise.tracking."):
        return name not in ("owner", "blocked_by_route")
    return home.startswith("turnwise.sqlalchemy.") and name != "advisory_key"
