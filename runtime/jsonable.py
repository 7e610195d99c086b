"""JSON of values that a flow made: whatever JSON cannot hold is shown as its repr; NaN and infinities are null."""

import dataclasses
from collections.abc import Mapping, Set
from typing import Any

import orjson
from pydantic import BaseModel

_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATETIME
_MAX_DEPTH = 200


def dumps(value: Any) -> bytes:
    """Return `value` as compact UTF-8 JSON; never fails."""
    try:
        return orjson.dumps(value, default=_default, option=_OPTIONS)
    except (TypeError, ValueError, RecursionError):
        # Integers beyond 64 bits, lone surrogates, cycles and keys of odd types: rare, so found by failing.
        return orjson.dumps(_plain(value, 0), option=_OPTIONS)


def jsonable(value: Any) -> Any:
    """Return `value` as what its JSON says: dicts, lists, strings, numbers, booleans and None."""
    return value if isinstance(value, str | int | bool | None) else orjson.loads(dumps(value))


def _default(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Set | tuple):
        return list(value)
    return _repr(value)


def _repr(value: Any) -> str:
    try:
        return repr(value).encode("utf-8", "replace").decode()
    except Exception as error:  # noqa: BLE001 - a value's own code may raise anything
        return f"<{type(value).__name__} whose repr raises {type(error).__name__}>"


def _plain(value: Any, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        return "..."
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, bool | float | None):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else repr(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name), depth + 1) for field in dataclasses.fields(value)}
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(), depth + 1)
    if isinstance(value, Mapping):
        return {_plain(str(key), depth): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | Set):
        return [_plain(item, depth + 1) for item in value]
    return _repr(value)
