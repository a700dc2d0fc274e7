"""The cursors of `turnwise.sqlite3`: who makes them, and how they hand out the rows of a write."""

from __future__ import annotations

import functools
import sqlite3 as stdlib

import pytest

from sqlite3_support import INSERT, make, turn_is_taken
from turnwise import sqlite3


@pytest.fixture
def path(tmp_path):
    return make(tmp_path / "app.db")


def test_cursors_of_the_application_get_turns(path):
    class MyCursor(stdlib.Cursor):
        def execute(self, *args):
            self.mine = True
            return super().execute(*args)

    connection = sqlite3.connect(path)
    for factory in (MyCursor, functools.partial(MyCursor)):
        cursor = connection.cursor(factory)
        assert isinstance(cursor, MyCursor)
        cursor.execute(INSERT, ("a",))
        assert cursor.mine
        assert turn_is_taken(path)
        cursor.execute("ROLLBACK")
        assert not turn_is_taken(path)
    connection.close()


class Slotted(stdlib.Cursor):
    """A class of which an instance cannot be changed into one that takes turns."""

    __slots__ = ("mine",)


def test_every_cursor_that_the_standard_library_makes_takes_turns(path):
    connection = sqlite3.connect(path, isolation_level=None)
    connection.row_factory = stdlib.Row

    def with_size(connection):
        cursor = stdlib.Cursor(connection)
        cursor.arraysize = 7
        return cursor

    factories = [stdlib.Cursor, functools.partial(stdlib.Cursor), with_size, Slotted]
    for factory in factories:
        for cursor in (connection.cursor(factory), connection.cursor(factory=factory)):
            assert isinstance(cursor, Slotted if factory is Slotted else stdlib.Cursor)
            assert isinstance(cursor, sqlite3.Cursor)
            assert cursor.connection is connection
            assert cursor.row_factory is stdlib.Row
            assert cursor.arraysize == (7 if factory is with_size else 1)
            cursor.execute("BEGIN IMMEDIATE")
            assert turn_is_taken(path)
            cursor.execute("ROLLBACK")
            assert not turn_is_taken(path)
    cursor = connection.cursor(Slotted)
    cursor.mine = 5
    cursor.execute("INSERT INTO topic VALUES ('a'), ('b') RETURNING title")
    assert (cursor.mine, [tuple(row) for row in cursor]) == (5, [("a",), ("b",)])
    assert connection.cursor(Slotted).execute("SELECT count(*) FROM topic").fetchone()[0] == 2
    connection.close()


def test_a_cursor_that_cannot_be_changed_any_more_is_refused_with_the_way_out(path):
    connection = sqlite3.connect(path)
    with pytest.raises(TypeError, match=r"Slotted.*derive it from turnwise\.sqlite3\.Cursor"):
        connection.cursor(functools.partial(Slotted))
    for wrong in (5, None, int, lambda connection: object()):
        with pytest.raises(TypeError):
            connection.cursor(wrong)
    connection.close()


FETCHES = {
    "fetchmany()": lambda cursor: [cursor.fetchmany(), cursor.fetchmany()],
    "fetchmany(2)": lambda cursor: [cursor.fetchmany(2), cursor.fetchmany(size=2)],
    "fetchmany(True)": lambda cursor: cursor.fetchmany(True),
    "fetchmany(0)": lambda cursor: cursor.fetchmany(0),
    "fetchmany(-1)": lambda cursor: cursor.fetchmany(-1),
    "fetchmany(-7)": lambda cursor: cursor.fetchmany(-7),
    "fetchmany(None)": lambda cursor: cursor.fetchmany(None),
    "fetchmany(1.5)": lambda cursor: cursor.fetchmany(1.5),
    "fetchmany(2**70)": lambda cursor: cursor.fetchmany(2**70),
    "fetchmany(1, 2)": lambda cursor: cursor.fetchmany(1, 2),
    "fetchmany(1, size=2)": lambda cursor: cursor.fetchmany(1, size=2),
    "fetchmany(count=2)": lambda cursor: cursor.fetchmany(count=2),
    "arraysize": lambda cursor: (setattr(cursor, "arraysize", 2), cursor.fetchmany()),
    "arraysize 0": lambda cursor: (setattr(cursor, "arraysize", 0), cursor.fetchmany()),
    "arraysize -1": lambda cursor: (setattr(cursor, "arraysize", -1), cursor.fetchmany()),
}


@pytest.mark.parametrize("name", FETCHES)
def test_rows_of_a_write_are_fetched_as_many_at_a_time_as_ever(tmp_path, name):
    def told_by(module):
        connection = module.connect(make(tmp_path / module.__name__), isolation_level=None)
        cursor = connection.execute("INSERT INTO topic VALUES (1), (2), (3), (4) RETURNING title")
        try:
            told = FETCHES[name](cursor)
        except (TypeError, ValueError, OverflowError) as error:
            told = type(error)
        rest = cursor.fetchall()
        connection.close()
        return told, rest

    assert told_by(sqlite3) == told_by(stdlib)


def test_rows_of_a_write_are_made_by_the_factory_that_is_set_when_they_are_fetched(tmp_path):
    def told_by(module):
        connection = module.connect(make(tmp_path / module.__name__), isolation_level=None)
        connection.row_factory = lambda cursor, row: ("first", type(cursor).__name__, row)
        cursor = connection.execute("INSERT INTO topic VALUES (1), (2), (3), (4) RETURNING title")
        connection.row_factory = lambda cursor, row: "never"
        told = [cursor.row_factory is connection.row_factory, cursor.fetchone()]
        cursor.row_factory = lambda cursor, row: ("second", row)
        told += [next(cursor), cursor.fetchmany(1)]
        cursor.row_factory = None
        told += [cursor.fetchall(), cursor.fetchone(), next(cursor, "no more")]
        cursor.execute("DELETE FROM topic WHERE title < 3 RETURNING title")
        cursor.row_factory = lambda cursor, row: 1 // 0
        with pytest.raises(ZeroDivisionError):
            cursor.fetchone()
        cursor.execute("DELETE FROM topic WHERE title < 4 RETURNING title")
        cursor.row_factory = module.Row
        told += [[dict(row) for row in cursor]]
        # The factory may use the very cursor.
        cursor.execute("DELETE FROM topic RETURNING title")
        cursor.row_factory = lambda cursor, row: cursor.execute("SELECT 1") and row
        told += [cursor.fetchone()]
        connection.close()
        return told

    told = told_by(stdlib)
    assert ("second", (2,)) in told
    assert told_by(sqlite3) == told
