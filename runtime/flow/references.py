"""The grammar of `${...}` and how a reference is looked up."""

import inspect
import re
from collections.abc import Container, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, get_args

from runtime.flow.model import Reference, SystemVariable

_MISSING = object()
_TOKEN = re.compile(r"(?:^|\.)(\w+)|\['([^']*)'\]|\[\"([^\"]*)\"\]|\[(\d+)\]")


def parse_value(value: Any, nodes: Container[str]) -> Any:
    """Return a Reference if the whole of `value` is `${...}`, else `value` itself.

    A reference inside a longer string stays text. `nodes` holds the names of the flow's nodes: a node named `sys`
    keeps its name. Raises ValueError that says what is wrong with the reference.
    """
    if not (isinstance(value, str) and value.startswith("${") and value.endswith("}")):
        return value
    head, dot, rest = value[2:-1].strip().partition(".")
    if head in ("inputs", "flow"):
        if not rest:
            raise ValueError(f"{value} names no input: write ${{inputs.NAME}}")
        return Reference("inputs", rest)
    if head == "sys" and head not in nodes:
        if rest not in get_args(SystemVariable):
            raise ValueError(f"{value}: there is no such variable; sys has {', '.join(get_args(SystemVariable))}")
        return Reference("sys", rest)
    if not dot:
        return Reference("node", head)
    section, dot, path = rest.partition(".")
    if section != "output":
        raise ValueError(f"{value}: after a node's name only .output may follow, then properties")
    return Reference("node", head, _path(value, path) if dot else ())


def _path(value: str, text: str) -> tuple[str | int, ...]:
    path: list[str | int] = []
    end = 0
    while end < len(text):
        match = _TOKEN.match(text, end) if end else _TOKEN.match(text)
        if match is None:
            break
        word, single, double, index = match.groups()
        path.append(
            int(index) if index is not None else next(part for part in (word, single, double) if part is not None)
        )
        end = match.end()
    if not path or end < len(text):
        raise ValueError(f"{value}: properties are written .name, ['name'] or [0]")
    return tuple(path)


@dataclass(slots=True)
class Scope:
    """The values that references of one run see. A bypassed node's output is None."""

    inputs: Mapping[str, Any]
    sys: Mapping[str, Any] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    bypassed: set[str] = field(default_factory=set)

    def resolve(self, value: Any) -> Any:
        """Return `value`, or what it refers to.

        Raises LookupError that names the reference and the part that is missing.
        """
        if not isinstance(value, Reference):
            return deepcopy(value) if isinstance(value, list | dict) else value  # a node's code may change it
        if value.source == "inputs":
            return self.inputs.get(value.name)
        if value.source == "sys":
            return self.sys.get(value.name)
        if value.name in self.bypassed:
            return None
        found = self.outputs[value.name]
        for key in value.path:
            found = _part(found, key, value)
        return found


def _part(value: Any, key: str | int, reference: Reference) -> Any:
    if isinstance(value, Mapping):
        if key in value:
            return value[key]
        known = ", ".join(repr(name) for name in list(value)[:20])
        raise LookupError(f"{reference}: there is no key {key!r}; the keys are {known or 'none'}")
    if isinstance(key, int):
        if isinstance(value, Sequence) and not isinstance(value, str) and key < len(value):
            return value[key]
        raise LookupError(f"{reference}: there is no item {key} in {type(value).__name__}")
    found = getattr(value, key, _MISSING)
    if found is not _MISSING and not inspect.isroutine(found):  # a text has a method `title`, but no such property
        return found
    raise LookupError(f"{reference}: {type(value).__name__} has no {key!r}")
