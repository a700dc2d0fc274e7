"""What SQLAlchemy's exceptions tell beside the driver's error inside. Imports none of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from turnwise._words import phase_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_PHASES = {
    "do_execute": "statement",
    "do_executemany": "statement",
    "do_execute_no_params": "statement",
    "do_begin": "begin",
    "do_begin_twophase": "begin",
    "do_commit": "commit",
    "do_commit_twophase": "commit",
    "do_prepare_twophase": "commit",
    "do_rollback": "rollback",
    "do_rollback_twophase": "rollback",
    "do_savepoint": "savepoint",
    "do_release_savepoint": "savepoint",
    "do_rollback_to_savepoint": "savepoint",
    "_begin_impl": "begin",
    "_begin_twophase_impl": "begin",
    "_commit_impl": "commit",
    "_commit_twophase_impl": "commit",
    "_prepare_twophase_impl": "commit",
    "_rollback_impl": "rollback",
    "_rollback_twophase_impl": "rollback",
}


class Wrapping(NamedTuple):
    """What an exception says about the driver's error that it wraps."""

    names: frozenset[str]
    """The class and its bases, as far as they are SQLAlchemy's."""
    phase: str | None
    """By the statement; `None` without one."""
    is_lost: bool


class Trace(NamedTuple):
    """What SQLAlchemy was doing when an exception came, by the traceback."""

    phase: str | None = None
    dialect: str | None = None
    is_autocommit: bool = False
    """Every statement was its own transaction."""


def read(error: BaseException) -> Wrapping | None:
    """What the exception tells if it is one of SQLAlchemy's, `None` if it is not."""
    names = frozenset(
        cls.__name__
        for cls in type(error).__mro__
        if cls.__module__ in {"sqlalchemy.exc", "sqlalchemy.orm.exc"}
    )
    if not names:
        return None
    statement = getattr(error, "statement", None)
    return Wrapping(
        names,
        phase_of(statement) if isinstance(statement, str) else None,
        is_lost=bool(getattr(error, "connection_invalidated", False)),
    )


def trace(error: BaseException) -> Trace:
    """What the traceback tells. The innermost function decides: a `commit()` may fail at BEGIN.

    SQLAlchemy's exceptions do not say which dialect and connection they come from, and some errors
    of asyncpg and pg8000 pass through it as they are.
    """
    phase = connection = dialect = None
    for frame in _frames(error):
        name, module = frame.f_code.co_name, frame.f_globals.get("__name__")
        if name == "connect" and module == "sqlalchemy.engine.default":
            phase = "connect"
        else:
            phase = _PHASES.get(name, phase)
        if dialect is None and module == "sqlalchemy.engine.base":
            connection = frame.f_locals.get("self")
            dialect = frame.f_locals.get("dialect") or getattr(connection, "dialect", None)
    is_autocommit = commits_itself(connection, dialect)
    if is_autocommit and phase == "rollback":
        # It has nothing to roll back, and hides the error of the statement before it.
        phase = "statement"
    # MySQL and MariaDB share drivers; the dialect has asked the server.
    is_mariadb = getattr(dialect, "is_mariadb", False)
    return Trace(phase, "mariadb" if is_mariadb else getattr(dialect, "name", None), is_autocommit)


def original_of(error: BaseException) -> BaseException | None:
    """The error that a `PendingRollbackError` only quotes: the session keeps it."""
    for frame in _frames(error):
        if frame.f_code.co_name == "_raise_for_prerequisite_state":
            kept = getattr(frame.f_locals.get("self"), "_rollback_exception", None)
            return kept if isinstance(kept, BaseException) else None
    return None


def commits_itself(connection: Any, dialect: object) -> bool:  # noqa: ANN401 - not imported
    """Whether AUTOCOMMIT was set for the connection or its engine, else when that was made."""
    try:
        level = connection.get_execution_options().get("isolation_level")
    except AttributeError:
        # There is no connection, or it is being made.
        level = None
    return (level or getattr(dialect, "_on_connect_isolation_level", None)) == "AUTOCOMMIT"


def _frames(error: BaseException) -> Iterator[FrameType]:
    traceback = error.__traceback__
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next
