"""Waiting in synchronous code: a thread blocks, SQLAlchemy's greenlets suspend their task."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable

Answer = TypeVar("Answer")


def wait(awaitable: Awaitable[Answer]) -> Answer:
    """Await something from synchronous code below ``AsyncSession.run_sync``."""
    from sqlalchemy.util import concurrency

    # SQLAlchemy 2.1 calls it await_, and will drop the other name with 2.2.
    answer: Answer = (getattr(concurrency, "await_", None) or concurrency.await_only)(awaitable)
    return answer


def sleep(seconds: float) -> None:
    """Wait: the thread, or below ``AsyncSession.run_sync`` the task."""
    concurrency = sys.modules.get("sqlalchemy.util.concurrency")
    # Without the package greenlet SQLAlchemy cannot say, and nobody is in one.
    if concurrency is not None and "greenlet" in sys.modules and concurrency.in_greenlet():
        import asyncio

        wait(asyncio.sleep(seconds))
    else:
        time.sleep(seconds)
