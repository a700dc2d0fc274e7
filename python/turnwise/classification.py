"""What an exception means: reads it, whoever raised it, and asks the core's table.

`classify` follows `orig`, `__cause__` and exception groups to the driver's error, and never
`__context__`: an error that merely came up while another was handled says nothing about it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from turnwise import _native, drivers
from turnwise.drivers import wrappers
from turnwise.errors import TurnwiseError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from turnwise._native import Override, Verdict
    from turnwise.drivers import Reading

_BUSY = 5
_TWINS = {"mysql", "mariadb"}
"""They share drivers and most codes; what knows the server decides."""

_OVER = {"TransactionPoisoned", "RolledBack", "CommitNotReplayable"}
"""turnwise's own errors after which the transaction is over. They come later than the database's
error behind them, at COMMIT above all, and that one left no doubt."""

_OF_CAUSE = _OVER | {"TransactionNotOwned", "AttemptsExhausted", "BudgetSpent"}
"""turnwise's own errors that mean what the database's error behind them means."""

_PERMANENT = ("permanent", "none", "never", "none")

# class, fate, scope, retry
_OWN = {
    "CommitOutcomeUnknown": ("commit_unknown", "unknown", "resolve", "none"),
    "ReplayDiverged": ("serialization", "rolled_back", "transaction", "redo"),
    "RolledBack": ("symptom", "rolled_back", "transaction", "redo"),
    "CommitNotReplayable": ("symptom", "rolled_back", "never", "none"),
    "TransactionPoisoned": ("symptom", "aborted", "never", "none"),
    "WritesLost": ("symptom", "rolled_back", "never", "none"),
    "HoldLimitExceeded": ("timeout", "rolled_back", "never", "none"),
    "FlushFailed": ("resource", "none", "never", "none"),
    "TurnReentered": _PERMANENT,
    "QueueFull": ("overload", "none", "statement", "unavailable"),
    "WriteTimeout": ("timeout", "none", "statement", "unavailable"),
    "WriteCancelled": ("cancelled", "none", "never", "none"),
}
"""The verdicts of turnwise's own errors that no code of SQLite decides."""

_STALE_DATA = ("serialization", "aborted", "transaction", "redo")
_POOL_TIMEOUT = ("overload", "none", "connection", "unavailable")
_PENDING_ROLLBACK = ("symptom", "aborted", "never", "none")


class Observation(NamedTuple):
    """What was known about the transaction when an error came. `install` attaches it."""

    dialect: str
    phase: str
    in_transaction: bool | None = None
    """What the driver reported after the error; `None`: it was not asked."""
    was_in_transaction: bool | None = None
    """Whether a transaction was open when the statement began; `None`: not known."""
    has_read: bool = False
    """The transaction had read before this statement, and had not yet written."""
    is_read: bool = False
    """The statement only reads."""
    journal: str | None = None
    """SQLite's journal mode; `None`: not known."""


def observe(error: BaseException, observation: Observation) -> None:
    """Attaches what is known to a driver's exception, where its class takes attributes."""
    try:
        error._turnwise = observation  # type: ignore[attr-defined]  # noqa: SLF001 - ours
    except (AttributeError, TypeError):
        pass


def observation_of(error: BaseException | None) -> Observation | None:
    """What was attached to the exception, or to one that it wraps or was caused by."""
    for link in _chain(error):
        found = getattr(link, "_turnwise", None)
        if isinstance(found, Observation):
            return found
    return None


def classify(
    error: BaseException,
    *,
    phase: str | None = None,
    in_transaction: bool | None = None,
    overrides: Sequence[Override] = (),
) -> Verdict:
    """What an exception means for the transaction, and what may be done again.

    Takes exceptions of the drivers, of SQLAlchemy, of turnwise, whatever was raised `from` one of
    them, and groups of them. Every other exception gets the verdict of class `"unlisted"` and scope
    `"never"` whose rule is `"default.foreign"`.

    `phase`: what was being done; `None`: what was observed, else what SQLAlchemy's exception tells.
    If it stays unknown, the verdict is that of a COMMIT where this is in doubt, and of a statement
    otherwise, or where only a statement is known to give the code.

    `in_transaction`: whether the driver says that a transaction is open, after the error.
    `overrides`: rules that win over the table; the first that fits.

    A group has the verdict of its worst member: in doubt, then not retryable, then the widest
    scope (connection, transaction, savepoint, commit, statement).

    Raises `ValueError` for a phase that it does not know.
    """
    observation = observation_of(error)
    known = _Known(phase, in_transaction, observation, tuple(overrides))
    for link in _chain(error):
        members = _members(link)
        if members:
            verdicts = [
                classify(member, phase=phase, in_transaction=in_transaction, overrides=overrides)
                for member in members
            ]
            return max(verdicts, key=_badness)
        verdict = known.judge_link(link)
        if verdict is not None:
            return verdict
    return known.judge_nothing()


class _Known:
    """What is gathered on the way from an exception to the driver's error inside it."""

    def __init__(
        self,
        phase: str | None,
        in_transaction: bool | None,  # noqa: FBT001 - private
        observation: Observation | None,
        overrides: tuple[Override, ...],
    ) -> None:
        self.phase = phase or (observation.phase if observation else None)
        self.observation = observation or Observation("", "")
        self.in_transaction = (
            self.observation.in_transaction if in_transaction is None else in_transaction
        )
        self.was_in_transaction = self.observation.was_in_transaction
        self.overrides = overrides
        self.dialect: str | None = self.observation.dialect
        self.default_phase: str | None = None
        self.is_lost = False
        self.fallback: tuple[str, str, str, str] | None = None

    def judge_link(self, error: BaseException) -> Verdict | None:
        """The verdict, if this exception decides it; else what it says is kept."""
        if isinstance(error, TurnwiseError) and _means_its_cause(error):
            self._begin_anew(error)
            return None
        wrapping = wrappers.read(error)
        if wrapping is not None:
            self.phase = self.phase or wrapping.phase
            self.is_lost = self.is_lost or wrapping.is_lost
            self.fallback = self.fallback or _of_wrapper(wrapping)
            if "DBAPIError" in wrapping.names:
                self._trace(error)
            return None
        if isinstance(error, TurnwiseError):
            return self._judge_own(error)
        reading = drivers.read(error)
        if reading is None:
            return None
        self._trace(error)
        return self._judge(reading)

    def judge_nothing(self) -> Verdict:
        """The verdict, if no exception decided it."""
        if self.observation.phase == "commit":
            # Whatever ended COMMIT (a cancellation, Ctrl-C), its answer was not heard.
            return self._judge(drivers.Reading(self.observation.dialect, is_lost=True))
        return _verdict(*self.fallback) if self.fallback else _native.Verdict.foreign()

    def _begin_anew(self, error: TurnwiseError) -> None:
        """What is known of turnwise's error is not known of the one behind it."""
        self.fallback = self.fallback or _OWN.get(error.kind)
        if error.kind in _OVER:
            self.observation = observation_of(error.__cause__) or Observation("", "")
            self.phase = self.observation.phase or None
            self.in_transaction = self.observation.in_transaction
            self.was_in_transaction = self.observation.was_in_transaction
            self.default_phase = "statement"

    def _judge_own(self, error: TurnwiseError) -> Verdict:
        own = _OWN.get(error.kind)
        code = error.sqlite_errorcode or (_BUSY if error.kind == "LockTimeout" else None)
        if own is not None or code is None:
            return _verdict(*(own or _PERMANENT))
        # COMMIT's doubts have a kind of their own.
        self.default_phase = "begin" if error.kind == "LockTimeout" else "statement"
        return self._judge(drivers.Reading("sqlite", code, message=str(error)))

    def _trace(self, error: BaseException) -> None:
        trace = wrappers.trace(error)
        self.phase = self.phase or trace.phase
        self.dialect = self.dialect or trace.dialect
        if trace.is_autocommit and self.was_in_transaction is None:
            self.was_in_transaction = False

    def _judge(self, reading: Reading) -> Verdict:
        if reading.dialect in _TWINS and self.dialect in _TWINS:
            reading = reading._replace(dialect=self.dialect)
        verdict = self._ask(reading, self.phase or reading.phase or self.default_phase)
        if verdict.constraint is None or not (reading.constraint or reading.columns):
            return verdict
        return verdict.with_constraint(
            _native.Constraint(
                verdict.constraint.kind,
                name=reading.constraint,
                table=reading.table,
                columns=list(reading.columns),
            )
        )

    def _ask(self, reading: Reading, phase: str | None) -> Verdict:
        if phase is None:
            verdict = self._ask(reading, "commit")
            other = self._ask(reading, "statement")
            is_listed = not other.rule.startswith("default.")
            if is_listed and verdict.rule.startswith("default."):
                return other
            return verdict if verdict.is_in_doubt else other
        return _native.classify_code(
            reading.dialect,
            reading.code,
            phase=phase,
            in_transaction=self.in_transaction,
            was_in_transaction=self.was_in_transaction,
            has_read=self.observation.has_read,
            is_read=self.observation.is_read,
            is_lost=reading.is_lost or (self.is_lost and reading.code is None),
            journal=self.observation.journal,
            sqlstate=reading.sqlstate,
            message=reading.message,
            overrides=self.overrides,
        )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The exception, and what it wraps or was caused by. A cancellation is never looked into."""
    seen: set[int] = set()
    link = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = _inner(link) if isinstance(link, Exception) else None


def _inner(error: BaseException) -> BaseException | None:
    """The error inside: SQLAlchemy's `orig`, else the cause, else what a session only quotes."""
    orig = getattr(error, "orig", None)
    if isinstance(orig, BaseException):
        return orig
    return error.__cause__ or wrappers.original_of(error)


def _means_its_cause(error: TurnwiseError) -> bool:
    return error.kind in _OF_CAUSE and error.__cause__ is not None


def _members(error: BaseException) -> tuple[BaseException, ...]:
    """The members of an exception group, also of the package that brings groups to Python 3.10."""
    if any(cls.__name__ == "BaseExceptionGroup" for cls in type(error).__mro__):
        members: tuple[BaseException, ...] = getattr(error, "exceptions", ())
        return members
    return ()


_SCOPES = ("statement", "commit", "savepoint", "transaction", "connection")


def _badness(verdict: Verdict) -> int:
    if verdict.is_in_doubt:
        return 100
    if not verdict.is_retryable:
        return 99
    return _SCOPES.index(verdict.scope)


def _of_wrapper(wrapping: wrappers.Wrapping) -> tuple[str, str, str, str] | None:
    if "StaleDataError" in wrapping.names:
        return _STALE_DATA
    if "TimeoutError" in wrapping.names:
        return _POOL_TIMEOUT
    if "PendingRollbackError" in wrapping.names:
        return _PENDING_ROLLBACK
    return None


def _verdict(class_: str, fate: str, scope: str, retry: str) -> Verdict:
    return _native.Verdict(class_=class_, fate=fate, scope=scope, retry=retry)
