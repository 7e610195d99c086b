"""What each family of operators takes, when it holds, and what it refuses."""

from typing import Any

import pytest

from flowpod.errors import NodeError
from flowpod.nodes.operators import Comparison, ComparisonGroup, Operator, any_group_holds, holds


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
        ("a" * 1000 + "b", "matches", "(a|aa)+$", False),  # in Python's engine this takes forever
        ("abc", "length_equals", 3, True),
        ([], "length_greater", 0, False),
        ({"a": 1}, "length_greater_or_equal", 1, True),
        ("", "length_less", 1, True),
        ([1], "length_less_or_equal", 0, False),
    ],
)
def test_comparison_holds_or_does_not(left: Any, operator: Operator, right: Any, expected: bool) -> None:
    assert holds(left, operator, right) is expected


@pytest.mark.parametrize("pattern", ["(", r"(a)\1", "a(?=b)", "(a{1000}){1000}"])
def test_invalid_pattern_is_an_error(pattern: str) -> None:
    with pytest.raises(NodeError, match="is not a regular expression"):
        holds("a", "matches", pattern)


@pytest.mark.parametrize(
    ("left", "operator", "right", "message"),
    [
        (1, "is_true", None, "is_true needs a value of kind bool, not number"),
        (None, "is_false", None, "is_false needs a value of kind bool, not null"),
        (True, "greater", 0, "greater needs a value of kind number or string, not bool"),
        (1, "less", None, "less needs a comparison with a value of kind number or string, not null"),
        (1, "less_or_equal", "2", "less_or_equal cannot compare a number with a string"),
        (3, "contains", 3, "contains needs a value of kind string or list or object, not number"),
        ("abc", "contains", 1, "contains cannot compare a string with a number"),
        ({"k": 1}, "not_contains", None, "not_contains cannot compare a object with a null"),
        (["a"], "matches", "a", "matches needs a value of kind string, not list"),
        ("a", "matches", None, "matches needs a comparison with a value of kind string, not null"),
        (3, "length_equals", 3, "length_equals needs a value of kind string or list or object, not number"),
        ("abc", "length_less", "4", "length_less needs a comparison with a value of kind number, not string"),
    ],
)
def test_values_of_another_kind_are_refused(left: Any, operator: Operator, right: Any, message: str) -> None:
    with pytest.raises(NodeError) as caught:
        holds(left, operator, right)
    assert (caught.value.code, caught.value.message) == ("invalid_comparison", message)


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
