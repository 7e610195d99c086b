"""The literals among a node's inputs, as promptflow reads them (promptflow, contracts/tool.py)."""

import json
from typing import Any

_EXPECTED = {int: "an integer", float: "a number", bool: "true or false", list: "a list"}


def read_literal(value: Any, kind: type) -> Any:
    """Return `value` as a `kind`: int, float, bool, str, list, or object, for which text is read as JSON if it is.

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
    """Return what a text says in JSON; the text itself where it is none, and anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
