"""A cursor whose writes take turns."""

from __future__ import annotations

import functools
import itertools
import operator
import sqlite3
from typing import TYPE_CHECKING, Any, cast

from turnwise._statements import Kind, kind_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from turnwise.sqlite3._turns import Turns

_execute = sqlite3.Cursor.execute
_executemany = sqlite3.Cursor.executemany
_executescript = sqlite3.Cursor.executescript
_fetchmany, _fetchall = sqlite3.Cursor.fetchmany, sqlite3.Cursor.fetchall
_Plain, _connect, _commit = sqlite3.Cursor, sqlite3.connect, sqlite3.Connection.commit
# The member itself, as the standard library reads it: a subclass may have a property of that name.
_row_factory: Any = vars(sqlite3.Cursor)["row_factory"]
_READ, _WRITE = Kind.READ, Kind.WRITE


class Cursor(sqlite3.Cursor):
    """A ``sqlite3.Cursor``; on a connection of ``turnwise.sqlite3`` its writes take turns."""

    def execute(self, sql: Any, parameters: Any = (), /) -> Any:
        """Execute one statement, as ``sqlite3.Cursor.execute`` does."""
        try:
            turns = self.connection._turns  # type: ignore[attr-defined]
        except AttributeError:
            turns = None  # As in `_turns_of`, without the call.
        if turns is None:
            return _execute(self, sql, parameters)
        kind = kind_of(sql) if isinstance(sql, str) else _READ
        if kind is _READ:
            turns.unread = False
            try:
                return _execute(self, sql, parameters)
            except BaseException:
                turns.settle(self.connection)
                raise
        return _run(self, turns, kind, sql, _execute, parameters)

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> Any:
        """Execute one statement for each row, as ``sqlite3.Cursor.executemany`` does.

        The turn is kept for all of them.
        """
        turns = _turns_of(self)
        if turns is None:
            return _executemany(self, sql, parameters)
        kind = _kind_of(sql)
        return _run(self, turns, kind, sql, _executemany, parameters)

    def executescript(self, sql_script: str, /) -> Any:
        """Execute many statements, as ``sqlite3.Cursor.executescript`` does.

        If one of them may write, the turn is taken before the first and kept until the last.
        """
        turns = _turns_of(self)
        if turns is None or not _is_text(sql_script) or "\0" in sql_script:
            return _executescript(self, sql_script)
        connection = self.connection
        if _commits_first(connection) and connection.in_transaction:
            turns.end(connection, _commit, connection)
            turns.settle(connection)
        try:
            if turns.script_writes(connection, sql_script):
                return turns.write(connection, _executescript, self, sql_script)
            return _executescript(self, sql_script)
        finally:
            # Nothing that the script began can be told apart any more.
            turns.unread = False
            turns.settle(connection)
            words = sql_script.lower()
            if "tach" in words:
                turns.look_around(connection)
            if "busy_timeout" in words:
                turns.look_at_the_clock(connection)


def _turns_of(cursor: sqlite3.Cursor) -> Turns | None:
    try:
        return cast("Turns | None", cursor.connection._turns)  # type: ignore[attr-defined]
    except AttributeError:
        # A connection of the standard library, or a cursor that was never initialised.
        return None


def _is_text(sql: object) -> bool:
    return isinstance(sql, str)


def _kind_of(sql: Any) -> Kind:
    """The kind of a statement; what is no text is left to the standard library to refuse."""
    return kind_of(sql) if isinstance(sql, str) else _READ


def _commits_first(connection: sqlite3.Connection) -> bool:
    """Whether executescript commits: not where `autocommit` is set (Python 3.12)."""
    return not isinstance(getattr(connection, "autocommit", None), bool)


def _run(cursor: Cursor, turns: Turns, kind: Kind, sql: str, call: Any, parameters: Any) -> Cursor:
    connection = cursor.connection
    if kind is _WRITE or turns.writes(connection, kind, sql):
        turns.write(connection, call, cursor, sql, parameters)
        if turns.blobs == 0 and not connection.in_transaction:
            if cursor.description is not None or kind is Kind.PRAGMA:
                _buffer(cursor)
            turns.give_back()
        return cursor
    was_open = connection.in_transaction
    if kind is Kind.COMMIT:
        turns.end(connection, call, cursor, sql, parameters)
    else:
        try:
            call(cursor, sql, parameters)
        except BaseException:
            turns.settle(connection)
            raise
    turns.settle(connection)
    if kind is Kind.BEGIN or (kind is Kind.SAVEPOINT and not was_open):
        turns.unread = True
    elif kind is Kind.ATTACH:
        turns.look_around(connection)
    elif kind is Kind.BUSY_TIMEOUT:
        turns.look_at_the_clock(connection)
    elif kind is not Kind.SAVEPOINT:
        turns.unread = False
    return cursor


class _Buffered(Cursor):
    """A cursor that has fetched its rows already.

    A statement that returns rows ends, and commits if it is its own transaction, when its last row
    is fetched: it would hold the lock, and the turn, for as long as the application takes.
    """

    _rows: Iterator[Any]
    _unbuffered: type[Cursor]

    def execute(self, sql: str, parameters: Any = (), /) -> Any:
        _unbuffer(self)
        return self.execute(sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> Any:
        _unbuffer(self)
        return self.executemany(sql, parameters)

    def executescript(self, sql_script: str, /) -> Any:
        _unbuffer(self)
        return self.executescript(sql_script)

    def close(self) -> None:
        _unbuffer(self)
        self.close()

    def __next__(self) -> Any:
        super().fetchone()  # Raises what a closed connection, or another thread, has to raise.
        return _made(self, next(self._rows))

    def fetchone(self) -> Any:
        super().fetchone()
        for row in self._rows:
            return _made(self, row)
        return None

    def fetchmany(self, *size: Any, **named: Any) -> list[Any]:
        super().fetchmany(*size, **named)  # Refuses what is no size.
        count = operator.index([*size, *named.values(), self.arraysize][0])
        rows = itertools.islice(self._rows, count if count > 0 else _fetched_by(max(count, -1)))
        return [_made(self, row) for row in rows]

    def fetchall(self) -> list[Any]:
        super().fetchone()
        return [_made(self, row) for row in self._rows]


def _made(cursor: sqlite3.Cursor, row: Any) -> Any:
    """A row as its factory makes it: the one that is set when the row is asked for."""
    factory = _row_factory.__get__(cursor)
    return row if factory is None else factory(cursor, row)


@functools.cache
def _fetched_by(size: int) -> int | None:
    """How many rows a fetchmany of less than one is to fetch; none for all of them.

    Versions of Python differ, so this one is asked.
    """
    connection = _connect(":memory:")
    try:
        cursor = _Plain(connection).execute("VALUES (1), (2)")
        return None if _fetchmany(cursor, size) else 0
    finally:
        connection.close()


def _buffer(cursor: Any) -> None:
    plain: Any = type(cursor)
    factory = _row_factory.__get__(cursor)
    _row_factory.__set__(cursor, None)
    try:
        rows = _fetchall(cursor)
    finally:
        _row_factory.__set__(cursor, factory)
    if not rows:
        return
    buffered = plain.__dict__.get("_buffered")
    if buffered is None:
        bases = (_Buffered,) if plain is Cursor else (plain, _Buffered)
        buffered = type(plain.__name__, bases, {"__slots__": (), "__module__": plain.__module__})
        plain._buffered = buffered
    cursor._rows, cursor._unbuffered = iter(rows), plain
    cursor.__class__ = buffered


def _unbuffer(cursor: Any) -> None:
    cursor.__class__ = cursor._unbuffered
    del cursor._rows
