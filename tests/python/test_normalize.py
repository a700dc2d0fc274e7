"""`normalize_for_db`: enum members and nested payloads become plain values."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import json
import sqlite3
import types
import uuid
from typing import Any, ClassVar, NamedTuple

import pydantic
import pydantic.v1
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnwise.errors import UnsupportedParameterError
from turnwise.values import normalize_for_db


class Colour(enum.Enum):
    RED = "red"
    PAIR = ("x", {"y": 1})


class Name(str, enum.Enum):
    ANN = "ann"


class Size(enum.IntEnum):
    BIG = 9


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    colour: Colour


@dataclasses.dataclass
class Item:
    kind: ClassVar[str] = "item"
    name: Name
    sizes: set[Size]
    extra: dataclasses.InitVar[int] = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    colour: Colour


class Model(pydantic.BaseModel):
    colour: Colour
    items: list[Item]
    secret: str = pydantic.Field("s", exclude=True)


class Old(pydantic.v1.BaseModel):
    colour: Colour
    inner: Colour


Root = pydantic.RootModel[list[Colour]]

ITEM = Item(Name.ANN, {Size.BIG, Size.BIG})


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Colour.RED, "red"),
        (Colour.PAIR, ["x", {"y": 1}]),
        (Name.ANN, "ann"),
        (Size.BIG, 9),
        (Right.READ | Right.WRITE, 3),
        (Point(1, Colour.RED), [1, "red"]),
        ({Colour.RED: {Name.ANN: (Size.BIG,)}}, {"red": {"ann": [9]}}),
        ({(Size.BIG, Colour.RED): 1, frozenset({1}): 2}, {(9, "red"): 1, frozenset({1}): 2}),
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset({Name.ANN, "b"}), ["ann", "b"]),
        ({frozenset({2, 1}), frozenset({0})}, [[0], [1, 2]]),
        (types.MappingProxyType({"a": Size.BIG}), {"a": 9}),
        (collections.OrderedDict(b=1, a=Size.BIG), {"b": 1, "a": 9}),
        (ITEM, {"name": "ann", "sizes": [9]}),
        (Slotted(Colour.RED), {"colour": "red"}),
        (
            Model(colour=Colour.RED, items=[ITEM]),
            {"colour": "red", "items": [{"name": "ann", "sizes": [9]}]},
        ),
        (
            Old(colour=Colour.RED, inner=Colour.RED),
            {"colour": "red", "inner": "red"},
        ),
        (Root([Colour.RED]), ["red"]),
    ],
)
def test_plain_values(value, plain):
    result = normalize_for_db(value)
    assert result == plain
    assert type(result) is type(plain)
    # An equal str enum would hide in a comparison.
    assert repr(result) == repr(plain)


def test_what_is_no_payload_is_handed_back_itself():
    tz = dt.timezone.utc
    for value in (
        dt.datetime(2024, 2, 29, 12, tzinfo=tz),
        dt.date(2024, 2, 29),
        dt.time(1, 2, 3),
        dt.timedelta(days=1),
        decimal.Decimal("1.10"),
        uuid.UUID(int=5),
        b"\0",
        bytearray(b"x"),
        memoryview(b"x"),
        object(),
        Colour,
        Item,
        Model,
        "text",
        2**70,
        None,
        True,
    ):
        assert normalize_for_db(value) is value
        assert normalize_for_db([value])[0] is value


def test_members_that_cannot_be_compared_keep_some_order():
    result = normalize_for_db({1, "a", None})
    assert sorted(result, key=str) == [1, None, "a"]


def test_the_result_goes_into_a_database():
    connection = sqlite3.connect(":memory:")
    stored = json.dumps(normalize_for_db({Colour.RED: {Size.BIG, 1}}))
    (value, name) = connection.execute(
        "SELECT ?, ?", (stored, normalize_for_db(Name.ANN))
    ).fetchone()
    assert (json.loads(value), name) == ({"red": [1, 9]}, "ann")
    connection.close()


def test_a_container_twice_is_no_cycle():
    shared = [Colour.RED]
    assert normalize_for_db([shared, {"a": shared}]) == [["red"], {"a": ["red"]}]


def test_a_cycle_names_both_ends():
    parent = {"children": [{}]}
    parent["children"][0]["parent"] = parent
    with pytest.raises(UnsupportedParameterError) as caught:
        normalize_for_db({"root": parent})
    assert "value['root']['children'][0]['parent'] is value['root'] again" in str(caught.value)


def test_a_cycle_through_objects_is_found():
    @dataclasses.dataclass
    class Node:
        link: Any = None

    class Linked(pydantic.BaseModel):
        link: Any = None

    for make in (Node, Linked):
        node = make()
        node.link = [node]
        with pytest.raises(UnsupportedParameterError, match=r"^value"):
            normalize_for_db(node)


def test_too_deep_a_nesting_names_the_place():
    def nested(levels):
        value = "x"
        for _ in range(levels):
            value = {"in": value}
        return value

    assert normalize_for_db(nested(100)) == nested(100)
    with pytest.raises(UnsupportedParameterError, match=r"value\['in'\].*….*more than 100 deep"):
        normalize_for_db(nested(101))
    with pytest.raises(UnsupportedParameterError):
        normalize_for_db(nested(5000))


def test_two_keys_that_become_one_are_refused():
    with pytest.raises(UnsupportedParameterError, match=r"value\[0\]\['red'\] is there twice"):
        normalize_for_db([{Colour.RED: 1, "red": 2}])


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.dates(),
    st.datetimes(),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
    st.sampled_from([*Colour, *Name, *Size]),
)
keys = st.one_of(st.text(), st.integers(), st.sampled_from([*Name, *Size]))
payloads = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.sets(st.one_of(st.integers(), st.sampled_from([*Name])), max_size=4),
        st.frozensets(st.text(), max_size=4),
        st.dictionaries(keys, inner, max_size=4),
        st.builds(Item, st.sampled_from([*Name]), st.sets(st.sampled_from([*Size]))),
    ),
    max_leaves=20,
)


def leaves(value):
    if type(value) is dict:
        for key, item in value.items():
            yield key
            yield from leaves(item)
    elif type(value) is list:
        for item in value:
            yield from leaves(item)
    else:
        yield value


@given(payloads)
def test_nothing_but_plain_containers_and_no_enum_is_left(payload):
    try:
        plain = normalize_for_db(payload)
    except UnsupportedParameterError:
        # An enum member and its value were keys of one dict.
        return
    for leaf in leaves(plain):
        assert not isinstance(leaf, (enum.Enum, tuple, set, frozenset, Item))
    assert normalize_for_db(plain) == plain


@given(payloads)
def test_the_argument_stays_as_it_is(payload):
    before = repr(payload)
    try:
        normalize_for_db(payload)
    except UnsupportedParameterError:
        pass
    assert repr(payload) == before


@given(st.frozensets(st.one_of(st.integers(), st.floats(allow_nan=False))))
def test_equal_sets_give_equal_lists(members):
    shuffled = frozenset(sorted(members, reverse=True))
    assert normalize_for_db(members) == normalize_for_db(shuffled) == sorted(members)
