"""What the connections of this process to one SQLite file share."""

from __future__ import annotations

import logging
import sqlite3
import time
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from turnwise import events
from turnwise._locking import BUSY, FIRST_PAUSE, LONGEST_PAUSE, error_code, extended_code
from turnwise._process import warn_of_wal_reset_bug
from turnwise.classification import classify
from turnwise.errors import CannotOpenError
from turnwise.turn import TurnLock, TurnStats

if TYPE_CHECKING:
    from turnwise.sqlalchemy.sqlite_connection import FileConnection
    from turnwise.sqlalchemy.waiting import Waiting

_LOG = logging.getLogger("turnwise")
# Another connection need only finish what it does; one that does not may stay in its mode.
_LONGEST_CHANGE = 1.0

_files: weakref.WeakValueDictionary[str, File] = weakref.WeakValueDictionary()


@dataclass(frozen=True)
class FileStats:
    """What the engines of this process have met at one file."""

    path: str
    turns: TurnStats | None
    """``None`` where there is no turn lock: the file was gone."""
    turn_lock_missing: str | None
    """Why writers go on without turns; ``None`` where they have them."""
    lock_retries: int
    """Statements that SQLite's lock was busy for, and that were run again."""
    commit_retries: int
    """COMMITs that were sent again, since the transaction was still open."""


class File:
    """A database file, its turn lock, and who has the turn."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.lock: TurnLock | None = None
        try:
            self.lock = TurnLock(path)
        except CannotOpenError:
            pass  # It was deleted while it was open.
        self._holders: weakref.WeakSet[FileConnection] = weakref.WeakSet()
        self._has_changed_mode = False
        self._has_complained = False
        self._retries = {"statement": 0, "commit": 0}

    def entered(self, connection: FileConnection) -> None:
        """Take note of who has the turn."""
        self._holders.add(connection)

    def left(self, connection: FileConnection) -> None:
        """Take note that a connection has no turn any more."""
        self._holders.discard(connection)

    def is_held_for_others(self) -> bool:
        """Whether the turn of this thread was taken by other work, which ends in another thread.

        A pool's thread may have written for one request, whose COMMIT another thread sends, and
        write for the next one meanwhile. From here on its turn can be waited for.
        """
        others = [holder for holder in list(self._holders) if holder.disclaim()]
        return bool(others)

    def use_wal(self, waiting: Waiting) -> None:
        """Put the file into WAL mode, once; one that cannot be changed is named in the log."""
        if self._has_changed_mode:
            return
        self._has_changed_mode = True
        refusal = None
        until = time.monotonic() + _LONGEST_CHANGE
        pause = FIRST_PAUSE
        while True:
            try:
                ((mode,),) = waiting.run("PRAGMA journal_mode")
                if mode != "wal":
                    ((mode,),) = waiting.run("PRAGMA journal_mode = WAL")
                    warn_of_wal_reset_bug()
                refusal = None if mode == "wal" else f"its mode stays {mode!r}"
                break
            except sqlite3.Error as error:
                refusal = str(error)
                if error_code(error) != BUSY:
                    break
                if time.monotonic() > until:
                    self._has_changed_mode = False  # The next connection tries again.
                    break
            waiting.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
        if refusal and not self._has_complained:
            self._has_complained = True
            _LOG.warning(
                "%s cannot be put into WAL mode (%s): readers and writers wait for each other",
                self.path,
                refusal,
            )

    def tell(
        self, kind: str, error: sqlite3.Error, phase: str, attempt: int, left: float = 0.0
    ) -> None:
        """Tell who listens of a statement or COMMIT that SQLite's lock was busy for."""
        if kind == "retry":
            self._retries[phase] += 1
            if attempt > 1:
                return  # Of a wait the first is told, and the end.
        name = type(error).__name__ if kind == "failure" else None
        class_, code = classify(error, phase=phase).class_, extended_code(error)
        events.tell(
            events.UnitEvent(kind, self.path, class_, code, attempt, deadline_left=left, error=name)
        )

    def stats(self) -> FileStats:
        """Return what was met at the file in this process."""
        lock, retries = self.lock, self._retries
        turns = None if lock is None else lock.stats()
        missing = "the file was deleted" if lock is None else lock.unavailable
        return FileStats(self.path, turns, missing, retries["statement"], retries["commit"])


def file_at(path: str) -> File:
    """The file at this path: one object for all engines of the process."""
    file = _files.get(path)
    if file is None:
        file = _files.setdefault(path, File(path))
    return file


def is_alone(databases: list[Any]) -> bool:
    """Whether no database is attached: the first is the file, the second what is temporary."""
    return all(number < 2 for number, *_ in databases)
