"""The comparisons of conditions: each says for which values it holds, and refuses others."""

from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Literal, get_args

import re2  # type: ignore[import-untyped]

from flowpod.errors import BuildError, NodeError

Groups = Sequence[Mapping[str, Any]]
"""Groups of comparisons as a flow writes them: one group must hold, and of it every comparison."""
Kind = Literal["null", "bool", "number", "string", "list", "object"]


@dataclass(frozen=True, slots=True)
class _Rule:
    """`left` are the kinds of value that the operator takes, `right` those that it is compared with, none for unary."""

    left: tuple[Kind, ...]
    right: tuple[Kind, ...]
    holds: Callable[[Any, Any], bool]
    same_kind: bool = False


_ANY: tuple[Kind, ...] = get_args(Kind)
_ORDERED: tuple[Kind, ...] = ("number", "string")
_SIZED: tuple[Kind, ...] = ("string", "list", "object")


def _length(compare: Callable[[int, Any], bool]) -> _Rule:
    return _Rule(_SIZED, ("number",), lambda left, right: compare(len(left), right))


def _ordered(compare: Callable[[Any, Any], bool]) -> _Rule:
    return _Rule(_ORDERED, _ORDERED, compare, same_kind=True)


# RE2 takes time in proportion to the text, whatever the pattern: Python's own engine could hold up the event loop, and
# everybody on it, for hours over a text that somebody sent.
_QUIET = re2.Options()
_QUIET.log_errors = False


def _pattern(text: str) -> Any:
    try:
        return re2.compile(text.encode(errors="replace"), _QUIET)  # which keeps those that were used last
    except re2.error as error:
        reason = error.args[0].decode(errors="replace")
        message = f"matches: {text[:80]!r} is no regular expression of RE2's: {reason}"
        raise NodeError(message, code="invalid_comparison") from None


def _matches(left: str, right: str) -> bool:
    return _pattern(right).search(left.encode(errors="replace")) is not None


def _equal(left: Any, right: Any) -> bool:
    """Return whether two values are equal, of the same kind, and so is what stands in them."""
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
    """Return whether `left operator right`; numbers, strings and booleans are never taken for each other.

    Raises NodeError when the operator does not hold for such values, or a pattern is no regular expression.
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


def _mismatch(operator: str, what: str, kind: Kind, kinds: tuple[Kind, ...]) -> NodeError:
    return NodeError(f"{operator} needs {what} of kind {' or '.join(kinds)}, not {kind}", code="invalid_comparison")


def _kind(value: Any) -> Kind:
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list() | tuple():
            return "list"
        case Mapping():
            return "object"
        case Sized():
            return "list"
        case _:
            return "object"


def any_group_holds(groups: Groups, values: Mapping[str, Any]) -> bool:
    """Return whether all comparisons of at least one group hold; raises NodeError as `holds` does."""
    return any(all(_holds(comparison, values) for comparison in group["all"]) for group in groups)


def _holds(comparison: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    other = comparison["value_from"]
    return holds(
        values.get(comparison["input"]), comparison["operator"], values.get(other) if other else comparison["value"]
    )


def check_patterns(groups: Groups, key: str) -> None:
    """Raise BuildError for a pattern that the flow writes and that is none; the groups stand at `key` of the node."""
    for place, group in enumerate(groups):
        for number, comparison in enumerate(group["all"]):
            if comparison["operator"] == "matches" and not comparison["value_from"]:
                try:
                    holds("", "matches", comparison["value"])
                except NodeError as error:
                    raise BuildError(f"{key}.{place}.all.{number}.value", error.message) from None
