"""What SQLAlchemy's exceptions tell beside the driver's error inside. Imports none of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
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
    return Wrapping(
        names,
        _phase(error),
        _dialect(error),
        is_lost=bool(getattr(error, "connection_invalidated", False)),
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


def _dialect(error: BaseException) -> str | None:
    """MySQL or MariaDB, which share drivers, as the dialect in the traceback has found out."""
    for frame in _frames(error):
        if _module(frame) != "sqlalchemy.engine.base":
            continue
        known = frame.f_locals
        dialect = known.get("dialect") or getattr(known.get("self"), "dialect", None)
        name = getattr(dialect, "name", None)
        if name in {"mysql", "mariadb"}:
            return "mariadb" if getattr(dialect, "is_mariadb", False) else "mysql"
    return None


def _frames(error: BaseException) -> Iterator[FrameType]:
    traceback = error.__traceback__
    while traceback is not None:
        yield traceback.tb_frame
        traceback = traceback.tb_next


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
