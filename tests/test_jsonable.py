import enum
import json
import uuid
from collections import OrderedDict, UserDict, UserList, deque, namedtuple
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from flowpod.jsonable import MAX_DEPTH, dumps, is_too_deep

Pair = namedtuple("Pair", "left right")


@dataclass
class Point:
    x: Any
    y: Any = field(default=2, repr=False)


@dataclass(slots=True)
class Slotted:
    x: int = 1


class Model(BaseModel):
    name: str
    inner: Any = None


class Text(str):
    __slots__ = ("extra",)


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Plain:
    def __repr__(self) -> str:
        return "<plain>"


class BadRepr:
    def __repr__(self) -> str:
        raise OSError("no")


class SurrogateRepr:
    def __repr__(self) -> str:
        return "bad \ud800"


class BadModel(BaseModel):
    value: Any

    def model_dump(self, **options: Any) -> dict[str, Any]:
        raise OSError("no")


class BadMapping(UserDict[str, int]):
    def __iter__(self) -> Any:
        raise OSError("no")


class BadProperty:
    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise OSError("no")

    def __repr__(self) -> str:
        return "<bad>"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "null"),
        (True, "true"),
        (1, "1"),
        (1.5, "1.5"),
        ("é\n", '"é\\n"'),
        ([1, [2]], "[1,[2]]"),
        ((1, (2,)), "[1,[2]]"),
        (Pair(1, 2), "[1,2]"),
        ({1}, "[1]"),
        (frozenset({1}), "[1]"),
        (Point(1), '{"x":1,"y":2}'),
        (Point(Point(1)), '{"x":{"x":1,"y":2},"y":2}'),
        (Slotted(), '{"x":1}'),
        (Point, "\"<class 'tests.test_jsonable.Point'>\""),
        (Model(name="a", inner={1}), '{"name":"a","inner":[1]}'),
        ([Model(name="a")], '[{"name":"a","inner":null}]'),
        (OrderedDict(b=1, a=2), '{"b":1,"a":2}'),
        (UserDict({"a": 1}), '{"a":1}'),
        (Text("text"), '"text"'),
        ({Text("key"): Text("text")}, '{"key":"text"}'),
        (Colour.RED, '"red"'),
        (Level.LOW, "1"),
        (datetime(2026, 1, 2, 3, 4, 5), '"datetime.datetime(2026, 1, 2, 3, 4, 5)"'),
        (date(2026, 1, 2), '"datetime.date(2026, 1, 2)"'),
        (uuid.UUID(int=0), '"00000000-0000-0000-0000-000000000000"'),
        (Decimal("1.50"), "\"Decimal('1.50')\""),
        (b"ab", "\"b'ab'\""),
        (deque([1]), '"deque([1])"'),
        (UserList([1]), '"[1]"'),
        (Plain(), '"<plain>"'),
        ([Plain()], '["<plain>"]'),
        (float("nan"), "null"),
        ([float("inf"), float("-inf")], "[null,null]"),
        (2**63, "9223372036854775808"),
        (2**64 - 1, "18446744073709551615"),
        (2**64, '"18446744073709551616"'),
        (-(2**63) - 1, '"-9223372036854775809"'),
        ({"big": [2**70]}, '{"big":["1180591620717411303424"]}'),
        ("\ud800", '"?"'),
        (["a\udfffb"], '["a?b"]'),
        ({"\ud800": 1}, '{"?":1}'),
        (SurrogateRepr(), '"bad ?"'),
        ({1: "a", None: "b", False: "c"}, '{"1":"a","null":"b","false":"c"}'),
        ({(1, 2): "a"}, '{"(1, 2)":"a"}'),
        ({b"k": 1}, "{\"b'k'\":1}"),
        ({"a": {frozenset({1}): {2}}}, '{"a":{"frozenset({1})":[2]}}'),
        ([2**70, Point(1), (1,), float("nan")], '["1180591620717411303424",{"x":1,"y":2},[1],null]'),
        ([2**70, Model(name="a")], '["1180591620717411303424",{"name":"a","inner":null}]'),
        ([2**70, uuid.UUID(int=0)], '["1180591620717411303424","00000000-0000-0000-0000-000000000000"]'),
        ([2**70, Colour.RED, Level.LOW], '["1180591620717411303424","red",1]'),
        ([2**70, Text("text")], '["1180591620717411303424","text"]'),
        ({2**70: 1, None: 2}, '{"1180591620717411303424":1,"null":2}'),
        (Path("/a"), "\"PosixPath('/a')\""),
    ],
)
def test_value_is_shown_as(value: Any, expected: str) -> None:
    assert dumps(value).decode() == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (BadRepr(), '"<BadRepr whose repr raises OSError>"'),
        ([2**70, BadRepr()], '["1180591620717411303424","<BadRepr whose repr raises OSError>"]'),
        ({BadRepr(): 1}, '{"<BadRepr whose repr raises OSError>":1}'),
        ([BadModel(value=1)], '["BadModel(value=1)"]'),
        ([BadMapping({"a": 1})], "[\"{'a': 1}\"]"),
        ([BadProperty()], '["<bad>"]'),
    ],
)
def test_value_whose_own_code_fails_is_still_shown(value: Any, expected: str) -> None:
    assert dumps(value).decode() == expected


def test_cycle_ends_where_it_closes() -> None:
    cycle: list[Any] = [1]
    cycle += [cycle, {"again": cycle}]
    assert dumps(cycle) == b'[1,"...",{"again":"..."}]'


def test_cycle_of_objects_ends_where_it_closes() -> None:
    point = Point(1)
    point.x = {"self": point}
    assert dumps(point) == b'{"x":{"self":"..."},"y":2}'


def test_value_that_stands_twice_is_no_cycle() -> None:
    part = [2**70]
    assert dumps([part, part]) == b'[["1180591620717411303424"],["1180591620717411303424"]]'


@pytest.mark.parametrize("depth", [100, 300, 2_000, 100_000])
def test_deep_nesting_does_not_fail(depth: int) -> None:
    value: Any = "end"
    for _ in range(depth):
        value = [value]
    assert dumps(value).startswith(b"[[[")


def test_value_is_not_changed() -> None:
    value = {"a": [{1, 2}, 2**70], 3: "x"}
    copy = {"a": [{1, 2}, 2**70], 3: "x"}
    dumps(value)
    assert value == copy


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary() | st.datetimes(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(st.characters()) | st.integers() | st.none() | st.binary(), inner)
        | st.builds(Point, inner)
    ),
    max_leaves=20,
)


@given(ANYTHING)
def test_anything_becomes_json(value: Any) -> None:
    json.loads(dumps(value))


@pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {"a": value, "b": "text"}])
def test_a_value_is_too_deep_beyond_the_limit(wrap: Any) -> None:
    value: Any = "text"
    for _ in range(MAX_DEPTH):
        value = wrap(value)
    assert not is_too_deep(value)
    assert is_too_deep(wrap(value))


def test_a_value_that_holds_itself_twice_is_too_deep() -> None:
    value: list[Any] = []
    value += [value, value]
    assert is_too_deep(value)
