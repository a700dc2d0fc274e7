"""How the tracker is told of what SQLAlchemy does."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, event
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.orm import Session
from sqlalchemy.pool import Pool, SingletonThreadPool, StaticPool

from turnwise._native import StatementHook
from turnwise.drivers.backends import backend_pid
from turnwise.sqlalchemy import interception

if TYPE_CHECKING:
    from turnwise._native import NativeTracker

_LAYER = "tracker"


class Hooks:
    """Listeners of a tracker, on every pool and session or on those of some engines."""

    def __init__(self, tracker: NativeTracker) -> None:
        self._tracker = tracker
        # SQLAlchemy knows a listener by its identity, and a bound method is a new object each time.
        self._of_session: tuple[tuple[str, Any], ...] = (
            ("after_transaction_create", tracker.on_transaction),
            ("after_begin", tracker.on_after_begin),
        )
        self._of_pool: tuple[tuple[str, Any], ...] = (
            ("checkout", tracker.on_checkout),
            ("reset", tracker.on_reset),
            ("checkin", tracker.on_checkin),
            ("close", closes := tracker.on_close),
            ("detach", closes),
            ("invalidate", tracker.on_invalidate),
        )
        self._changing = threading.RLock()
        self.everywhere = False
        """Whether every engine is listened to, and not some alone."""
        self._engines: weakref.WeakSet[Engine] = weakref.WeakSet()
        self._dialects: weakref.WeakSet[DefaultDialect] = weakref.WeakSet()

    @property
    def on(self) -> bool:
        """Whether anything is listened to."""
        return self.everywhere or bool(self._engines)

    def add(self, engine: Engine | None) -> list[Engine]:
        """Listen to an engine, or to everything; returns engines that are part of everything now.

        Twice is as good as once.
        """
        with self._changing:
            if self.everywhere or (engine is not None and engine in self._engines):
                return []
            if not self.on:
                for name, listener in self._of_session:
                    event.listen(Session, name, listener)
            if engine is not None:
                self._engines.add(engine)
                self._listen(engine)
                return []
            left = list(self._engines)
            for known in left:
                self._leave(known)
            self._engines.clear()
            self.everywhere = True
            self._listen(Pool)
            return left

    def remove(self, engine: Engine | None = None) -> list[Engine | type[Pool]]:
        """Listen to an engine no more, or to nothing any more; what was listened to until now."""
        with self._changing:
            left: list[Engine | type[Pool]] = [
                known for known in self._engines if engine in (None, known)
            ]
            if self.everywhere:
                left = [Pool]
            for target in left:
                self._leave(target)
            self.everywhere = False
            self._engines -= set(left)
            if not self.on:
                for name, listener in self._of_session:
                    if event.contains(Session, name, listener):
                        event.remove(Session, name, listener)
                for dialect in list(self._dialects):
                    interception.remove(dialect, _LAYER)
                self._dialects.clear()
                self._tracker.forget()
            return left

    def _listen(self, target: Engine | type[Pool]) -> None:
        for name, listener in self._of_pool:
            event.listen(target, name, listener)

    def _leave(self, target: Engine | type[Pool]) -> None:
        for name, listener in self._of_pool:
            if event.contains(target, name, listener):
                event.remove(target, name, listener)

    def adopt(self, connection: Any, record: Any, fairy: Any) -> tuple[str, int] | None:
        """A new connection's pool, and the server's number; the dialect gets its layer."""
        pool = fairy._pool  # noqa: SLF001 - the proxy has no other way to its pool
        dialect = pool._dialect  # noqa: SLF001 - nor a pool to its dialect
        if not isinstance(dialect, DefaultDialect):
            return None
        with self._changing:
            if dialect not in self._dialects:
                self._dialects.add(dialect)
                hook = StatementHook(
                    self._tracker,
                    is_async=dialect.is_async,
                    is_memory=isinstance(pool, SingletonThreadPool | StaticPool),
                    aborts=dialect.name == "postgresql",
                    autocommits=getattr(dialect, "_on_connect_isolation_level", None)
                    == "AUTOCOMMIT",
                )
                interception.add(dialect, _LAYER, hook)
        name = pool.logging_name or f"{dialect.name}+{dialect.driver}"
        return name, backend_pid(record.driver_connection)
