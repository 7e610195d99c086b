"""Conversions of values and of literals: promptflow's (promptflow, contracts/tool.py), and LangStudio's files."""

import json
from typing import Any

from flowpod.flow.model import FILE_TYPES, ValueType
from flowpod.jsonable import MAX_DEPTH, is_too_deep

_INTEGERS = range(-(2**63), 2**64)  # 64 bits: what JSON can hold wherever values are stored and sent
_FILE_FIELDS = ("source_uri", "download_url", "file_id", "file_name", "file_type")


def coerce(value: Any, kind: ValueType) -> Any:
    """Convert `value` to the type `kind`.

    Strings are converted to numbers, and numbers to integers by truncation; "true" and "false" in any case to booleans;
    JSON text to lists and objects; anything to a string. A file is a mapping of its known fields. Raises ValueError
    that says what was expected, also for a value that is nested too deeply.
    """
    _check_depth(value)
    if kind == "int":
        return _integer(value)
    if kind == "double":
        return _number(value, float, "a number")
    if kind == "bool":
        return _boolean(value)
    if kind == "list":
        return _container(value, list, "a list")
    if kind == "object":
        return _container(value, dict, "an object")
    if kind in ("string", "secret", "prompt_template"):
        return value if isinstance(value, str) else str(value)
    if kind in FILE_TYPES:
        return _file(value)
    return value


def read_literal(value: Any, kind: type) -> Any:
    """Convert a literal to int, float, bool, str, list, or object (parses JSON). Raises ValueError."""
    if kind is int:
        return _number(value, int, "an integer")
    if kind is float:
        return _number(value, float, "a number")
    if kind is bool:
        return _boolean(value)
    if kind is list:
        found = json_or_text(value)
        if not isinstance(found, list):
            raise ValueError(f"expected a list, got {_shown(value)}")
        return found
    if kind is str:
        return value if isinstance(value, str) else str(value)
    return json_or_text(value)


def json_or_text(value: Any) -> Any:
    """Return the value of a JSON text. Other text, and anything else, is returned unchanged."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value


def _integer(value: Any) -> int:
    number = int(_number(value, int, "an integer"))
    if number not in _INTEGERS:
        raise ValueError(f"expected an integer of 64 bits, got {_shown(value)}")
    return number


def _number(value: Any, kind: type[int] | type[float], expected: str) -> int | float:
    try:
        return kind(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"expected {expected}, got {_shown(value)}") from None


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise ValueError(f"expected true or false, got {_shown(value)}")


def _container(value: Any, kind: type[list[Any]] | type[dict[str, Any]], expected: str) -> Any:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError(f"expected {expected}, got text that is not JSON: {_shown(value)}") from None
        _check_depth(value)
    if not isinstance(value, kind):
        raise ValueError(f"expected {expected}, got {_shown(value)}")
    return value


def _check_depth(value: Any) -> None:
    if is_too_deep(value):
        raise ValueError(f"expected a value of at most {MAX_DEPTH} lists and objects inside each other")


def _file(value: Any) -> dict[str, str]:
    fields = _container(value, dict, "an object with source_uri")
    if not fields.get("source_uri"):
        raise ValueError("source_uri is missing")
    for name in _FILE_FIELDS:
        if not isinstance(fields.get(name), str | None):
            raise ValueError(f"{name}: expected text, got {_shown(fields[name])}")
    return {name: fields[name] for name in _FILE_FIELDS if fields.get(name)}


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        return f"{type(value).__name__} with an integer of too many digits"
    return text if len(text) <= 80 else text[:77] + "..."
