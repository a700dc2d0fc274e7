"""Who waits for a connection, and in vain."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import exc
from sqlalchemy.pool import Pool, QueuePool

from turnwise.tracking.owners import current

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.pool import PoolProxiedConnection

    from turnwise._native import Owner

    Report = Callable[..., None]
    Connect = Callable[[Pool], PoolProxiedConnection]


class Waits:
    """Around ``Pool.connect``: costs one comparison where nobody has to wait."""

    def __init__(self, report: Report, here: Callable[[], str]) -> None:
        self._report, self._here = report, here
        self._inner: Connect | None = None
        self._outer: Connect | None = None
        self._waiting: dict[object, _Wait] = {}
        self._changing = threading.Lock()

    def add(self) -> None:
        """Wrap ``Pool.connect``."""
        with self._changing:
            if self._outer is None:
                self._inner = inner = Pool.connect

                def connect(self_: Pool) -> PoolProxiedConnection:
                    if _must_wait(self_):
                        with self._watched(self_):
                            return inner(self_)
                    return inner(self_)

                self._outer = connect
                Pool.connect = connect  # type: ignore[assignment, method-assign]

    def remove(self) -> None:
        """Put ``Pool.connect`` back; inside somebody else's wrapper ours stays."""
        with self._changing:
            if self._outer is not None and self._inner is not None and Pool.connect is self._outer:
                Pool.connect = self._inner  # type: ignore[assignment, method-assign]
                self._outer = self._inner = None
            self._waiting.clear()

    @contextmanager
    def _watched(self, pool: Pool) -> Iterator[None]:
        key, wait = object(), _Wait(pool, time.monotonic(), current(), self._here())
        on_loop = not pool._dialect.is_async and _on_loop()  # noqa: SLF001
        self._waiting[key] = wait
        try:
            yield
        except exc.TimeoutError:
            waited = time.monotonic() - wait.began
            self._report("pool-exhausted", detail=f"waited {waited:.1f} s in vain", age=waited)
            raise
        finally:
            self._waiting.pop(key, None)
            if on_loop:
                waited = time.monotonic() - wait.began
                detail = f"blocked the event loop for {waited * 1e3:.1f} ms"
                self._report("pool-wait-on-loop", detail=detail, age=waited)

    def overdue(self, limit: float) -> None:
        """Report who has waited for longer than ``limit`` seconds, once each."""
        now = time.monotonic()
        for wait in list(self._waiting.values()):
            if not wait.told and now - wait.began >= limit:
                wait.told = True
                self._report(
                    "pool-exhausted",
                    detail=f"waits for a connection: {wait.pool.status()}",
                    age=now - wait.began,
                    severity="warning",
                    here=wait.here,
                    owner=wait.owner,
                )


@dataclass
class _Wait:
    pool: Pool
    began: float
    owner: Owner | None
    here: str
    told: bool = False


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
