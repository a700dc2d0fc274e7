"""Database writes that take turns.

``BatchWriter`` lets many threads, tasks and futures write one SQLite file: the writes of all
callers share transactions, each caller gets its own result or its own error, and every write lands.

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
        Learner,
        Override,
        Retry,
        RetryPolicy,
        Verdict,
        WriteResult,
        classify_code,
        fingerprint,
    )
    from turnwise.errors import TurnwiseError
    from turnwise.events import Subscription, on_event
    from turnwise.sqlalchemy.installing import install, is_installed, uninstall
    from turnwise.turn import TurnLock, TurnStats
    from turnwise.writer import BatchWriter, Histogram, Transaction, WriterSettings, WriterStats

__all__ = [
    "BatchWriter",
    "Budget",
    "Constraint",
    "Event",
    "Histogram",
    "Learner",
    "Override",
    "Retry",
    "RetryPolicy",
    "Subscription",
    "Transaction",
    "TurnLock",
    "TurnStats",
    "TurnwiseError",
    "Verdict",
    "WriteResult",
    "WriterSettings",
    "WriterStats",
    "__version__",
    "classify_code",
    "fingerprint",
    "install",
    "is_installed",
    "on_event",
    "uninstall",
]

# Where each public name lives, and its name there.
_HOMES = {
    "BatchWriter": ("turnwise.writer", "BatchWriter"),
    "Budget": ("turnwise._native", "Budget"),
    "Constraint": ("turnwise._native", "Constraint"),
    "Event": ("turnwise._native", "Event"),
    "Histogram": ("turnwise.writer", "Histogram"),
    "Learner": ("turnwise._native", "Learner"),
    "Override": ("turnwise._native", "Override"),
    "Retry": ("turnwise._native", "Retry"),
    "RetryPolicy": ("turnwise._native", "RetryPolicy"),
    "Subscription": ("turnwise.events", "Subscription"),
    "Transaction": ("turnwise.writer", "Transaction"),
    "TurnLock": ("turnwise.turn", "TurnLock"),
    "TurnStats": ("turnwise.turn", "TurnStats"),
    "TurnwiseError": ("turnwise.errors", "TurnwiseError"),
    "Verdict": ("turnwise._native", "Verdict"),
    "WriteResult": ("turnwise._native", "WriteResult"),
    "WriterSettings": ("turnwise.writer", "WriterSettings"),
    "WriterStats": ("turnwise.writer", "WriterStats"),
    "__version__": ("turnwise._native", "VERSION"),
    "classify_code": ("turnwise._native", "classify_code"),
    "fingerprint": ("turnwise._native", "fingerprint"),
    "install": ("turnwise.sqlalchemy.installing", "install"),
    "is_installed": ("turnwise.sqlalchemy.installing", "is_installed"),
    "on_event": ("turnwise.events", "on_event"),
    "uninstall": ("turnwise.sqlalchemy.installing", "uninstall"),
}

_MODULES = ("errors", "events", "sqlite3", "testing", "turn", "writer")


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
    value: object = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *_HOMES, *_MODULES})
