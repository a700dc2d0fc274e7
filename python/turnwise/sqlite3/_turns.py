"""When a connection takes the turn, and when it gives it back.

The rules are those of ``docs/sqlite3.md``. They are applied from outside: what SQLite says after a
statement (``in_transaction``) decides, never what the statement should have done.
"""

from __future__ import annotations

import contextlib
import sqlite3
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar, cast

from turnwise._locking import (
    BUSY,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    READONLY,
    error_code,
    is_open,
    may_commit_later,
)
from turnwise._process import running_task
from turnwise._statements import Kind, kinds_in, value_of
from turnwise.errors import CannotOpenError, LockTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable

    from turnwise._native import NativeTurn, NativeTurnLock

_Result = TypeVar("_Result")

# Below this share of the time-out, what the wait for the turn has used up is not worth the two
# statements that take it off SQLite's own wait.
_SLACK = 0.05
# What the turn lock takes for a time; SQLite counts in milliseconds, up to 24 days.
_LONGEST_WAIT = 2.0**31 / 1000
_DEFERRED = ("", "DEFERRED")
_WRITES = frozenset({Kind.WRITE, Kind.PRAGMA, Kind.BEGIN_WRITE})
_MAY_WRITE = frozenset({Kind.CONDITIONAL, Kind.JOURNAL_MODE})
_FOLDER = __file__.removesuffix("_turns.py")

_NOTHING = "; nothing was written"
_REFUSED_PARAMETERS = (
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
    OverflowError,
    UnicodeEncodeError,
)

# Kept here: an application may put ours in their place.
_Cursor = sqlite3.Cursor
_execute = sqlite3.Cursor.execute
_set_level: Any = vars(sqlite3.Connection)["isolation_level"].__set__
_set_trace = sqlite3.Connection.set_trace_callback


class Turns:
    """What one connection to a file knows of its turn.

    It does not know the connection, which is handed to each call: a reference cycle would keep a
    forgotten connection, and its transaction, until the garbage collector comes by.
    """

    def __init__(self, path: str, timeout: float, *, shared: bool) -> None:
        self.path = path
        self.timeout = min(max(timeout, 0.0), _LONGEST_WAIT)
        """The seconds that a write may wait, for the turn and for SQLite's lock together."""
        self.turn: NativeTurn | None = None
        self.unread = True
        """Whether the deferred transaction that is open has read nothing yet."""
        self.keeps_open = False
        """Whether the next transaction follows on each COMMIT at once (``autocommit=False``)."""
        self.level: str | None = ""
        """The isolation level as the application set it."""
        self.blobs = 0
        """Blobs that are open for writing outside of a transaction."""
        self.trace: Callable[[str], object] | None = None
        self.alone = True
        """Whether no other database is attached: BEGIN IMMEDIATE locks them all."""
        self._lock: NativeTurnLock | None = None
        self._refusal: LockTimeoutError | None = None
        self._running = 0
        self._wal = False
        self._shortened = False
        self._taking = threading.RLock() if shared else None

    def writes(self, connection: sqlite3.Connection, kind: Kind, sql: str) -> bool:
        """Whether a statement writes the file; SQLite is asked where the words leave it open."""
        if kind is Kind.JOURNAL_MODE:
            self._wal = False
            return self._journal_mode(connection) != value_of(sql)
        if kind is Kind.CONDITIONAL:
            with contextlib.suppress(sqlite3.Error):
                plan = self._at_once(connection, "EXPLAIN " + sql)
                return any(step[1] == "Transaction" and step[3] for step in plan)
        return kind in _WRITES or kind in _MAY_WRITE

    def script_writes(self, connection: sqlite3.Connection, script: str) -> bool:
        """Whether a script has a statement that writes the file."""
        statements = kinds_in(script)
        return any(kind in _WRITES for kind, _ in statements) or any(
            self.writes(connection, kind, sql) for kind, sql in statements if kind in _MAY_WRITE
        )

    def _take_alone(self, connection: sqlite3.Connection) -> None:
        """Take the turn on a connection that threads share: one asks for all of them."""
        taking = cast("threading.RLock", self._taking)
        start = time.monotonic()
        if not taking.acquire(blocking=False):
            self._check_reentry()
            if not taking.acquire(timeout=self.timeout):
                raise LockTimeoutError(
                    "database is locked: another thread waits for the turn on this connection",
                    sqlite_errorcode=BUSY,
                )
        try:
            if self.turn is None:
                self._take(connection, self.timeout - (time.monotonic() - start))
        finally:
            taking.release()

    def _check_reentry(self) -> None:
        """Fail for a thread that has the turn, on another connection, and would wait for itself."""
        if self._lock is not None:
            with contextlib.suppress(LockTimeoutError):
                self._lock.acquire(0.0, _place(), running_task()).release()

    def _take(self, connection: sqlite3.Connection, timeout: float) -> None:
        """Wait for the turn, at most as long as the connection's time-out.

        Raises:
            TurnReenteredError: This thread has the turn, on another connection. Names both places.
        """
        lock = self._lock
        if lock is None:
            from turnwise._native import NativeTurnLock

            try:
                lock = self._lock = NativeTurnLock(self.path)
            except CannotOpenError:
                return  # The file was deleted while it was open.
        if (not self._wal or not self.unread) and self._has_read(connection):
            # Who holds a snapshot waits in vain: SQLite refuses to write once another has
            # committed, and in the rollback journal modes that other's COMMIT waits for us.
            with contextlib.suppress(LockTimeoutError):
                self._acquire(lock, 0.0)
            return
        start = time.monotonic()
        try:
            self._acquire(lock, max(0.0, timeout))
        except LockTimeoutError as error:
            # Who has the turn need not have the lock: SQLite is asked once, as it is without turns.
            self._refusal = error
        waited = time.monotonic() - start + self.timeout - timeout
        if waited > self.timeout * _SLACK or self._refusal:
            left = 0.0 if self._refusal else max(0.0, self.timeout - waited)
            self._shorten(connection, left)

    def _acquire(self, lock: NativeTurnLock, timeout: float) -> None:
        self.turn = lock.acquire(timeout, _place(), running_task())
        if self._taking is not None:
            # Which of its threads will end the transaction is not known.
            self.turn.disclaim()

    def give_back(self, connection: sqlite3.Connection | None = None) -> None:
        """Give the turn back, if we have it."""
        turn, self.turn = self.turn, None
        if turn is not None:
            turn.release()
        if self._shortened and connection is not None:
            self._lengthen(connection)

    def settle(self, connection: sqlite3.Connection) -> None:
        """Give the turn back if nothing is open that needs it."""
        if self._running:
            return
        if self._shortened:
            self._lengthen(connection)
        if self.turn is not None and not self.blobs and not is_open(connection):
            self.give_back()

    def ended(self, connection: sqlite3.Connection) -> None:
        """COMMIT or ROLLBACK by a method has succeeded."""
        if self.keeps_open:
            self.unread = True
            self.give_back()
        else:
            self.settle(connection)

    def write(
        self, connection: sqlite3.Connection, run: Callable[..., _Result], *args: Any
    ) -> _Result:
        """Run something that writes while we have the turn.

        Raises:
            LockTimeoutError: The turn was not to be had by the time-out. Names the holder.
        """
        took = self.turn is None
        if took:
            if self._taking is None:
                self._take(connection, self.timeout)
            else:
                self._take_alone(connection)
        was_open = connection.in_transaction
        try:
            # Until its end no part of it, such as the commit that a script begins with, settles.
            self._running += 1
            try:
                result = run(*args)
            finally:
                self._running -= 1
        except BaseException as error:
            single = run is _execute
            busy = None
            if took and error_code(error) == BUSY:
                busy = self._explain(was_open=was_open, single=single)
            self.settle(connection)
            if took and self.turn is not None:
                if was_open and error_code(error) in {BUSY, READONLY}:
                    self.give_back()
                elif not was_open and single and isinstance(error, _REFUSED_PARAMETERS):
                    self._begin_again(connection)
            if busy:
                raise busy from error
            raise
        finally:
            self._refusal = None
        if took and self._shortened:
            self._lengthen(connection)
        return result

    def _explain(self, *, was_open: bool, single: bool) -> LockTimeoutError | None:
        """Who has the turn that we went on without. With the turn: SQLite has said all."""
        holder = None
        if self.turn is not None and self.turn.held:
            # A transaction that was open may have been refused for its old snapshot.
            if not was_open:
                self.turn.note_outsider()
        elif self._refusal is not None:
            holder = str(self._refusal).removesuffix(_NOTHING)
        elif self._lock is not None and self._lock.holder:
            holder = f"database is locked: {self._lock.holder}"
        if holder is None:
            return None
        # Of several statements or rows some may have been committed.
        return LockTimeoutError(holder + (_NOTHING if single else ""), sqlite_errorcode=BUSY)

    def _begin_again(self, connection: sqlite3.Connection) -> None:
        """Let go of a transaction whose first statement did not run: its parameters were refused.

        The deferred BEGIN of the standard library has left an empty transaction that locks nothing;
        BEGIN IMMEDIATE has left one that locks everybody out.
        """
        if is_open(connection) and self.level in _DEFERRED and not self.blobs:
            with contextlib.suppress(sqlite3.Error):
                self.privately(connection, "ROLLBACK")
                self.unread = True
                self.give_back()
                self.privately(connection, "BEGIN")

    def end(
        self, connection: sqlite3.Connection, run: Callable[..., _Result], *args: Any
    ) -> _Result:
        """Run a COMMIT; again and again while the lock is busy and the transaction open.

        Nothing else is tried again: what is not in a transaction any more must not be committed as
        if it were.
        """
        until = time.monotonic() + self.timeout
        pause = FIRST_PAUSE
        while True:
            try:
                return run(*args)
            except sqlite3.OperationalError as error:
                left = until - time.monotonic()
                if left <= 0 or not may_commit_later(connection, error):
                    self.settle(connection)
                    raise
            except BaseException:
                self.settle(connection)
                raise
            time.sleep(min(pause, left))
            pause = min(pause * 2, LONGEST_PAUSE)

    def begin_as(self, connection: sqlite3.Connection, level: str | None) -> None:
        """Let the standard library begin its write transactions with BEGIN IMMEDIATE."""
        self.level = level
        if level in _DEFERRED and not self.keeps_open:
            _set_level(connection, "IMMEDIATE" if self.alone else level)

    def look_around(self, connection: sqlite3.Connection) -> None:
        """Find out what ATTACH, DETACH or a script has changed."""
        with contextlib.suppress(sqlite3.Error):
            databases = self.privately(connection, "PRAGMA database_list")
            # The first is the file, the second what is temporary.
            self.alone = all(number < 2 for number, *_ in databases)
            self.begin_as(connection, self.level)

    def look_at_the_clock(self, connection: sqlite3.Connection) -> None:
        """Follow a PRAGMA busy_timeout."""
        with contextlib.suppress(sqlite3.Error):
            ((milliseconds,),) = self.privately(connection, "PRAGMA busy_timeout")
            self.timeout = milliseconds / 1000

    def privately(self, connection: sqlite3.Connection, sql: str) -> list[Any]:
        """Run a statement of ours, unseen by the application's trace callback and row factory."""
        if self.trace is not None:
            _set_trace(connection, None)
        try:
            return _Cursor(connection).execute(sql).fetchall()
        finally:
            if self.trace is not None:
                _set_trace(connection, self.trace)

    def _shorten(self, connection: sqlite3.Connection, left: float) -> None:
        self._shortened = True
        # An authorizer may forbid it: SQLite then waits once more.
        with contextlib.suppress(sqlite3.Error):
            self.privately(connection, f"PRAGMA busy_timeout = {int(left * 1000)}")

    def _lengthen(self, connection: sqlite3.Connection) -> None:
        self._shortened = False
        with contextlib.suppress(sqlite3.Error):
            self.privately(connection, f"PRAGMA busy_timeout = {int(self.timeout * 1000)}")

    def _at_once(self, connection: sqlite3.Connection, sql: str) -> list[Any]:
        """Run a statement of ours that shall not wait for SQLite's lock: a wait is the caller's."""
        was_shortened = self._shortened
        if not was_shortened:
            self._shorten(connection, 0.0)
        try:
            return self.privately(connection, sql)
        finally:
            if not was_shortened:
                self._lengthen(connection)

    def _journal_mode(self, connection: sqlite3.Connection) -> str:
        with contextlib.suppress(sqlite3.Error):
            ((mode,),) = self._at_once(connection, "PRAGMA journal_mode")
            return mode.decode() if isinstance(mode, bytes) else str(mode)
        return ""

    def _has_read(self, connection: sqlite3.Connection) -> bool:
        """Whether this connection holds a lock as a reader.

        In the rollback journal modes an unfinished SELECT does so, which shows only in that a
        checkpoint, without effect in these modes, is refused. A file never leaves the WAL mode
        while it is open.
        """
        if connection.in_transaction and not self.unread:
            return True
        if self._wal:
            return False
        self._wal = self._journal_mode(connection) == "wal"
        if self._wal:
            return False
        try:
            self._at_once(connection, "PRAGMA wal_checkpoint")
        except sqlite3.OperationalError as error:
            return "table is locked" in str(error)
        except sqlite3.Error:
            pass
        return False


def _place() -> str:
    """The line of the application that wants to write."""
    frame = sys._getframe(1)  # The traceback module is 20 times slower
    code = frame.f_code
    while code.co_filename.startswith(_FOLDER) and frame.f_back:
        frame = frame.f_back
        code = frame.f_code
    return f"{code.co_filename}:{frame.f_lineno}"
