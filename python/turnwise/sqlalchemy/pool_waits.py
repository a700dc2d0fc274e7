"""Who waits for a connection, and in vain."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import exc
from sqlalchemy.pool import Pool, QueuePool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.pool import PoolProxiedConnection

    Report = Callable[..., None]


class Waits:
    """Around ``Pool.connect``: costs one comparison where nobody has to wait."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._inner: Callable[[Pool], PoolProxiedConnection] | None = None
        self._here: Callable[[Pool], PoolProxiedConnection] | None = None
        self._waiting: dict[int, list[Any]] = {}
        self._changing = threading.Lock()

    def add(self) -> None:
        """Wrap ``Pool.connect``."""
        with self._changing:
            if self._here is None:
                self._inner = inner = Pool.connect

                def connect(self_: Pool) -> PoolProxiedConnection:
                    if _must_wait(self_):
                        with self._watched(self_):
                            return inner(self_)
                    return inner(self_)

                self._here = connect
                Pool.connect = connect  # type: ignore[method-assign]

    def remove(self) -> None:
        """Put ``Pool.connect`` back; inside somebody else's wrapper ours stays, and reports nothing."""
        with self._changing:
            if self._here is not None and self._inner is not None and Pool.connect is self._here:
                Pool.connect = self._inner  # type: ignore[method-assign]
                self._here = self._inner = None
            self._waiting.clear()

    @contextmanager
    def _watched(self, pool: Pool) -> Iterator[None]:
        began = time.monotonic()
        key = threading.get_ident() ^ hash((began, id(pool)))
        on_loop = not pool._dialect.is_async and _on_loop()  # noqa: SLF001
        self._waiting[key] = [pool, began, False]
        try:
            yield
        except exc.TimeoutError:
            waited = time.monotonic() - began
            self._waiting.pop(key, None)
            self._report("pool-exhausted", detail=f"waited {waited:.1f} s in vain", age=waited)
            raise
        finally:
            self._waiting.pop(key, None)
            if on_loop:
                waited = time.monotonic() - began
                detail = f"blocked the event loop for {waited * 1e3:.1f} ms"
                self._report("pool-wait-on-loop", detail=detail, age=waited)

    def overdue(self, limit: float) -> None:
        """Report who has waited for longer than ``limit`` seconds, once each."""
        now = time.monotonic()
        for waiting in list(self._waiting.values()):
            pool, began, told = waiting
            if not told and now - began >= limit:
                waiting[2] = True
                detail = f"somebody waits for a connection of {pool.status()}"
                self._report("pool-exhausted", detail=detail, age=now - began, severity="warning")


def _must_wait(pool: Pool) -> bool:
    """Whether the pool has no connection left, and may make no more."""
    return (
        isinstance(pool, QueuePool)
        and -1 < pool._max_overflow <= pool._overflow  # noqa: SLF001 - what `status` prints
        and pool.checkedin() == 0
    )


def _on_loop() -> bool:
    loaded = sys.modules.get("asyncio")
    return loaded is not None and loaded._get_running_loop() is not None  # noqa: SLF001
