"""turnwise for Celery."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from turnwise.celery.workers import setup, teardown

__all__ = ["setup", "teardown"]


def __getattr__(name: str) -> object:
    """Load the functions where they are used: they need Celery and SQLAlchemy."""
    if name in __all__:
        from turnwise.sqlalchemy import require

        require(f"turnwise.celery.{name}")
        from turnwise.celery import workers

        return getattr(workers, name)
    raise AttributeError(f"module 'turnwise.celery' has no attribute {name!r}")
