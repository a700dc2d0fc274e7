"""Owners of tasks, engines of worker processes, and the sessions that tasks leave open."""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

from celery import signals  # type: ignore[import-untyped]
from celery.local import Proxy  # type: ignore[import-untyped]
from sqlalchemy.pool import Pool

from turnwise.sqlalchemy import sessions
from turnwise.sqlalchemy.installing import engines_of
from turnwise.sqlalchemy.left_open import connection_of, left_open
from turnwise.tracking import forks, owners, watching

if TYPE_CHECKING:
    from celery import Celery, Task
    from sqlalchemy.engine import Engine
    from sqlalchemy.orm import Session

_BY = "celery"
_RUN = "_turnwise_run"


class _Run(NamedTuple):
    """One execution of a task. ``mark`` is of ``time.monotonic_ns()``."""

    token: Any
    mark: int


def setup(app: Celery, *engines: Any, close_sessions: bool = False, **settings: Any) -> None:  # noqa: ANN401 - as `watch`
    """Have each task of an application own its leases, and its workers be safe to fork.

    ``engines``: engines, async engines or Flask-SQLAlchemy's extension object that the tasks use;
    a worker process begins with new pools for them. Without any, all engines are watched, and what
    a worker process has inherited is taken out of their pools. To be called where the application
    is made, before an engine has connected, in the worker and wherever tasks run eagerly.

    A session that was begun in a task and is still open at its end is reported as
    ``session-left-open``; with ``close_sessions`` it is also closed, and what it has not committed
    is rolled back. ``settings`` are those of ``turnwise.watch``. Calling it again takes the
    settings and engines of the last call.

    Raises:
        TypeError: One is no engine, or a setting is unknown.
    """
    app = _unwrapped(app)
    found = [one for target in engines for one in engines_of(target)]
    if not isinstance(close_sessions, bool):
        raise TypeError(f"close_sessions is True or False, not {close_sessions!r}")
    before = _setups.get(app)
    was_watching = watching.is_watching() if before is None else before.was_watching
    if not found:
        watching.watch(**settings)
    for engine in found:
        watching.watch(engine, **settings)
    sessions.watch()
    if before is not None:
        before.detach()
    _setups[app] = _Setup(app, found, close_sessions=close_sessions, was_watching=was_watching)


def teardown(app: Celery) -> None:
    """End what ``setup`` began. Harmless if nothing was.

    Tracking goes on if it was on before ``setup``, or another application still needs it.
    """
    mine = _setups.pop(_unwrapped(app), None)
    if mine is not None:
        mine.detach()
        if not mine.was_watching and not _setups:
            watching.unwatch()


class _Setup:
    """What one application is connected to."""

    def __init__(
        self, app: Celery, engines: list[Engine], *, close_sessions: bool, was_watching: bool
    ) -> None:
        self.was_watching = was_watching
        self._app = weakref.ref(app)
        self._engines = engines
        self._guarded: list[Any] = [*engines] or [Pool]
        self._close_sessions = close_sessions
        self._by = f"{_BY}-{id(self)}"
        for target in self._guarded:
            forks.guard_forks(target, by=self._by)
        forks.renew_in_children(engines)
        signals.task_prerun.connect(self._begin, weak=False)
        signals.task_postrun.connect(self._end, weak=False)
        signals.worker_process_init.connect(self._begin_process, weak=False)

    def detach(self) -> None:
        signals.task_prerun.disconnect(self._begin)
        signals.task_postrun.disconnect(self._end)
        signals.worker_process_init.disconnect(self._begin_process)
        forks.keep_in_children(self._engines)
        for target in self._guarded:
            forks.unguard_forks(target, by=self._by)

    def _begin(self, task: Task, task_id: str, **details: object) -> None:
        # Celery keeps one request for each execution, nested ones too.
        if task.app is self._app():
            _be_last(signals.task_postrun, self._end)
            token = owners.begin("task", task.name, id=task_id)
            vars(task.request)[_RUN] = _Run(token, time.monotonic_ns())

    def _end(self, task: Task, **details: object) -> None:
        run = vars(task.request).pop(_RUN, None) if task.app is self._app() else None
        if run is None:
            return
        try:
            for session, site in left_open(run.mark):
                self._report(session, site, task.name)
        finally:
            owners.end(run.token)

    def _report(self, session: Session, site: str, name: str) -> None:
        watching.report(
            "session-left-open",
            detail=f"the task {name} has not closed the session begun at {site}",
            connection=connection_of(session),
        )
        if self._close_sessions:
            try:
                session.close()
            except Exception:  # noqa: BLE001 - an asynchronous one, or the server is gone
                session.invalidate()

    def _begin_process(self, **details: object) -> None:
        forks.renew_now()


def _be_last(signal: Any, receiver: object) -> None:  # noqa: ANN401 - Celery is not typed
    """Have a signal call the application's receivers before: some of them close its sessions."""
    if signal.receivers[-1][1] != receiver:
        with signal.lock:
            # Never absent: a task of another thread may end meanwhile.
            at = [one for _, one in signal.receivers].index(receiver)
            signal.receivers.append(signal.receivers[at])
            del signal.receivers[at]


def _unwrapped(app: Any) -> Any:  # noqa: ANN401 - Celery is not typed
    """The application behind a proxy such as ``current_app``."""
    return app._get_current_object() if isinstance(app, Proxy) else app  # noqa: SLF001 - the only way


_setups: weakref.WeakKeyDictionary[Any, _Setup] = weakref.WeakKeyDictionary()
