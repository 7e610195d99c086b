"""Each operator with each kind of value: it holds, it does not, or it is an error."""

from typing import Any, get_args

import pytest
from flowpod.errors import NodeError
from flowpod.nodes.operators import Comparison, ComparisonGroup, Operator, any_group_holds, holds

VALUES: dict[str, Any] = {
    "null": None,
    "bool": True,
    "number": 3,
    "string": "abc",
    "list": ["a", "b"],
    "object": {"k": 1},
}
ALL = set(VALUES)
TAKES: dict[str, tuple[set[str], set[str]]] = {
    "equals": (ALL, ALL),
    "not_equals": (ALL, ALL),
    "is_null": (ALL, set()),
    "is_not_null": (ALL, set()),
    "is_true": ({"bool"}, set()),
    "is_false": ({"bool"}, set()),
    **dict.fromkeys(("greater", "greater_or_equal", "less", "less_or_equal"), ({"number", "string"}, {"same"})),
    **dict.fromkeys(("contains", "not_contains"), ({"string", "list", "object"}, {"part"})),
    "matches": ({"string"}, {"string"}),
    **dict.fromkeys(
        ("length_equals", "length_greater", "length_greater_or_equal", "length_less", "length_less_or_equal"),
        ({"string", "list", "object"}, {"number"}),
    ),
}


def allowed(operator: str, left: str, right: str) -> bool:
    lefts, rights = TAKES[operator]
    if left not in lefts:
        return False
    if rights == {"same"}:
        return left == right
    if rights == {"part"}:
        return left == "list" or right == "string"
    return not rights or right in rights


@pytest.mark.parametrize("operator", get_args(Operator))
@pytest.mark.parametrize("left", VALUES)
@pytest.mark.parametrize("right", VALUES)
def test_each_operator_takes_its_types_and_no_others(operator: Operator, left: str, right: str) -> None:
    if allowed(operator, left, right):
        assert holds(VALUES[left], operator, VALUES[right]) in (True, False)
    else:
        with pytest.raises(NodeError) as caught:
            holds(VALUES[left], operator, VALUES[right])
        assert caught.value.code == "invalid_comparison"
        assert operator in caught.value.message


@pytest.mark.parametrize(
    ("left", "operator", "right", "expected"),
    [
        (1, "equals", 1.0, True),
        ("1", "equals", 1, False),
        (1, "equals", True, False),
        (0, "not_equals", False, True),
        ([1, {"a": 1}], "equals", [1.0, {"a": 1}], True),
        ([1, {"a": 1}], "equals", [1, {"a": True}], False),
        ({"a": [0]}, "not_equals", {"a": [False]}, True),
        ({"a": 1, "b": 2}, "equals", {"b": 2, "a": 1}, True),
        ({"a": 1}, "equals", {"a": 1, "b": None}, False),
        ([1], "equals", [1, 2], False),
        ([1], "equals", (1,), True),
        ({1, 2}, "equals", {2, 1}, True),
        ({1, 2}, "equals", [1, 2], False),
        (None, "not_equals", "", True),
        (None, "is_null", None, True),
        (0, "is_not_null", None, True),
        (False, "is_false", None, True),
        (2, "greater", 1, True),
        (2, "greater_or_equal", 2, True),
        ("a", "less", "b", True),
        (2.5, "less_or_equal", 2, False),
        ("hello", "contains", "ell", True),
        ([1, 2], "contains", 2, True),
        ([1], "contains", True, False),
        ([[0]], "contains", [False], False),
        ({1, 2}, "contains", 2, True),
        ([0, 1], "not_contains", False, True),
        ({"k": None}, "contains", "k", True),
        ("hello", "not_contains", "x", True),
        ("order 66", "matches", r"\d+$", True),
        ("order", "matches", r"^\d", False),
        ("a\ud800b", "matches", "^a.b$", True),
        ("a" * 1000 + "b", "matches", "(a|aa)+$", False),  # in Python's engine this takes for ever
        ("abc", "length_equals", 3, True),
        ([], "length_greater", 0, False),
        ({"a": 1}, "length_greater_or_equal", 1, True),
        ("", "length_less", 1, True),
        ([1], "length_less_or_equal", 0, False),
    ],
)
def test_what_holds(left: Any, operator: Operator, right: Any, expected: bool) -> None:
    assert holds(left, operator, right) is expected


@pytest.mark.parametrize("pattern", ["(", r"(a)\1", "a(?=b)", "(a{1000}){1000}"])
def test_a_pattern_that_is_none_is_an_error(pattern: str) -> None:
    with pytest.raises(NodeError, match="is not a regular expression"):
        holds("a", "matches", pattern)


def test_every_operator_that_a_flow_may_write_is_tried_here() -> None:
    assert set(get_args(Operator)) == TAKES.keys()


def test_groups_are_joined_by_or_and_their_comparisons_by_and() -> None:
    def group(*comparisons: tuple[Any, ...]) -> ComparisonGroup:
        return ComparisonGroup(
            all=[
                Comparison(input=name, operator="equals", value=value, value_from=other)
                for name, value, other in comparisons
            ]
        )

    values = {"a": 1, "b": 2, "c": 1}
    assert any_group_holds([group(("a", 1, ""), ("b", 2, ""))], values)
    assert not any_group_holds([group(("a", 1, ""), ("b", 3, ""))], values)
    assert any_group_holds([group(("b", 3, "")), group(("a", None, "c"))], values)
