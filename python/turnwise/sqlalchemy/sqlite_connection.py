"""When one SQLite connection of an engine begins, takes the turn, and gives it back.

What SQLite says after a statement (``in_transaction``) decides, never what the statement should
have done. docs/sqlalchemy-sqlite.md has the rules.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

from turnwise._locking import (
    BUSY,
    BUSY_SNAPSHOT,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    READONLY,
    error_code,
    extended_code,
    is_open,
    may_commit_later,
)
from turnwise._process import running_task
from turnwise._statements import Kind, is_refused_in_transactions, kind_of, value_of
from turnwise.errors import LockTimeoutError, TurnReenteredError
from turnwise.sqlalchemy.sqlite_files import is_alone
from turnwise.sqlalchemy.waiting import place

if TYPE_CHECKING:
    from collections.abc import Callable

    from turnwise._native import NativeTurn
    from turnwise.sqlalchemy.sqlite_files import File
    from turnwise.sqlalchemy.waiting import Waiting

_WRITES = frozenset({Kind.WRITE, Kind.CONDITIONAL, Kind.PRAGMA, Kind.BEGIN_WRITE})
_ENDS = frozenset({Kind.COMMIT, Kind.ROLLBACK})
_BOUNDS = _ENDS | {Kind.BEGIN, Kind.BEGIN_WRITE}
_NOTHING = "; nothing was written"
_ADVICE = (
    " (this transaction has read, and cannot write any more once another one has: roll back and "
    "run it again, as turnwise.retry_on_deadlock does, or begin it with turnwise_begin='immediate')"
)


class _Claim:
    """One turn, as the context that took it knows it."""

    ended = False


# A context that was copied before has not the claim: what a pool's thread is given to do next.
_claims: ContextVar[tuple[_Claim, ...]] = ContextVar("turnwise.claims", default=())


class FileConnection:
    """What is known of one connection to a file whose writers take turns."""

    def __init__(
        self,
        raw: sqlite3.Connection,
        waiting: Waiting,
        file: File,
        info: dict[str, Any],
        *,
        timeout: float,
        driver_timeout: int,
        alone: bool,
    ) -> None:
        self.raw = raw
        self.waiting = waiting
        self.file = file
        self.info = info
        self.timeout = timeout
        """The seconds that a statement may wait, for the turn and for SQLite's lock together."""
        self.driver_timeout = driver_timeout
        """The milliseconds of the driver's own busy timeout, which is 0 meanwhile."""
        self.turn: NativeTurn | None = None
        self.unread = True
        """Whether the transaction has read nothing yet, so that waiting helps it."""
        self._owes_begin = False
        self._keeps_open = self.is_busy = self.has_left = False
        self._alone = alone
        self._claim: _Claim | None = None
        self._refusal: LockTimeoutError | None = None

    def begin(self) -> None:
        """SQLAlchemy begins a transaction: the first statement tells how."""
        # Python 3.12: `autocommit=False` keeps a transaction open, `True` begins and ends none.
        autocommit = getattr(self.raw, "autocommit", None)
        self._keeps_open = autocommit is False
        self._owes_begin = self.raw.isolation_level is not None and not isinstance(autocommit, bool)
        self.unread = True

    def execute(
        self, run: Callable[..., Any], arguments: tuple[Any, ...], how: str, *, many: bool = False
    ) -> Any:
        """Run a statement, behind the turn and the BEGIN that it needs."""
        sql = arguments[1]
        kind = kind_of(sql)
        was_open = self.raw.in_transaction
        if (
            was_open
            and not self.unread
            and (kind is Kind.READ or (kind is Kind.WRITE and self.turn is not None))
        ):
            return self._go(run, arguments)
        until = time.monotonic() + self.timeout
        self._refusal = None
        if not was_open:
            if not self._owes_begin or kind in _BOUNDS or is_refused_in_transactions(sql):
                return self._execute_alone(run, arguments, kind, until, many=many)
            self._send_begin(how, until, writes=kind in _WRITES)
        elif kind in _ENDS:
            return self._end_by_statement(run, arguments, kind)
        had_turn = self.turn is not None
        if kind in _WRITES or (self._keeps_open and how == "immediate"):
            self._take(until)
        try:
            result = self._go(run, arguments, until if self.unread else None)
        except sqlite3.Error as error:
            if not had_turn and error_code(error) in {BUSY, READONLY}:
                self.give_back()  # This transaction cannot write any more.
            raise
        if kind is not Kind.SAVEPOINT:
            self.unread = False
        self._look_around(kind)
        return result

    def commit(self, run: Callable[..., Any], *arguments: Any) -> Any:
        """Run a COMMIT; again while the lock is busy and the transaction open. Then settle.

        Nothing else is tried again: what is not in a transaction any more must not be committed as
        if it were.
        """
        until = time.monotonic() + self.timeout
        pauses = 0
        busy: sqlite3.Error | None = None
        while True:
            try:
                result = run(*arguments)
            except sqlite3.Error as error:
                left = until - time.monotonic()
                if left <= 0 or not may_commit_later(self.raw, error):
                    if busy is not None:
                        self.file.tell("failure", error, "commit", pauses + 1)
                    self.settle()
                    raise
                busy, pauses = error, pauses + 1
                self.file.tell("retry", error, "commit", pauses, left)
                self._pause(pauses, left)
            except Exception:
                self.settle()
                raise
            else:
                break
        if busy is not None:
            self.file.tell("recovery", busy, "commit", pauses + 1)
        return result

    def ended(self) -> None:
        """COMMIT or ROLLBACK has succeeded."""
        self._owes_begin = False
        self.unread = True
        if self._keeps_open:
            self.give_back()
        else:
            self.settle()

    def settle(self) -> None:
        """Give the turn back if nothing is open that needs it."""
        if self.turn is not None and not is_open(self.raw):
            self.give_back()

    def give_back(self) -> None:
        """Give the turn back, if we have it."""
        turn, self.turn = self.turn, None
        if self._claim is not None:
            self._claim.ended = True
            self._claim = None
        if turn is not None:
            self.file.left(self)
            turn.release()

    def leave(self) -> None:
        """Take no turn any more, and leave the driver's connection as it was."""
        self.has_left = True
        self.give_back()
        if not self.is_busy:  # Else its user does: two threads would block each other.
            self.restore()

    def restore(self) -> None:
        """Give the driver's connection its own busy timeout again."""
        with contextlib.suppress(sqlite3.Error):  # It is closed, or only for another thread.
            sqlite3.Cursor(self.raw).execute(f"PRAGMA busy_timeout = {self.driver_timeout}")

    def disclaim(self) -> bool:
        """Let this thread wait for our turn, if the work that took it was another."""
        turn, claim = self.turn, self._claim
        if turn is None or claim is None or claim in _claims.get():
            return False
        turn.disclaim()
        return True

    def _send_begin(self, how: str, until: float, *, writes: bool) -> None:
        now = how == "immediate" or (how == "auto" and writes)
        self.unread = True
        if not now or not self._alone:
            # BEGIN IMMEDIATE would lock every database that is attached.
            self.waiting.run("BEGIN")
        else:
            level = self.raw.isolation_level
            word = "EXCLUSIVE" if (level or "").upper() == "EXCLUSIVE" else "IMMEDIATE"
            self._take(until)
            self._go(self.waiting.run, (f"BEGIN {word}",), until)
            self.unread = False
        self._owes_begin = False

    def _execute_alone(
        self,
        run: Callable[..., Any],
        arguments: tuple[Any, ...],
        kind: Kind,
        until: float,
        *,
        many: bool,
    ) -> Any:
        """Run a statement that is its own transaction, or begins one."""
        if kind in _WRITES or (kind is Kind.JOURNAL_MODE and self._changes_journal(arguments[1])):
            self._take(until)
            run = _with_rows(run)
        # Some of its rows may be committed already, and a checkpoint reports what it waited for
        # in its result: SQLite itself has to wait.
        natively = many or kind is Kind.PRAGMA
        if natively:
            left = 0.0 if self._refusal else max(0.0, until - time.monotonic())
            self._set_busy_timeout(int(left * 1000))
        try:
            result = self._go(run, arguments, None if natively else until)
        finally:
            if natively:
                self._set_busy_timeout(0)
        self.unread = kind in _BOUNDS or not is_open(self.raw)
        self._look_around(kind)
        self.settle()
        return result

    def _end_by_statement(
        self, run: Callable[..., Any], arguments: tuple[Any, ...], kind: Kind
    ) -> Any:
        """Run COMMIT, ROLLBACK or RELEASE as a statement."""
        is_commit = kind is Kind.COMMIT
        result = self.commit(run, *arguments) if is_commit else self._go(run, arguments)
        if not is_open(self.raw):
            self.settle()
            # As far as SQLAlchemy knows the transaction goes on.
            self.begin()
        return result

    def _go(
        self, run: Callable[..., Any], arguments: tuple[Any, ...], until: float | None = None
    ) -> Any:
        """Run a statement; until that time again while SQLite's lock is busy."""
        pauses = 0
        busy: sqlite3.Error | None = None
        while True:
            try:
                result = run(*arguments)
            except sqlite3.Error as error:
                left = 0.0 if until is None or self._refusal else until - time.monotonic()
                is_busy = error_code(error) == BUSY
                if not is_busy or left <= 0 or extended_code(error) == BUSY_SNAPSHOT:
                    if is_busy:
                        self.file.tell("failure", error, "statement", pauses + 1)
                    explained = self._explained(error) if is_busy else None
                    self.settle()
                    if explained is not None:
                        raise explained from error
                    raise
                if busy is None and self.turn is not None and self.turn.held:
                    self.turn.note_outsider()
                busy, pauses = error, pauses + 1
                self.file.tell("retry", error, "statement", pauses, left)
                self._pause(pauses, left)
            except Exception:
                # After a cancellation the statement may go on in the driver's thread: SQLAlchemy
                # closes the connection, and only then is the turn given back.
                self.settle()
                raise
            else:
                if busy is not None:
                    self.file.tell("recovery", busy, "statement", pauses + 1)
                return result

    def _explained(self, error: sqlite3.Error) -> LockTimeoutError | None:
        """Who has the turn that we went on without; what to do where waiting does not help."""
        if not self.unread or extended_code(error) == BUSY_SNAPSHOT:
            # The driver's own error goes on: its class and code tell that the transaction is stale.
            error.args = (f"{error}{_ADVICE}",)
            return None
        if self._refusal is not None:
            text = str(self._refusal)
        elif self.turn is None and self.file.lock is not None and self.file.lock.holder:
            text = f"database is locked: {self.file.lock.holder}{_NOTHING}"
        else:
            waited = f"for {self.timeout:g} s by a connection that takes no turns"
            text = f"{error} {waited}{_NOTHING}"
        return LockTimeoutError(text, sqlite_errorcode=extended_code(error))

    def _pause(self, pauses: int, left: float) -> None:
        longest = min(FIRST_PAUSE * 2 ** min(pauses, 10), LONGEST_PAUSE)
        self.waiting.sleep(min(random.uniform(longest / 2, longest), left))

    def _take(self, until: float) -> None:
        """Wait for the turn, until that time.

        Raises:
            TurnReenteredError: This thread or task has the turn, on another connection.
        """
        lock = self.file.lock
        if self.turn is not None or lock is None:
            return
        if not self.unread:
            # Who holds a snapshot waits in vain: SQLite refuses to write once another has
            # committed, and in the rollback journal modes that other's COMMIT waits for us.
            with contextlib.suppress(LockTimeoutError):
                self._acquire(0.0)
            return
        try:
            self._acquire(max(0.0, until - time.monotonic()))
        except LockTimeoutError as error:
            # Who has the turn need not have the lock: SQLite is asked once.
            self._refusal = error

    def _acquire(self, timeout: float) -> None:
        lock, site = self.file.lock, place()
        if lock is None:
            return
        # A task works for nobody else, and what blocks a loop's thread blocks all its tasks.
        is_thread = running_task() is None
        try:
            turn = self.waiting.turn(lock, timeout, site)
        except TurnReenteredError:
            if not is_thread or not self.file.is_held_for_others():
                raise
            turn = self.waiting.turn(lock, timeout, site)
        self.turn = turn
        self.file.entered(self)
        if is_thread:
            self._claim = _Claim()
            _claims.set((*(claim for claim in _claims.get() if not claim.ended), self._claim))
        if self.has_left:  # While it waited.
            self.give_back()

    def _changes_journal(self, sql: str) -> bool:
        with contextlib.suppress(sqlite3.Error):
            return str(self.waiting.run("PRAGMA journal_mode")[0][0]) != value_of(sql)
        return True

    def _set_busy_timeout(self, milliseconds: int) -> None:
        if self.has_left:
            return
        with contextlib.suppress(sqlite3.Error):  # An authorizer may forbid it.
            self.waiting.run(f"PRAGMA busy_timeout = {milliseconds}")

    def _look_around(self, kind: Kind) -> None:
        """Find out what ATTACH, DETACH or a PRAGMA has changed."""
        if kind is Kind.ATTACH:
            with contextlib.suppress(sqlite3.Error):
                self._alone = is_alone(self.waiting.run("PRAGMA database_list"))
        elif kind is Kind.BUSY_TIMEOUT:
            with contextlib.suppress(sqlite3.Error):
                self.driver_timeout = int(self.waiting.run("PRAGMA busy_timeout")[0][0])
                self.timeout = self.driver_timeout / 1000
                self._set_busy_timeout(0)


def _with_rows(run: Callable[..., Any]) -> Callable[..., Any]:
    """Fetch the rows of a statement that is its own transaction, which ends with its last row."""

    def run_and_fetch(cursor: Any, *rest: Any) -> Any:
        result = run(cursor, *rest)
        context = rest[-1]
        if isinstance(cursor, sqlite3.Cursor) and cursor.description is not None:
            from sqlalchemy.engine.cursor import FullyBufferedCursorFetchStrategy
            from sqlalchemy.engine.interfaces import ExecuteStyle

            # Those of "insertmanyvalues" SQLAlchemy fetches at once, from the cursor itself.
            if context.execute_style is not ExecuteStyle.INSERTMANYVALUES:
                description, rows = cast("Any", cursor.description), cursor.fetchall()
                context.cursor_fetch_strategy = FullyBufferedCursorFetchStrategy(
                    None, description, rows
                )
        return result

    return run_and_fetch
