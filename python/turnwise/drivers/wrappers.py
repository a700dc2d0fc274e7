"""What SQLAlchemy's exceptions tell beside the driver's error inside. Imports none of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import FrameType

_PHASES = {
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
_FIRST_WORDS = {
    "BEGIN": "begin",
    "START": "begin",
    "COMMIT": "commit",
    "END": "commit",
    "ROLLBACK": "rollback",
    "SAVEPOINT": "savepoint",
    "RELEASE": "savepoint",
}


class Wrapping(NamedTuple):
    """What one of SQLAlchemy's exceptions says about the error inside it."""

    names: frozenset[str]
    """The class and its bases, as far as they are SQLAlchemy's."""
    phase: str | None = None
    dialect: str | None = None
    is_lost: bool = False
    is_autocommit: bool = False
    """Every statement was its own transaction."""


def read(error: BaseException) -> Wrapping | None:
    """What the exception tells if it is one of SQLAlchemy's, `None` if it is not."""
    names = frozenset(
        cls.__name__
        for cls in type(error).__mro__
        if (cls.__module__ or "") in {"sqlalchemy.exc", "sqlalchemy.orm.exc"}
    )
    if not names:
        return None
    if "DBAPIError" not in names:
        return Wrapping(names)
    connection, dialect = _connection(error)
    name = getattr(dialect, "name", None)
    return Wrapping(
        names,
        _phase(error),
        # The two share drivers; the dialect has asked the server.
        "mariadb" if getattr(dialect, "is_mariadb", False) else name,
        is_lost=bool(getattr(error, "connection_invalidated", False)),
        is_autocommit=_is_autocommit(connection, dialect),
    )


def original_of(error: BaseException) -> BaseException | None:
    """The error that a `PendingRollbackError` only quotes: the session keeps it."""
    for frame in _frames(error):
        if frame.f_code.co_name == "_raise_for_prerequisite_state":
            kept = getattr(frame.f_locals.get("self"), "_rollback_exception", None)
            return kept if isinstance(kept, BaseException) else None
    return None


def _phase(error: BaseException) -> str | None:
    """From the statement; without one, from the dialect's functions in the traceback.

    The innermost decides: a session's `commit()` may fail at BEGIN.
    """
    statement = getattr(error, "statement", None)
    if isinstance(statement, str):
        words = statement.upper().replace(";", " ").split(None, 3)
        phase = _FIRST_WORDS.get(words[0] if words else "", "statement")
        return "savepoint" if phase == "rollback" and "TO" in words else phase
    found = None
    for frame in _frames(error):
        name = frame.f_code.co_name
        if name == "connect" and _module(frame) == "sqlalchemy.engine.default":
            found = "connect"
        else:
            found = _PHASES.get(name, found)
    return found


def _connection(error: BaseException) -> tuple[object, object]:
    """SQLAlchemy's connection and dialect; the exception names neither, its traceback does."""
    for frame in _frames(error):
        if _module(frame) == "sqlalchemy.engine.base":
            known = frame.f_locals
            connection = known.get("self")
            dialect = known.get("dialect") or getattr(connection, "dialect", None)
            if dialect is not None:
                return connection, dialect
    return None, None


def _is_autocommit(connection: object, dialect: object) -> bool:
    """Set for the connection or its engine, else when the engine was made."""
    options: Mapping[str, object] = getattr(connection, "get_execution_options", dict)()
    level = options.get("isolation_level") or getattr(dialect, "_on_connect_isolation_level", None)
    return level == "AUTOCOMMIT"


def _frames(error: BaseException) -> Iterator[FrameType]:
    traceback = error.__traceback__
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
