"""Puts turnwise around engines, and takes it away again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy.engine import Engine

from turnwise.attempts import checked_overrides
from turnwise.errors import InvalidSettingError
from turnwise.sqlalchemy import interception, lost_writes, sorting, sqlite_turns
from turnwise.sqlalchemy.guard import Guard
from turnwise.sqlalchemy.guard_mysql import MysqlGuard
from turnwise.sqlalchemy.guard_postgresql import AsyncpgGuard, PostgresqlGuard
from turnwise.sqlalchemy.guard_sqlite import SqliteGuard
from turnwise.sqlalchemy.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from turnwise._native import Override

T = TypeVar("T")

_GUARDS: dict[str, type[Guard]] = {
    "sqlite": SqliteGuard,
    "asyncpg": AsyncpgGuard,
    "postgresql": PostgresqlGuard,
    "mysql": MysqlGuard,
    "mariadb": MysqlGuard,
}


def install(
    engine: T,
    *,
    strict: bool = False,
    begin: str = "auto",
    timeout: float | None = None,
    overrides: Sequence[Override] = (),
) -> T:
    """Make the losses that databases and drivers keep quiet about errors. Returns the engine.

    Takes an ``Engine``, an ``AsyncEngine``, or Flask-SQLAlchemy's extension object within an
    application context (all its engines). What shares the engine's dialect, such as an engine with
    other execution options, is installed with it. Installing again only changes the settings.

    ``strict``: a commit without statements, after a rollback that threw writes away because of an
    error, raises ``WritesLostError`` besides being logged. ``begin`` and ``timeout``: when SQLite
    takes its turn, and the seconds that it waits for it; see ``turnwise.sqlalchemy.sqlite_turns``.
    ``overrides``: rules that win over the table of errors; the first that fits.

    Raises:
        TypeError: it is no engine, or a setting is unknown.
        InvalidSettingError: a setting is out of range.
        UnsupportedServerError: turnwise does not know the database.
    """
    if begin not in sqlite_turns.BEGINS:
        raise InvalidSettingError(
            f"begin is one of {', '.join(sqlite_turns.BEGINS)}, not {begin!r}"
        )
    if not isinstance(strict, bool):
        raise TypeError(f"strict is True or False, not {strict!r}")
    settings = Settings(strict, begin, timeout, checked_overrides(overrides))
    for one in engines_of(engine):
        _install(one, settings)
    return engine


def uninstall(engine: object) -> None:
    """Leave the engine as it was before ``install``. Harmless if it is not installed.

    To be called while no transaction of the engine is open.
    """
    for one in engines_of(engine):
        _uninstall(one)


def is_installed(engine: object) -> bool:
    """Whether all engines of the object are installed."""
    return all(
        interception.layer_of(one.dialect, "guard") is not None for one in engines_of(engine)
    )


def engines_of(target: Any) -> list[Engine]:
    """The engines that an engine, an async engine or an extension object stands for.

    Raises:
        TypeError: it is none of these.
    """
    # An engine with other execution options shares all with the one that it is of.
    while isinstance(of := getattr(target, "_proxied", None), Engine):
        target = of
    if isinstance(target, Engine):
        return [target]
    if isinstance(sync := getattr(target, "sync_engine", None), Engine):
        return [sync]
    if isinstance(engines := getattr(target, "engines", None), Mapping):
        return [engine for engine in engines.values() if isinstance(engine, Engine)]
    raise TypeError(
        "an Engine, an AsyncEngine or Flask-SQLAlchemy's extension object is needed, "
        f"not {type(target).__name__}"
    )


def _install(engine: Engine, settings: Settings) -> None:
    dialect = engine.dialect
    guard = interception.layer_of(dialect, "guard")
    if guard is not None:
        if guard.settings == settings:
            return
        _uninstall(engine)
    kind = _GUARDS.get(dialect.driver) or _GUARDS.get(dialect.name, Guard)
    title = engine.url.render_as_string(hide_password=True)
    if dialect.name == "sqlite":
        turns = sqlite_turns.layer(engine, begin=settings.begin, timeout=settings.timeout)
        turns.attach()
        interception.add(dialect, "sqlite_turns", turns)
    interception.add(dialect, "sorting", sorting.layer())
    interception.add(dialect, "guard", kind(dialect, settings, title))
    lost_writes.watch(dialect)


def _uninstall(engine: Engine) -> None:
    dialect = engine.dialect
    guard = interception.layer_of(dialect, "guard")
    if guard is None:
        return
    lost_writes.unwatch(dialect)
    interception.remove(dialect, "guard")
    interception.remove(dialect, "sorting")
    turns = interception.layer_of(dialect, "sqlite_turns")
    if turns is not None:
        turns.detach()  # Statements that run meanwhile find the driver's own busy timeout.
        interception.remove(dialect, "sqlite_turns")
