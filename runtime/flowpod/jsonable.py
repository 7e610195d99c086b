"""JSON of values that a flow made: whatever JSON cannot hold is shown as its repr; NaN and infinities are null."""

import dataclasses
from collections.abc import Mapping, Set
from datetime import datetime
from typing import Any

import orjson
from pydantic import BaseModel

_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATETIME
MAX_DEPTH = 200
"""How many lists and objects a value may have inside each other: what Python's stack takes in every walk over it."""


def dumps(value: Any) -> bytes:
    """Return `value` as compact UTF-8 JSON; never fails."""
    try:
        return orjson.dumps(value, default=_default, option=_OPTIONS)
    except BaseException:  # noqa: BLE001 - as `default` may: a value's own code raises anything
        # Integers beyond 64 bits, lone surrogates, cycles and keys of odd types: rare, so found by failing.
        return orjson.dumps(_plain(value, ()), option=_OPTIONS)


def as_text(value: Any) -> str:
    """Return `value` as a person reads it: text as it is, null as nothing, anything else as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else dumps(value).decode()


def is_too_deep(value: Any) -> bool:
    """Return whether lists and objects stand inside each other more than MAX_DEPTH deep; one that holds itself does."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        parts = [part.values() if isinstance(part, dict) else part for part in level if isinstance(part, dict | list)]
        if not parts:
            return False
        # Each part of a level counts once, or a value that holds itself twice would take for ever.
        level = list({id(item): item for part in parts for item in part if isinstance(item, dict | list)}.values())
    return True


def timestamp(time: datetime) -> str:
    """Return a time in UTC as every protocol writes it: ISO 8601 with microseconds and a Z."""
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
        return _encodable(repr(value))
    except BaseException as error:  # noqa: BLE001 - a value's own code may raise anything
        return f"<{type(value).__name__} whose repr raises {type(error).__name__}>"


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _plain(value: Any, around: tuple[int, ...]) -> Any:
    """Return `value` with nothing in it that orjson refuses; `around` holds the ids of the values that it is in."""
    if len(around) > MAX_DEPTH or id(value) in around:
        return "..."
    try:
        return _parts(value, (*around, id(value)))
    except BaseException:  # noqa: BLE001 - a value's own code may raise anything
        return _repr(value)


def _parts(value: Any, around: tuple[int, ...]) -> Any:
    if isinstance(value, str):
        return _encodable(value)
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return repr(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name), around) for field in dataclasses.fields(value)}
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(), around)
    if isinstance(value, Mapping):
        return {_key(key): _plain(item, around) for key, item in value.items()}
    if isinstance(value, list | tuple | Set):
        return [_plain(item, around) for item in value]
    try:
        return orjson.loads(orjson.dumps(value, default=_default, option=_OPTIONS))
    except TypeError:
        return _repr(value)


def _key(key: Any) -> str:
    if isinstance(key, str):
        return _encodable(key)
    try:
        return str(next(iter(orjson.loads(orjson.dumps({key: 0}, option=_OPTIONS)))))
    except TypeError:
        return _repr(key)
