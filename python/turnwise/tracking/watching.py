"""Watching sessions: switched on, asked, and switched off."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy.pool import Pool

from turnwise._native import Finding, Lease, NativeTracker
from turnwise.errors import FindingError, InvalidSettingError
from turnwise.sqlalchemy.pool_waits import Waits
from turnwise.sqlalchemy.tracker import Hooks
from turnwise.tracking import owners, places, reporting_socket
from turnwise.tracking.forks import guard_forks, unguard_forks

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from types import FrameType

    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    Hook = Callable[[Finding], object]

_LOG = logging.getLogger("turnwise.findings")
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

# How often the watchdog looks, in seconds.
_TICK = 0.25
# Findings that `turnwise top` is told.
_REPORTED = 50


class Settings(NamedTuple):
    """How sessions are watched: the settings of ``watch``."""

    strict: bool | Callable[[Finding], object] = False
    log: bool = True
    idle_in_transaction: float = 5.0
    task_idle_in_transaction: float = 60.0
    lock_held: float = 2.0
    grace: float = 1.0
    pool_wait: float = 1.0
    sites: str = "checkout"
    ignore: frozenset[str] = frozenset()
    dump_signal: int | None = None
    serve: bool = False


class Leases(tuple[Lease, ...]):
    """The leases that are out, the oldest first. ``str()`` is a table of them."""

    __slots__ = ()

    def __str__(self) -> str:
        return Lease.table(self)

    def json(self) -> str:
        """The leases as a JSON array."""
        return f"[{', '.join(lease.json() for lease in self)}]"


class Subscription:
    """A hook that is called with every finding, until it is cancelled."""

    def __init__(self, hook: Hook) -> None:
        self.hook = hook

    def cancel(self) -> None:
        """Call the hook no more."""
        _watcher.subscriptions = tuple(one for one in _watcher.subscriptions if one is not self)


class _Watcher:
    """What watches this process."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.subscriptions: tuple[Subscription, ...] = ()
        self.native = NativeTracker(owners.current, self, places)
        self.hooks = Hooks(self.native)
        self.waits = Waits(self.report, self.native.here)
        self._changing = threading.RLock()
        self._stop: threading.Event | None = None
        self._handlers: dict[int, Any] = {}
        os.register_at_fork(after_in_child=self._after_fork)

    def adopt(self, connection: object, record: object, fairy: object) -> tuple[str, int] | None:
        return self.hooks.adopt(connection, record, fairy)

    def start(self, engine: Engine | None, settings: Settings) -> None:
        with self._changing:
            self.native.configure(
                idle_in_transaction=settings.idle_in_transaction,
                task_idle_in_transaction=settings.task_idle_in_transaction,
                lock_held=settings.lock_held,
                grace=settings.grace,
                each_site=settings.sites == "statement",
                strict=bool(settings.strict),
            )
            self.settings = settings
            for left in self.hooks.add(engine):
                unguard_forks(left)
            self.waits.add()
            guard_forks(Pool if self.hooks.everywhere else engine)
            if settings.serve:
                reporting_socket.serve(self._document)
            if self._stop is None:
                self._run()
            if settings.dump_signal is not None:
                self._handle(settings.dump_signal)

    def stop(self, engine: Engine | None) -> None:
        with self._changing:
            for target in self.hooks.remove(engine):
                unguard_forks(target)
            if self.hooks.on:
                return
            reporting_socket.stop()
            self.waits.remove()
            if self._stop is not None:
                self._stop.set()
                self._stop = None
            for number, before in self._handlers.items():
                if signal.getsignal(number) == self._dump:
                    signal.signal(number, before)
            self._handlers.clear()
            self.settings = Settings()

    def _document(self) -> str:
        """What `turnwise top` reads."""
        newest = ", ".join(finding.json() for finding in findings()[-_REPORTED:])
        return (
            f'{{"version": 1, "pid": {os.getpid()}, "argv0": {json.dumps(sys.argv[0])}, '
            f'"leases": {leases().json()}, "findings": [{newest}]}}'
        )

    def _run(self) -> None:
        self._stop = threading.Event()
        arguments = (self._stop,)
        threading.Thread(
            target=self._watch, args=arguments, name="turnwise-watchdog", daemon=True
        ).start()

    def _watch(self, stop: threading.Event) -> None:
        while not stop.wait(_TICK):
            self.native.scan()
            self.waits.overdue(self.settings.pool_wait)

    def _after_fork(self) -> None:
        self.native.forget()
        if self._stop is not None:
            self._run()

    def _handle(self, number: int) -> None:
        if number not in self._handlers:
            self._handlers[number] = signal.signal(number, self._dump)

    def _dump(self, number: int, frame: FrameType | None) -> None:
        sys.stderr.write(f"{leases()}\n")
        before = self._handlers.get(number)
        if callable(before):
            before(number, frame)

    def tell(self, finding: Finding, reported: bool) -> None:  # noqa: FBT001 - native calls it so
        settings = self.settings
        if finding.code in settings.ignore:
            return
        for subscription in self.subscriptions:
            try:
                subscription.hook(finding)
            except Exception:  # noqa: BLE001 - a hook must not break the application
                _LOG.exception("a hook of on_finding failed")
        if settings.log and reported:
            again = f" (and {finding.repeats} more since)" if finding.repeats else ""
            _LOG.log(_LEVELS[finding.severity], "%s%s", finding.text, again)
            if finding.code == "pool-exhausted":
                _LOG.log(_LEVELS[finding.severity], "who holds connections:\n%s", leases())
        strict = settings.strict
        if (
            strict
            and finding.exact
            and finding.severity != "info"
            and (strict is True or strict(finding))
        ):
            raise FindingError(finding.text, finding=finding)

    def report(self, code: str, *, connection: object = None, **facts: Any) -> None:
        driver = getattr(connection, "dbapi_connection", connection)
        try:
            self.native.report(code, connection=driver, **facts)
        except FindingError:
            # Nothing was sent that could be held back here.
            pass


_watcher = _Watcher()


def watch(
    engine: Engine | AsyncEngine | None = None,
    *,
    strict: bool | Callable[[Finding], object] = False,
    log: bool = True,
    idle_in_transaction: float = 5.0,
    task_idle_in_transaction: float = 60.0,
    lock_held: float = 2.0,
    grace: float = 1.0,
    pool_wait: float = 1.0,
    sites: str = "checkout",
    ignore: Collection[str] = (),
    dump_signal: int | None = None,
    serve: bool = False,
) -> None:
    """Know who holds sessions: of one engine, or of all that there are and will be.

    Findings go to the logger ``turnwise.findings``, to ``findings()`` and to the hooks of
    ``on_finding``. Calling it again changes the settings.

    Args:
        engine: Only this one's.
        strict: Raise ``FindingError`` for exact findings, before the statement is sent. A function
            is asked about each, and returns whether to raise it.
        log: Write findings to the logger, each kind and place once a minute.
        idle_in_transaction: Seconds that a request's transaction may be open without a statement.
        task_idle_in_transaction: The same for tasks, jobs and what has no owner.
        lock_held: Seconds that the locks of a write may be held without a statement.
        grace: Seconds that a lease may outlive its owner.
        pool_wait: Seconds that somebody may wait for a connection.
        sites: ``"checkout"`` keeps the line that took a connection; ``"statement"`` also the line
            of each statement, for about 0.3 us more.
        ignore: Codes of findings that are not wanted.
        dump_signal: A signal that prints the leases to stderr, and then does what it did before.
            Only from the main thread.
        serve: Tell ``turnwise top`` of this user what is known, on a Unix socket.

    Raises:
        InvalidSettingError: a setting is out of range, or no finding has an ignored code.
    """
    if sites not in ("checkout", "statement"):
        raise InvalidSettingError(f'sites is "checkout" or "statement", not {sites!r}')
    from turnwise._native import enums

    codes = set(enums()["FindingCode"])
    for code in ignore:
        if code not in codes:
            raise InvalidSettingError(
                f"no finding has the code {code!r}; there are {sorted(codes)}"
            )
    settings = Settings(
        strict=strict,
        log=log,
        idle_in_transaction=idle_in_transaction,
        task_idle_in_transaction=task_idle_in_transaction,
        lock_held=lock_held,
        grace=grace,
        pool_wait=pool_wait,
        sites=sites,
        ignore=frozenset(ignore),
        dump_signal=dump_signal,
        serve=serve,
    )
    try:
        _watcher.start(_sync(engine), settings)
    except ValueError as error:
        raise InvalidSettingError(str(error)) from None


def watch_also(engine: Engine | AsyncEngine | None = None, **settings: Any) -> None:
    """As ``watch``, but without settings those stay that somebody else may have chosen."""
    if settings:
        watch(engine, **settings)
    else:
        _watcher.start(_sync(engine), _watcher.settings)


def current_settings() -> Settings:
    """The settings of the last ``watch``."""
    return _watcher.settings


def unwatch(engine: Engine | AsyncEngine | None = None) -> None:
    """Watch one engine no more, or nothing: no listener, wrapper, thread or handler is left."""
    _watcher.stop(_sync(engine))


def is_watching() -> bool:
    """Whether anything is watched."""
    return _watcher.hooks.on


def leases() -> Leases:
    """The connections that are out: whose they are, since when, and from which line."""
    return Leases(_watcher.native.leases())


def findings() -> tuple[Finding, ...]:
    """The newest 1,000 findings, the oldest of them first."""
    return tuple(_watcher.native.findings())


def clear_findings() -> None:
    """Forget the findings, and what was logged."""
    _watcher.native.clear()


def on_finding(hook: Hook) -> Subscription:
    """Call a function with every finding, in the thread where it is found, before it is raised."""
    subscription = Subscription(hook)
    _watcher.subscriptions = (*_watcher.subscriptions, subscription)
    return subscription


def report(
    code: str,
    *,
    detail: str = "",
    connection: object = None,
    age: float | None = None,
    severity: str | None = None,
) -> None:
    """Note a finding that was made outside of the tracker, while watching. Never raises.

    Args:
        code: Of the finding.
        detail: What else there is to say.
        connection: The pool's record, or the driver's connection, whose lease is named.
        age: For how many seconds it had lasted.
        severity: Where it is not the code's own.
    """
    if _watcher.hooks.on:
        _watcher.report(
            code, detail=detail, connection=connection, age=age or 0.0, severity=severity
        )


def _sync(engine: Engine | AsyncEngine | None) -> Engine | None:
    if engine is None:
        return None
    found: Engine = getattr(engine, "sync_engine", engine)  # type: ignore[arg-type]
    return found


__all__ = [
    "Leases",
    "Settings",
    "Subscription",
    "clear_findings",
    "current_settings",
    "findings",
    "is_watching",
    "leases",
    "on_finding",
    "report",
    "unwatch",
    "watch",
    "watch_also",
]
