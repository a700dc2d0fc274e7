"""Every type of parameter: what is stored, as the standard library reads it in another process."""

from __future__ import annotations

import array
import collections
import datetime as dt
import decimal
import enum
import fractions
import math
import pathlib
import sqlite3
import types
import uuid
import warnings

import pytest

from turnwise import BatchWriter, errors
from writer_support import read_elsewhere, select


class Colour(enum.Enum):
    RED = "red"
    NOTHING = None
    DEEP = 2.5
    RAW = b"\x00\xff"


class Nested(enum.Enum):
    INNER = Colour.RED
    DAY = dt.date(2024, 2, 29)


class Level(enum.IntEnum):
    HIGH = 7


class Mode(str, enum.Enum):
    FAST = "fast"


class Bits(enum.IntFlag):
    ONE = 1
    TWO = 2


class Unstorable(enum.Enum):
    LIST = (1, 2)


class Whole(int):
    """A subclass with manners of its own, which storing does not ask."""

    def __str__(self):
        return "whole"


class Real(float):
    pass


class Text(str):
    __slots__ = ()


class Raw(bytes):
    pass


class Moment(dt.datetime):
    pass


UTC = dt.timezone.utc
EAST = dt.timezone(dt.timedelta(hours=5, minutes=30))

# The value, and the type and value that are read back (floats and bytes in hexadecimal).
STORED = [
    (0, ["int", 0]),
    (-1, ["int", -1]),
    (2**63 - 1, ["int", 2**63 - 1]),
    (-(2**63), ["int", -(2**63)]),
    (True, ["int", 1]),
    (False, ["int", 0]),
    (None, ["NoneType", None]),
    (0.1, ["float", (0.1).hex()]),
    (-0.0, ["float", "-0x0.0p+0"]),
    (5e-324, ["float", (5e-324).hex()]),
    (1.7976931348623157e308, ["float", (1.7976931348623157e308).hex()]),
    (math.inf, ["float", "inf"]),
    (-math.inf, ["float", "-inf"]),
    (math.nan, ["NoneType", None]),
    ("", ["bytes", ""]),
    ("Grüße", ["bytes", "Grüße".encode().hex()]),
    ("\U0001f600\U0010ffff", ["bytes", "\U0001f600\U0010ffff".encode().hex()]),
    ("a\0b", ["bytes", "610062"]),
    ("\0", ["bytes", "00"]),
    ("x" * 70_000, ["bytes", "78" * 70_000]),
    (b"", ["bytes", ""]),
    (b"\x00\xff\x00", ["bytes", "00ff00"]),
    (bytearray(b"\x01\x02"), ["bytes", "0102"]),
    (memoryview(b"abcdef")[1:4], ["bytes", "626364"]),
    (memoryview(b"abcdef")[::2], ["bytes", "616365"]),
    (memoryview(array.array("H", [258])), ["bytes", array.array("H", [258]).tobytes().hex()]),
    (dt.date(2024, 2, 29), ["bytes", b"2024-02-29".hex()]),
    (dt.time(23, 59, 1, 5), ["bytes", b"23:59:01.000005".hex()]),
    (dt.time(23, 59, tzinfo=UTC), ["bytes", b"23:59:00+00:00".hex()]),
    (dt.datetime(2024, 2, 29, 1, 2, 3), ["bytes", b"2024-02-29 01:02:03".hex()]),
    (dt.datetime(2024, 2, 29, 1, 2, 3, 4), ["bytes", b"2024-02-29 01:02:03.000004".hex()]),
    (dt.datetime(2024, 2, 29, tzinfo=EAST), ["bytes", b"2024-02-29 00:00:00+05:30".hex()]),
    (Moment(2024, 2, 29, 1), ["bytes", b"2024-02-29 01:00:00".hex()]),
    (Colour.RED, ["bytes", b"red".hex()]),
    (Colour.NOTHING, ["NoneType", None]),
    (Colour.DEEP, ["float", (2.5).hex()]),
    (Colour.RAW, ["bytes", "00ff"]),
    (Nested.INNER, ["bytes", b"red".hex()]),
    (Nested.DAY, ["bytes", b"2024-02-29".hex()]),
    (Level.HIGH, ["int", 7]),
    (Mode.FAST, ["bytes", b"fast".hex()]),
    (Bits.ONE | Bits.TWO, ["int", 3]),
    (Whole(5), ["int", 5]),
    (Real(0.5), ["float", (0.5).hex()]),
    (Text("t"), ["bytes", "74"]),
    (Raw(b"r"), ["bytes", "72"]),
]
if hasattr(enum, "StrEnum"):

    class Word(enum.StrEnum):
        YES = enum.auto()

    STORED.append((Word.YES, ["bytes", b"yes".hex()]))

BLOBS = (bytes, bytearray, memoryview, Raw)


@pytest.fixture
def writer(tmp_path):
    with BatchWriter(tmp_path / "values.db") as writer:
        writer.execute("CREATE TABLE kept (id INTEGER PRIMARY KEY, value)")
        yield writer


def test_what_is_stored_is_what_another_process_reads(writer):
    for number, (value, _) in enumerate(STORED):
        if number % 3 == 0:
            writer.execute("INSERT INTO kept VALUES (?, ?)", (number, value))
        elif number % 3 == 1:
            writer.executemany("INSERT INTO kept VALUES (?, ?)", [(number, value)])
        else:
            values = {"value": value, "id": number}
            writer.submit("INSERT INTO kept VALUES (:id, :value)", values).result(10)
    rows = read_elsewhere(writer.path, "SELECT value, typeof(value) FROM kept ORDER BY id")
    for (value, expected), (read, kind) in zip(STORED, rows, strict=True):
        assert read == expected, repr(value)
        inner = value
        while isinstance(inner, enum.Enum) and not isinstance(inner, (int, str)):
            inner = inner.value
        text = bytes.fromhex(kind[1]).decode()
        assert (text == "blob") == isinstance(inner, BLOBS), repr(value)


def test_the_standard_library_stores_the_same_where_it_stores_at_all(writer):
    """Python's own adapters are the measure: moving to turnwise changes no value."""
    connection = sqlite3.connect(":memory:")
    compared = 0
    for value, _ in STORED:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", DeprecationWarning
                )  # Adapters of dates, since 3.12.
                theirs = connection.execute("SELECT ?1, typeof(?1)", (value,)).fetchone()
        except (sqlite3.Error, TypeError, BufferError):
            continue
        ours = writer.execute("SELECT ?1, typeof(?1)", (value,)).rows[0]
        assert (ours, type(ours[0])) == (theirs, type(theirs[0])), repr(value)
        compared += 1
    connection.close()
    assert compared > 25


def test_values_come_back_as_they_were_stored(writer):
    for value in [0, -(2**63), 0.1, math.inf, "", "a\0b", "\U0010ffff", b"", b"\x00", None]:
        sql = "INSERT INTO kept (value) VALUES (?) RETURNING value"
        (row,) = writer.execute(sql, (value,)).rows
        assert row == (value,)
        assert type(row[0]) is type(value)


def test_text_that_is_no_unicode_comes_back_with_replacement_characters(writer):
    writer.execute("INSERT INTO kept (value) VALUES (CAST(x'61ff62' AS TEXT))")
    assert writer.execute("SELECT value FROM kept").rows == [("a\ufffdb",)]


REFUSED = [
    object(),
    (1,),
    [1],
    {"a": 1},
    {1},
    decimal.Decimal("1.5"),
    fractions.Fraction(1, 3),
    1j,
    uuid.UUID(int=1),
    pathlib.Path("x"),
    dt.timedelta(1),
    int,
    Colour,
    Unstorable.LIST,
    array.array("b", [1]),
    range(3),
    len,
    ...,
]


@pytest.mark.parametrize("value", REFUSED, ids=lambda value: str(type(value).__name__))
def test_anything_else_is_a_type_error_that_names_its_place(writer, value):
    calls = [
        (lambda: writer.execute("SELECT ?, ?", (1, value)), r"^parameter 2 is a "),
        (lambda: writer.execute("SELECT ?, ?", [value, 1]), r"^parameter 1 is a "),
        (
            lambda: writer.execute("SELECT :a, :size", {"a": 1, "size": value}),
            r"^parameter :size is a ",
        ),
        (lambda: writer.submit("SELECT ?", (value,)), r"^parameter 1 is a "),
        (
            lambda: writer.executemany(
                "INSERT INTO kept (value) VALUES (?)", [(1,), (2,), (value,)]
            ),
            r"^row 2: parameter 1 is a ",
        ),
        (
            lambda: writer.executemany(
                "INSERT INTO kept (value) VALUES (:v)", [{"v": 1}, {"v": value}]
            ),
            r"^row 1: parameter :v is a ",
        ),
    ]
    for call, message in calls:
        with pytest.raises(TypeError, match=message) as caught:
            call()
        assert type(caught.value) is errors.UnsupportedParameterError
    with pytest.raises(TypeError, match=r"^parameter 1 is a "), writer.transaction() as tx:
        tx.execute("SELECT ?", (value,))
    assert select(writer.path, "SELECT count(*) FROM kept") == [(0,)]


@pytest.mark.parametrize(
    "value", [2**63, -(2**63) - 1, 10**30, "\ud800", "a\udfff", Level.HIGH * 2**64]
)
def test_a_value_beyond_sqlite_names_its_place(writer, value):
    with pytest.raises(errors.ParameterOutOfRangeError, match=r"^parameter 1 is ") as caught:
        writer.execute("INSERT INTO kept (value) VALUES (?)", (value,))
    # The standard library's classes for the same mistakes.
    assert isinstance(caught.value, OverflowError)
    assert isinstance(caught.value, ValueError)
    with pytest.raises(errors.ParameterOutOfRangeError, match=r"^row 1: parameter :v is "):
        writer.executemany("INSERT INTO kept (value) VALUES (:v)", [{"v": 1}, {"v": value}])
    assert select(writer.path, "SELECT count(*) FROM kept") == [(0,)]


@pytest.mark.parametrize("given", ["ab", b"ab", 5, {1, 2}, iter([1]), object(), (n for n in [1])])
def test_params_that_are_neither_sequence_nor_mapping(writer, given):
    with pytest.raises(errors.UnsupportedParameterError, match="^params "):
        writer.execute("SELECT ?, ?", given)
    with pytest.raises(errors.UnsupportedParameterError, match="^row 0: params "):
        writer.executemany("INSERT INTO kept (value) VALUES (?)", [given])


@pytest.mark.parametrize(
    "given",
    [
        [1, 2],
        (1, 2),
        collections.deque([1, 2]),
        range(1, 3),
        collections.namedtuple("Pair", "a b")(1, 2),
        collections.UserList([1, 2]),
        {"a": 1, "b": 2},
        {"b": 2, "a": 1, "unused": 3},
        types.MappingProxyType({"a": 1, "b": 2}),
        collections.OrderedDict(b=2, a=1),
        collections.ChainMap({"a": 1}, {"b": 2}),
        collections.UserDict(a=1, b=2),
    ],
    ids=lambda value: type(value).__name__,
)
def test_sequences_and_mappings_of_any_kind(writer, given):
    named = hasattr(given, "keys")
    sql = "SELECT :a, @b, $a, :b" if named else "SELECT ?1, ?2"
    expected = [(1, 2, 1, 2)] if named else [(1, 2)]
    assert writer.execute(sql, given).rows == expected


def test_none_means_no_parameters(writer):
    assert writer.execute("SELECT 1").rows == writer.execute("SELECT 1", None).rows == [(1,)]


@pytest.mark.parametrize(
    ("sql", "given", "message"),
    [
        ("SELECT ?", (), "1 placeholders, 0 values"),
        ("SELECT ?", (1, 2), "1 placeholders, 2 values"),
        ("SELECT 1", (1,), "0 placeholders, 1 values"),
        ("SELECT :a", {}, "placeholder :a"),
        ("SELECT :a", {":a": 1}, "placeholder :a"),
        ("SELECT ?", {"a": 1}, "placeholder 1 has no name"),
    ],
)
def test_parameters_that_do_not_match_the_statement(writer, sql, given, message):
    with pytest.raises(sqlite3.ProgrammingError, match=message) as caught:
        writer.execute(sql, given)
    assert type(caught.value) is errors.ParameterMismatchError


def test_keys_that_are_no_text(writer):
    with pytest.raises(TypeError, match="keys of params must be str, not int"):
        writer.execute("SELECT :a", {1: 1})


def test_an_error_of_the_callers_own_iterator_comes_through(writer):
    def rows():
        yield (1,)
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "the caller's own")

    with pytest.raises(UnicodeDecodeError, match="the caller's own"):
        writer.executemany("INSERT INTO kept (value) VALUES (?)", rows())

    class Row(collections.UserList):
        def __iter__(self):
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "the row's own")

    with pytest.raises(UnicodeDecodeError, match="the row's own"):
        writer.executemany("INSERT INTO kept (value) VALUES (?)", [Row([1])])
    assert select(writer.path, "SELECT count(*) FROM kept") == [(0,)]


def test_values_are_taken_when_the_call_is_made(writer):
    """A caller that reuses its list, or its buffer, changes nothing that is on its way."""
    values, buffer = [1, None], bytearray(b"before")
    values[1] = buffer
    future = writer.submit("INSERT INTO kept VALUES (?, ?)", values)
    values[0] = 2
    buffer[:] = b"after!"
    assert future.result(10).lastrowid == 1
    assert select(writer.path, "SELECT * FROM kept") == [(1, b"before")]
