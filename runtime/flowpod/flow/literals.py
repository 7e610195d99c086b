"""Conversion of the literals among a node's inputs, as promptflow does it (promptflow, contracts/tool.py)."""

import json
from typing import Any

_EXPECTED = {int: "an integer", float: "a number", bool: "true or false", list: "a list"}


def read_literal(value: Any, kind: type) -> Any:
    """Convert `value` to int, float, bool, str, list, or object, which parses text that is JSON.

    Raises ValueError that says what was expected.
    """
    try:
        return _read(value, kind)
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise ValueError(f"expected {_EXPECTED[kind]}, got {value!r}") from None


def _read(value: Any, kind: type) -> Any:
    if kind in (int, float):
        return kind(value)
    if kind is bool:
        if isinstance(value, str):
            value = {"true": True, "false": False}.get(value.lower())
        if not isinstance(value, bool):
            raise ValueError(value)
        return value
    if kind is list:
        value = json.loads(value) if isinstance(value, str) else value
        if not isinstance(value, list):
            raise ValueError(value)
        return value
    if kind is str:
        return value if isinstance(value, str) else str(value)
    return json_or_text(value)


def json_or_text(value: Any) -> Any:
    """Return the value of a JSON text. Other text, and anything else, is returned unchanged."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
