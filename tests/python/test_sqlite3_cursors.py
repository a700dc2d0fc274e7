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
