"""A connection whose write transactions take turns."""

from __future__ import annotations

import os
import sqlite3
import sys
import warnings
from typing import TYPE_CHECKING, Any, Literal, cast

from turnwise.sqlite3._blob import WritableBlob
from turnwise.sqlite3._cursor import Cursor
from turnwise.sqlite3._turns import Turns

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from typing_extensions import Self

# Kept here: an application may put ours in their place.
_Base, _Cursor = sqlite3.Connection, sqlite3.Cursor
_IN_MEMORY = (":memory:", "")
_PARAMETERS = (
    "timeout",
    "detect_types",
    "isolation_level",
    "check_same_thread",
    "factory",
    "cached_statements",
    "uri",
)
_level: Any = vars(_Base)["isolation_level"]
_PASSES_CURSOR_BY = sys.version_info[:2] >= (3, 11)
_cursor, _commit, _rollback, _close = _Base.cursor, _Base.commit, _Base.rollback, _Base.close


class Connection(sqlite3.Connection):
    """A ``sqlite3.Connection`` whose write transactions take turns with those of other processes.

    Subclass it as you would ``sqlite3.Connection``. docs/sqlite3.md has the rules.
    """

    _turns: Turns | None = None

    def __init__(self, database: Any, *args: Any, **kwargs: Any) -> None:
        previous, self._turns = self._turns, None
        settings = named(args, kwargs, "_sqlite3.Connection")
        if settings is None:
            super().__init__(database, *args, **kwargs)
            settings = {}
        else:
            super().__init__(database, **settings)
        if previous is not None:
            previous.give_back()
        path = _path_of(self, database, uri=bool(settings.get("uri")))
        if path is not None:
            shared = not settings.get("check_same_thread", True)
            turns = Turns(path, float(settings.get("timeout", 5.0)), shared=shared)
            turns.keeps_open = getattr(self, "autocommit", None) is False
            turns.begin_as(self, super().isolation_level)
            self._turns = turns

    def cursor(self, factory: Any = Cursor) -> Any:
        """Make a cursor, as ``sqlite3.Connection.cursor`` does.

        Raises:
            TypeError: ``factory`` makes cursors that do not take turns, and cannot be made to.
        """
        if self._turns is None:
            return _cursor(self, factory)
        cursor = _cursor(self, _turn_taking_cursor(factory))
        return cursor if isinstance(cursor, Cursor) else _with_turns(self, cursor)

    def execute(self, sql: str, parameters: Any = (), /) -> Any:
        """Execute one statement with a new cursor."""
        return _new_cursor(self).execute(sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> Any:
        """Execute one statement for each row, with a new cursor."""
        return _new_cursor(self).executemany(sql, parameters)

    def executescript(self, sql_script: str, /) -> Any:
        """Execute many statements with a new cursor."""
        return _new_cursor(self).executescript(sql_script)

    def commit(self) -> None:
        """Commit, and give the turn back. Tried again while the transaction is open."""
        turns = self._turns
        if turns is None:
            return _commit(self)
        turns.end(self, _commit, self)
        return turns.ended(self)

    def rollback(self) -> None:
        """Roll back, and give the turn back."""
        turns = self._turns
        if turns is None:
            return _rollback(self)
        try:
            _rollback(self)
        except BaseException:
            turns.settle(self)
            raise
        return turns.ended(self)

    def close(self) -> None:
        """Close; what is not committed is rolled back. Gives the turn back."""
        _close(self)
        if self._turns is not None:
            self._turns.blobs = 0
            self._turns.give_back()

    def __enter__(self) -> Self:
        return super().__enter__()

    def __exit__(
        self,
        type: type[BaseException] | None,  # noqa: A002 - the standard library's name
        value: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> Literal[False]:
        # The standard library's calls its own commit, never that of a subclass.
        if self._turns is None:
            return super().__exit__(type, value, traceback)
        if type is None and value is None and traceback is None:
            try:
                Connection.commit(self)
            except BaseException:
                Connection.rollback(self)
                raise
        else:
            Connection.rollback(self)
        return False

    def __del__(self) -> None:
        finalize = getattr(super(), "__del__", None)
        if finalize is not None:
            finalize()
        turns = self._turns
        if turns is not None and turns.turn is not None:
            try:
                _close(self)
            except sqlite3.Error:
                pass  # Another thread's connection: it is closed in a moment, by its destructor.
            turns.give_back()

    @property
    def isolation_level(self) -> Any:
        """The isolation level as it was set; what it begins is BEGIN IMMEDIATE behind the turn."""
        level = super().isolation_level
        return level if self._turns is None else self._turns.level

    @isolation_level.setter
    def isolation_level(self, level: Any) -> None:
        turns = self._turns
        try:
            _level.__set__(self, level)
            if turns is not None:
                turns.begin_as(self, super().isolation_level)
        finally:
            if turns is not None:
                turns.settle(self)

    @isolation_level.deleter
    def isolation_level(self) -> None:
        _level.__delete__(self)

    if sys.version_info >= (3, 12):

        @property
        def autocommit(self) -> Any:
            """Whether and how transactions are begun, as in ``sqlite3.Connection``."""
            return super().autocommit

        @autocommit.setter
        def autocommit(self, value: Any) -> None:
            turns = self._turns
            if turns is None:
                _Base.autocommit.__set__(self, value)
                return
            was_open = self.in_transaction
            try:
                _Base.autocommit.__set__(self, value)
            finally:
                turns.keeps_open = super().autocommit is False
                turns.unread = turns.unread or not was_open
                turns.begin_as(self, turns.level)
                turns.settle(self)

    if sys.version_info >= (3, 11):

        def blobopen(
            self,
            table: str,
            column: str,
            row: int,
            /,
            *,
            readonly: bool = False,
            name: str = "main",
        ) -> Any:
            """Open a blob. Outside of a transaction the turn is kept until it is closed."""
            turns = self._turns
            open_blob = super().blobopen
            elsewhere = not isinstance(name, str) or name.lower() != "main"
            if turns is None or readonly or elsewhere:
                return open_blob(table, column, row, readonly=bool(readonly), name=name)
            blob = turns.write(self, lambda: open_blob(table, column, row, name=name))
            return blob if self.in_transaction else WritableBlob(blob, self, turns)

        def deserialize(self, data: Any, /, *, name: str = "main") -> None:
            """Replace a database by one in memory, which nobody waits for."""
            super().deserialize(data, name=name)
            if name.lower() == "main" and self._turns is not None:
                turns, self._turns = self._turns, None
                turns.give_back(self)
                _level.__set__(self, turns.level)

    def backup(self, target: sqlite3.Connection, **options: Any) -> None:
        """Copy this database into another; the turn is the target's."""
        turns = getattr(target, "_turns", None)
        if turns is None or target is self:
            return super().backup(target, **options)
        copy = super().backup
        try:
            return cast("Turns", turns).write(target, lambda: copy(target, **options))
        finally:
            turns.settle(target)

    def set_trace_callback(self, *args: Any, **kwargs: Any) -> None:
        """Call back for each statement of the application; those of ours are left out."""
        if "trace_callback" in kwargs and not args and sys.version_info >= (3, 13):
            _warn(
                "Passing keyword argument 'trace_callback' to "
                "_sqlite3.Connection.set_trace_callback() is deprecated. "
                "Parameter 'trace_callback' will become positional-only in Python 3.15."
            )
            args = (kwargs.pop("trace_callback"),)
        super().set_trace_callback(*args, **kwargs)
        if self._turns is not None:
            self._turns.trace = [*args, *kwargs.values()][0]


def named(args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> dict[str, Any] | None:
    """All parameters by name; nothing where the standard library has to complain of them."""
    if len(args) > len(_PARAMETERS) or any(key in kwargs for key in _PARAMETERS[: len(args)]):
        return None
    if args and sys.version_info >= (3, 13):
        listed = [f"'{parameter}'" for parameter in _PARAMETERS]
        _warn(
            f"Passing more than 1 positional argument to {name}() is deprecated. Parameters "
            f"{', '.join(listed[:-1])} and {listed[-1]} will become keyword-only parameters "
            "in Python 3.15."
        )
    return {**dict(zip(_PARAMETERS, args, strict=False)), **kwargs}


def _warn(message: str) -> None:
    """Warn of what the standard library would warn of, at the application's line."""
    if sys.version_info >= (3, 12):
        ours = (os.path.dirname(__file__),)
        warnings.warn(message, DeprecationWarning, stacklevel=2, skip_file_prefixes=ours)


def turn_taking(factory: Any) -> Any:
    """The factory of connections, made to take turns."""
    if factory is _Base:
        return Connection
    if isinstance(factory, type) and issubclass(factory, _Base):
        return factory if issubclass(factory, Connection) else _mixed(factory, Connection)
    return factory


def _new_cursor(connection: Connection) -> Any:
    # Since Python 3.11 the standard library's `execute` passes a subclass's `cursor` by.
    return _cursor(connection, Cursor) if _PASSES_CURSOR_BY else connection.cursor()


def _turn_taking_cursor(factory: Any) -> Any:
    """The factory of cursors, made to take turns. What a function makes is seen to afterwards."""
    if factory is _Cursor:
        return Cursor
    if isinstance(factory, type) and issubclass(factory, _Cursor):
        return factory if issubclass(factory, Cursor) else _mixed(factory, Cursor)
    return factory


def _with_turns(connection: Connection, cursor: Any) -> Any:
    """A cursor that a function has made, or the same of our class, taking turns."""
    made = type(cursor)
    if made is _Cursor:
        ours: Any = _cursor(connection, Cursor)
        ours.arraysize, ours.row_factory = cursor.arraysize, cursor.row_factory
        return ours
    try:
        cursor.__class__ = _mixed(made, Cursor)
    except TypeError as error:
        message = (
            f"the factory made a {made.__name__}, which cannot be made to take turns any more: "
            f"derive it from turnwise.sqlite3.Cursor, or give {made.__name__} itself as the factory"
        )
        raise TypeError(message) from error
    return cursor


def _mixed(theirs: Any, ours: type) -> type:
    """A class of the application with ours below it, so that its `super()` finds our methods."""
    mixed = theirs.__dict__.get("_with_turns")
    if mixed is None:
        mixed = type(theirs.__name__, (theirs, ours), {"__module__": theirs.__module__})
        theirs._with_turns = mixed
    return cast("type", mixed)


def _path_of(connection: Connection, database: Any, *, uri: bool) -> str | None:
    """The file whose writers take turns; none where there is no file, or nobody writes it."""
    name = os.fsdecode(database)
    if name in _IN_MEMORY:
        return None
    if uri and name.startswith("file:"):
        from urllib.parse import parse_qs, urlsplit

        query = parse_qs(urlsplit(name).query)
        if query.get("mode", [""])[-1] in {"ro", "memory"} or "vfs" in query:
            return None
        if query.get("immutable", ["0"])[-1].lower() not in {"0", "no", "false", "off"}:
            return None
    try:
        databases = _Cursor(connection).execute("PRAGMA database_list").fetchall()
        return databases[0][2] or None
    except sqlite3.Error:
        return os.path.realpath(name)
