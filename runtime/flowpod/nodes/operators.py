"""Comparisons, as conditions and loops write them: each operator takes some types of values and refuses others."""

from collections.abc import Callable, Collection, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Literal, get_args

import re2  # type: ignore[import-untyped]
from pydantic import Field

from flowpod.errors import BuildError, NodeError
from flowpod.flow.document.base import Section, Text
from flowpod.flow.document.located_yaml import Key
from flowpod.flow.node_check import NodeCheck

_Equality = Literal["equals", "not_equals", "is_null", "is_not_null", "is_true", "is_false"]
_Order = Literal["greater", "greater_or_equal", "less", "less_or_equal"]
_Contents = Literal["contains", "not_contains", "matches"]
_Length = Literal["length_equals", "length_greater", "length_greater_or_equal", "length_less", "length_less_or_equal"]
Operator = Literal[_Equality, _Order, _Contents, _Length]
ValueKind = Literal["null", "bool", "number", "string", "list", "object"]


class Comparison(Section):
    """One comparison: an input of the node with a value, or with another input."""

    input: str = Field(description="The name of an input of the node; in a loop's `until`, of a loop variable.")
    operator: Operator
    value: Any = Field(None, description="What the input is compared with.")
    value_from: Text = Field("", description="The name of the input that it is compared with, instead of `value`.")


class ComparisonGroup(Section):
    """Comparisons that must all hold."""

    all: list[Comparison] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class _Rule:
    """`left` are the types of value that the operator takes, `right` those that it compares with, if any."""

    left: tuple[ValueKind, ...]
    right: tuple[ValueKind, ...]
    holds: Callable[[Any, Any], bool]
    same_kind: bool = False


_ANY: tuple[ValueKind, ...] = get_args(ValueKind)
_ORDERED: tuple[ValueKind, ...] = ("number", "string")
_SIZED: tuple[ValueKind, ...] = ("string", "list", "object")


def _length(compare: Callable[[int, Any], bool]) -> _Rule:
    return _Rule(_SIZED, ("number",), lambda left, right: compare(len(left), right))


def _ordered(compare: Callable[[Any, Any], bool]) -> _Rule:
    return _Rule(_ORDERED, _ORDERED, compare, same_kind=True)


# RE2 takes time in proportion to the text, whatever the pattern. Python's own engine could block the event loop, and so
# every run, for hours over a text that a caller sent.
_QUIET = re2.Options()
_QUIET.log_errors = False


def _pattern(text: str) -> Any:
    try:
        return re2.compile(text.encode(errors="replace"), _QUIET)  # it caches the last ones
    except re2.error as error:
        reason = error.args[0].decode(errors="replace")
        message = f"matches: {text[:80]!r} is not a regular expression of RE2: {reason}"
        raise NodeError(message, code="invalid_comparison") from None


def _matches(left: str, right: str) -> bool:
    return _pattern(right).search(left.encode(errors="replace")) is not None


def _equal(left: Any, right: Any) -> bool:
    """Return whether two values, and all values in them, are equal and of the same type."""
    kind = _kind(left)
    if kind != _kind(right):
        return False
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(_equal(item, right[name]) for name, item in left.items())
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(_equal, left, right))
    return bool(left == right)


def _contains(left: Any, right: Any) -> bool:
    return right in left if _kind(left) in ("string", "object") else any(_equal(item, right) for item in left)


_RULES: Mapping[str, _Rule] = {
    "equals": _Rule(_ANY, _ANY, _equal),
    "not_equals": _Rule(_ANY, _ANY, lambda left, right: not _equal(left, right)),
    "is_null": _Rule(_ANY, (), lambda left, _: left is None),
    "is_not_null": _Rule(_ANY, (), lambda left, _: left is not None),
    "is_true": _Rule(("bool",), (), lambda left, _: left is True),
    "is_false": _Rule(("bool",), (), lambda left, _: left is False),
    "greater": _ordered(lambda left, right: left > right),
    "greater_or_equal": _ordered(lambda left, right: left >= right),
    "less": _ordered(lambda left, right: left < right),
    "less_or_equal": _ordered(lambda left, right: left <= right),
    "contains": _Rule(_SIZED, _ANY, _contains),
    "not_contains": _Rule(_SIZED, _ANY, lambda left, right: not _contains(left, right)),
    "matches": _Rule(("string",), ("string",), _matches),
    "length_equals": _length(lambda left, right: left == right),
    "length_greater": _length(lambda left, right: left > right),
    "length_greater_or_equal": _length(lambda left, right: left >= right),
    "length_less": _length(lambda left, right: left < right),
    "length_less_or_equal": _length(lambda left, right: left <= right),
}


def holds(left: Any, operator: str, right: Any = None) -> bool:
    """Return whether `left operator right`. Numbers, strings and booleans are never converted into each other.

    Raises NodeError when the operator does not take such values, or a pattern is not a regular expression.
    """
    rule = _RULES[operator]
    kind, other = _kind(left), _kind(right)
    if kind not in rule.left:
        raise _mismatch(operator, "a value", kind, rule.left)
    if rule.right and other not in rule.right:
        raise _mismatch(operator, "a comparison with a value", other, rule.right)
    needs_text = operator in ("contains", "not_contains") and kind in ("string", "object")
    if (rule.same_kind and kind != other) or (needs_text and other != "string"):
        raise NodeError(f"{operator} cannot compare a {kind} with a {other}", code="invalid_comparison")
    return rule.holds(left, right)


def _mismatch(operator: str, what: str, kind: ValueKind, kinds: tuple[ValueKind, ...]) -> NodeError:
    return NodeError(f"{operator} needs {what} of kind {' or '.join(kinds)}, not {kind}", code="invalid_comparison")


def _kind(value: Any) -> ValueKind:
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case int() | float():
            return "number"
        case str():
            return "string"
        case Sized() if not isinstance(value, Mapping):
            return "list"
    return "object"


def any_group_holds(groups: Sequence[ComparisonGroup], values: Mapping[str, Any]) -> bool:
    """Return whether all comparisons of at least one group hold; raises NodeError as `holds` does."""
    return any(all(_comparison_holds(comparison, values) for comparison in group.all) for group in groups)


def _comparison_holds(comparison: Comparison, values: Mapping[str, Any]) -> bool:
    right = values.get(comparison.value_from) if comparison.value_from else comparison.value
    return holds(values.get(comparison.input), comparison.operator, right)


def check_groups(check: NodeCheck, key: Key, groups: Sequence[ComparisonGroup], names: Collection[str]) -> None:
    """Report comparisons, in the groups at `key`, of inputs that are not among `names`."""
    for place, group in enumerate(groups):
        for number, comparison in enumerate(group.all):
            for name in filter(None, (comparison.input, comparison.value_from)):
                check.require_input((*key, place, "all", number), name, names)


def check_patterns(groups: Sequence[ComparisonGroup], key: str) -> None:
    """Raise BuildError for an invalid pattern in the groups at `key` of the node."""
    for place, group in enumerate(groups):
        for number, comparison in enumerate(group.all):
            if comparison.operator == "matches" and not comparison.value_from:
                try:
                    holds("", "matches", comparison.value)
                except NodeError as error:
                    raise BuildError(f"{key}.{place}.all.{number}.value", error.message) from None
