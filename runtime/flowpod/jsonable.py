"""JSON encoding of any value that a flow produces. Values without a JSON form become their repr, NaN becomes null."""

import dataclasses
from collections.abc import Mapping, Set
from datetime import datetime
from typing import Any

import orjson
from pydantic import BaseModel

_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATETIME
MAX_DEPTH = 200
"""The maximum nesting depth of lists and objects; Python's stack is deep enough for every recursion over it."""


def dumps(value: Any) -> bytes:
    """Return `value` as compact UTF-8 JSON; never fails."""
    try:
        return orjson.dumps(value, default=_default, option=_OPTIONS)
    except BaseException:  # noqa: BLE001 - a value's own code, which `default` calls, may raise anything
        # Integers beyond 64 bits, lone surrogates, cycles and unusual key types are rare: nothing checks for them.
        return orjson.dumps(_encode(value, ()), option=_OPTIONS)


def as_text(value: Any) -> str:
    """Return a string unchanged, "" for None, and anything else as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else dumps(value).decode()


def is_too_deep(value: Any) -> bool:
    """Return whether lists and objects are nested more than MAX_DEPTH deep; a cyclic value always is."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        groups = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)]
        if not groups:
            return False
        # Each object is visited once a level: a value that contains itself twice would otherwise double each level.
        level = list({id(item): item for group in groups for item in group if isinstance(item, dict | list)}.values())
    return True


def is_longer_than(value: Any, limit: int) -> bool:
    """Return whether a text, or the texts in lists and objects, have more than `limit` characters.

    Every other value, and every list and object, counts as one. A value that is nested too deep is not searched.
    """
    if isinstance(value, str):
        return len(value) > limit
    if not isinstance(value, dict | list) or is_too_deep(value):
        return False
    size, waiting = 0, [value]
    while waiting:
        group = waiting.pop()
        if isinstance(group, dict):
            size += sum(len(key) if isinstance(key, str) else 1 for key in group)
        for item in group.values() if isinstance(group, dict) else group:
            size += len(item) if isinstance(item, str) else 1
            if isinstance(item, dict | list):
                waiting.append(item)
        if size > limit:
            return True
    return False


def encodable(text: str) -> str:
    """Return `text` with every half of an emoji (a lone surrogate) replaced by a question mark."""
    return text.encode("utf-8", "replace").decode()


def timestamp(time: datetime) -> str:
    """Format a UTC time as ISO 8601 with microseconds and a Z, the format of every protocol."""
    return time.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def _default(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Set | tuple):
        return list(value)
    if isinstance(value, bytes) and hasattr(value, "to_base64"):  # promptflow's image
        return {f"data:{getattr(value, '_mime_type', 'image/*')};base64": value.to_base64()}
    return _repr(value)


def _repr(value: Any) -> str:
    try:
        return encodable(repr(value))
    except BaseException as error:  # noqa: BLE001 - a value's own code may raise anything
        return f"<{type(value).__name__} whose repr raises {type(error).__name__}>"


def _encode(value: Any, parents: tuple[int, ...]) -> Any:
    """Return `value` in types that orjson accepts; `parents` are the ids of the containers around it."""
    if len(parents) > MAX_DEPTH or id(value) in parents:
        return "..."
    try:
        return _encode_by_type(value, (*parents, id(value)))
    except BaseException:  # noqa: BLE001 - a value's own code may raise anything
        return _repr(value)


def _encode_by_type(value: Any, parents: tuple[int, ...]) -> Any:
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return repr(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _encode(getattr(value, field.name), parents) for field in dataclasses.fields(value)}
    if isinstance(value, BaseModel):
        return _encode(value.model_dump(), parents)
    if isinstance(value, Mapping):
        return {_key(key): _encode(item, parents) for key, item in value.items()}
    if isinstance(value, list | tuple | Set):
        return [_encode(item, parents) for item in value]
    try:
        return orjson.loads(orjson.dumps(value, default=_default, option=_OPTIONS))
    except TypeError:
        return _repr(value)


def _key(key: Any) -> str:
    if isinstance(key, str):
        return encodable(key)
    try:
        return str(next(iter(orjson.loads(orjson.dumps({key: 0}, option=_OPTIONS)))))
    except TypeError:
        return _repr(key)
