"""The exceptions of turnwise.

Every exception is a ``TurnwiseError`` and, where Python or its ``sqlite3`` module has an exception
of the same meaning, that one too, so that existing ``except`` clauses go on working. The class of a
kind is named ``<Kind>Error``; its number is the same in every language.
"""

from __future__ import annotations

import functools
import sqlite3
from typing import ClassVar, Literal, cast

from turnwise import _native

State = Literal["transient", "permanent", "exhausted"]

_CODES = _native.enums()["ErrorKind"]
_STATES = _native.error_states()
_PRIMARY_CODES = (
    "ERROR INTERNAL PERM ABORT BUSY LOCKED NOMEM READONLY INTERRUPT IOERR CORRUPT NOTFOUND FULL "
    "CANTOPEN PROTOCOL EMPTY SCHEMA TOOBIG CONSTRAINT MISMATCH MISUSE NOLFS AUTH FORMAT RANGE "
    "NOTADB NOTICE WARNING"
)


class TurnwiseError(Exception):
    """The root of every exception that turnwise raises on its own account."""

    kind: ClassVar[str] = ""
    """The kind's name, such as ``"LockTimeout"``; empty for the root."""
    code: ClassVar[int] = 0
    """The kind's number; 0 for the root."""
    state: ClassVar[State] = "permanent"
    """``"transient"``: trying again may help. ``"permanent"``: it does not. ``"exhausted"``: it was
    tried again until the policy gave up."""

    sqlite_errorcode: int | None
    """SQLite's extended result code, where SQLite spoke."""
    attempts: int
    """Attempts made before giving up; 0 where nothing was retried."""

    def __init__(
        self, message: str = "", *, sqlite_errorcode: int | None = None, attempts: int = 0
    ) -> None:
        super().__init__(message)
        self.sqlite_errorcode = sqlite_errorcode
        self.attempts = attempts

    @property
    def sqlite_errorname(self) -> str | None:
        """The name of that code, as Python's ``sqlite3`` has it from Python 3.11 on; or ``None``.

        ``"unknown"`` where this Python's ``sqlite3`` has no name for the code.
        """
        names = _sqlite_names()
        if self.sqlite_errorcode is None or not names:
            return None
        return names.get(self.sqlite_errorcode, "unknown")

    def __init_subclass__(cls, **settings: object) -> None:
        """Take number and state from the core, which owns them."""
        super().__init_subclass__(**settings)
        kind = cls.__name__.removesuffix("Error")
        if kind in _CODES:
            cls.kind, cls.code = kind, _CODES[kind]
            cls.state = cast("State", _STATES[kind])

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the details across processes."""
        return _rebuild, (type(self), str(self), self.sqlite_errorcode, self.attempts)


@functools.cache
def _sqlite_names() -> dict[int, str]:
    """The names of the result codes; none in Python 3.10.

    The module's other constants share their numbers: an extended code begins with its primary one.
    """
    constants = {
        name: value
        for name, value in vars(sqlite3).items()
        if name.startswith("SQLITE_") and isinstance(value, int)
    }
    primary = {code: f"SQLITE_{name}" for code, name in enumerate(_PRIMARY_CODES.split(), 1)}
    return {
        code: name
        for name, code in constants.items()
        if name == primary.get(code)
        or (code > 0xFF and name.startswith(f"{primary.get(code & 0xFF, name)}_"))
    }


def _rebuild(
    cls: type[TurnwiseError], message: str, sqlite_errorcode: int | None, attempts: int
) -> TurnwiseError:
    return cls(message, sqlite_errorcode=sqlite_errorcode, attempts=attempts)


class InvalidPolicyError(TurnwiseError, ValueError):
    """A retry policy setting is out of range."""


class InvalidSettingError(TurnwiseError, ValueError):
    """A writer setting is out of range or unknown."""


class UnsupportedParameterError(TurnwiseError, TypeError):
    """A parameter has a type that SQLite cannot store. Names its position or key."""


class ParameterOutOfRangeError(TurnwiseError, OverflowError, ValueError):
    """An integer beyond 64 bits, or text that is not Unicode. Names its position or key."""


class ParameterMismatchError(TurnwiseError, sqlite3.ProgrammingError):
    """The statement wants another number of parameters, or another name."""


class StatementNotAllowedError(TurnwiseError, sqlite3.ProgrammingError):
    """The statement would end or change the transaction that other writes share."""


class NotOneStatementError(TurnwiseError, sqlite3.ProgrammingError):
    """The SQL text holds no statement, or more than one."""


class StatementError(TurnwiseError, sqlite3.OperationalError):
    """SQLite refused the statement: a syntax error, an unknown column or function."""


class NoSuchTableError(TurnwiseError, sqlite3.OperationalError):
    """The table does not exist."""


class UnitTooLargeError(TurnwiseError, ValueError):
    """The unit of work is larger than the queue's bound."""


class UnsupportedUnitError(TurnwiseError, TypeError):
    """What was given cannot be a unit of work, such as a generator: it cannot be run again."""


class CannotOpenError(TurnwiseError, sqlite3.OperationalError):
    """The database file cannot be opened."""


class NotADatabaseError(TurnwiseError, sqlite3.DatabaseError):
    """The file is not a SQLite database."""


class IsADirectoryError(TurnwiseError, sqlite3.OperationalError):  # noqa: A001 - the kind's name
    """The path is a directory."""


class ReadOnlyError(TurnwiseError, sqlite3.OperationalError):
    """The database cannot be written."""


class DiskFullError(TurnwiseError, sqlite3.OperationalError):
    """The disk, or the size that the database is allowed, is full. Nothing was kept."""


class IoError(TurnwiseError, sqlite3.OperationalError):
    """Reading or writing the file failed."""


class CorruptError(TurnwiseError, sqlite3.DatabaseError):
    """The database file is malformed."""


class OutOfMemoryError(TurnwiseError, MemoryError):
    """SQLite ran out of memory, or no thread could be started."""


class SettingsConflictError(TurnwiseError, ValueError):
    """The file is open already in this process, with other settings."""


class UnsupportedPlatformError(TurnwiseError, RuntimeError):
    """This platform has no safe locking beside another SQLite copy."""


class FileReplacedError(TurnwiseError, sqlite3.OperationalError):
    """The database file was deleted or replaced while it was open."""


class UnsupportedServerError(TurnwiseError, NotImplementedError):
    """The server, or its version, has not what is asked for."""


class LockTimeoutError(TurnwiseError, sqlite3.OperationalError, TimeoutError):
    """The database stayed locked until the deadline. Nothing was written."""


class AttemptsExhaustedError(TurnwiseError):
    """A retried unit of work used up its attempts."""


class BudgetSpentError(TurnwiseError):
    """The process's retry budget is spent."""


class TurnReenteredError(TurnwiseError, sqlite3.OperationalError):
    """The turn was asked for by the thread or task that has it, and would wait for itself."""


class TurnUnavailableError(TurnwiseError, OSError):
    """No turn lock can be had at this database: a folder that cannot be written, no locks."""


class FindingError(TurnwiseError):
    """The session tracker has found something, and watches strictly."""

    finding: _native.Finding | None
    """What was found; ``None`` in another process than the one that found it."""

    def __init__(
        self,
        message: str = "",
        *,
        finding: _native.Finding | None = None,
        sqlite_errorcode: int | None = None,
        attempts: int = 0,
    ) -> None:
        super().__init__(message, sqlite_errorcode=sqlite_errorcode, attempts=attempts)
        self.finding = finding


class TransactionNotOwnedError(TurnwiseError):
    """A unit of work failed inside a transaction that its caller had begun. It was not retried.

    What is raised is the driver's own error as well, so that the caller's ``except`` clauses, and
    the unit of work around it, see what they expect.
    """


class QueueFullError(TurnwiseError, TimeoutError):
    """The queue stayed full until the deadline. Nothing was written, nothing was dropped."""


class WriteTimeoutError(TurnwiseError, TimeoutError):
    """The time-out passed before the write had begun. It is never applied."""


class WriteCancelledError(TurnwiseError):
    """The write was cancelled before it had begun. It is never applied."""


class WriterClosedError(TurnwiseError, sqlite3.ProgrammingError):
    """The writer is closed."""


class WriterReenteredError(TurnwiseError, RuntimeError):
    """The writer was used by the thread that holds a transaction on it."""


class HoldLimitExceededError(TurnwiseError, sqlite3.OperationalError):
    """The transaction was open longer than the hold limit and was rolled back."""


class TransactionClosedError(TurnwiseError, sqlite3.ProgrammingError):
    """The transaction has ended."""


class RolledBackError(TurnwiseError, sqlite3.OperationalError):
    """The transaction was rolled back. Nothing of it is in the file."""


class ConstraintError(TurnwiseError, sqlite3.IntegrityError):
    """A constraint was violated."""


class InterruptedError(TurnwiseError, sqlite3.OperationalError):  # noqa: A001 - the kind's name
    """The statement was interrupted."""


class TooBigError(TurnwiseError, sqlite3.DataError):
    """A text or blob is larger than SQLite allows."""


class CommitOutcomeUnknownError(TurnwiseError, sqlite3.OperationalError):
    """COMMIT failed, and it is unknown whether the write is in the database."""


class FlushFailedError(TurnwiseError, sqlite3.OperationalError):
    """The write is committed and others see it, but it could not be synced to disk."""


class CommitNotReplayableError(TurnwiseError):
    """The transaction failed, was rolled back, and cannot be restored truthfully."""

    reason: str = ""
    """Why it cannot be restored."""
    lost: tuple[str, ...] = ()
    """What was lost, such as ``"changed User(id=7)"``: class and primary key, no values."""

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the details across processes."""
        return *super().__reduce__(), {"reason": self.reason, "lost": self.lost}


class ReplayDivergedError(TurnwiseError):
    """The transaction was replayed, and the database answered otherwise than before."""


class TransactionPoisonedError(TurnwiseError):
    """The database has ended or aborted the transaction, and only a rollback may follow."""


class WritesLostError(TurnwiseError):
    """A commit without statements followed a rollback that threw writes away."""


class InternalError(TurnwiseError, sqlite3.InternalError):
    """A fault in turnwise. Please report it."""


class WalResetBugWarning(RuntimeWarning):
    """The host's own SQLite has a bug that can corrupt a WAL database.

    SQLite 3.7.0 to 3.51.2 can lose pages when two connections write or checkpoint at the same
    moment (https://sqlite.org/wal.html#walresetbug). turnwise's own copy does not have it.
    """


__all__ = sorted(  # noqa: PLE0605 - every class above
    name
    for name, value in vars().items()
    if isinstance(value, type) and issubclass(value, (TurnwiseError, WalResetBugWarning))
)
