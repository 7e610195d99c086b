import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowpod.flow.model import ValueType
from flowpod.flow.values import coerce


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("int", 6, 6),
        ("int", "6", 6),
        ("int", " -6 ", -6),
        ("int", 7.9, 7),
        ("int", -7.9, -7),
        ("int", True, 1),
        ("int", 2**64 - 1, 2**64 - 1),
        ("int", str(-(2**63)), -(2**63)),
        ("double", 1, 1.0),
        ("double", "1.5", 1.5),
        ("double", "1e3", 1000.0),
        ("double", False, 0.0),
        ("bool", True, True),
        ("bool", "true", True),
        ("bool", "TRUE", True),
        ("bool", "False", False),
        ("string", "text", "text"),
        ("string", "", ""),
        ("string", 7, "7"),
        ("string", None, "None"),
        ("string", True, "True"),
        ("string", [1, "a"], "[1, 'a']"),
        ("secret", "s3cret", "s3cret"),
        ("prompt_template", "{{ a }}", "{{ a }}"),
        ("list", [1], [1]),
        ("list", "[1, {}]", [1, {}]),
        ("list", "[]", []),
        ("object", {"a": 1}, {"a": 1}),
        ("object", '{"a": [1]}', {"a": [1]}),
        ("file_path", "a/b", "a/b"),
        ("image", {"data": "x"}, {"data": "x"}),
        ("File", {"source_uri": "a", "file_id": None, "more": 1}, {"source_uri": "a"}),
        ("file", '{"source_uri": "a", "file_name": "b"}', {"source_uri": "a", "file_name": "b"}),
    ],
)
def test_value_is_read_as_its_type(kind: ValueType, value: Any, expected: Any) -> None:
    result = coerce(value, kind)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("int", "six", "expected an integer, got 'six'"),
        ("int", "6.5", "expected an integer, got '6.5'"),
        ("int", "", "expected an integer, got ''"),
        ("int", None, "expected an integer, got None"),
        ("int", [1], "expected an integer, got [1]"),
        ("int", math.nan, "expected an integer, got nan"),
        ("int", math.inf, "expected an integer, got inf"),
        ("int", "9" * 5000, f"expected an integer, got '{'9' * 76}..."),
        ("int", 2**64, "expected an integer of 64 bits, got 18446744073709551616"),
        ("int", -(2**63) - 1, "expected an integer of 64 bits, got -9223372036854775809"),
        ("int", 1e300, "expected an integer of 64 bits, got 1e+300"),
        pytest.param(
            "int", 16**5000, "expected an integer of 64 bits, got int with an integer of too many digits", id="digits"
        ),
        ("double", "a", "expected a number, got 'a'"),
        ("double", None, "expected a number, got None"),
        ("double", {}, "expected a number, got {}"),
        ("double", 10**400, f"expected a number, got 1{'0' * 76}..."),
        ("bool", "yes", "expected true or false, got 'yes'"),
        ("bool", "", "expected true or false, got ''"),
        ("bool", 1, "expected true or false, got 1"),
        ("bool", None, "expected true or false, got None"),
        ("list", "a, b", "expected a list, got text that is not JSON: 'a, b'"),
        ("list", "", "expected a list, got text that is not JSON: ''"),
        ("list", '{"a": 1}', "expected a list, got {'a': 1}"),
        ("list", {"a": 1}, "expected a list, got {'a': 1}"),
        ("list", None, "expected a list, got None"),
        ("object", "[1]", "expected an object, got [1]"),
        ("object", "{a: 1}", "expected an object, got text that is not JSON: '{a: 1}'"),
        ("object", 5, "expected an object, got 5"),
    ],
)
def test_value_of_another_type_is_refused_with_what_was_expected(kind: ValueType, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=r"^expected ") as caught:
        coerce(value, kind)
    assert str(caught.value) == message


@pytest.mark.parametrize("kind", ["list", "object"])
def test_json_nested_too_deep_is_refused(kind: ValueType) -> None:
    with pytest.raises(ValueError, match=r"^expected "):
        coerce("[" * 200_000 + "]" * 200_000, kind)


def test_refusal_shows_at_most_80_characters_of_the_value() -> None:
    with pytest.raises(ValueError, match=r"^expected a list") as caught:
        coerce("x" * 10_000, "list")
    assert str(caught.value).endswith("'" + "x" * 76 + "...")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.lists(JSON_VALUES) | st.dictionaries(st.text(), JSON_VALUES))
def test_container_and_its_json_text_are_the_same_value(value: Any) -> None:
    kind: ValueType = "list" if isinstance(value, list) else "object"
    assert coerce(json.dumps(value), kind) == value == coerce(value, kind)


@given(JSON_VALUES, st.sampled_from(("int", "double", "bool", "string", "list", "object")))
def test_any_json_value_is_read_or_refused(value: Any, kind: ValueType) -> None:
    types = {"int": int, "double": float, "bool": bool, "string": str, "list": list, "object": dict}
    try:
        result = coerce(value, kind)
    except ValueError as error:
        assert str(error).startswith("expected ")  # noqa: PT017 - either outcome is right
    else:
        assert type(result) is types[kind]
