"""The grammar of `${...}`, and the scope in which references are resolved."""

import inspect
import re
from collections.abc import Collection, Container, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, get_args

from flowpod.flow.model import GivenVariable, Reference, SystemVariable, references_in

_MISSING = object()
_BYPASSED = object()
_OWN = re.compile(r"(sys|session|loop|item|index)((?:[.\[].*)?)")
_TOKEN = re.compile(r"(?:^|\.)(\w+)|\['([^']*)'\]|\[\"([^\"]*)\"\]|\[(\d+)\]")


def parse_value(value: Any, nodes: Container[str]) -> Any:
    """Return a Reference if the whole of `value` is `${...}`, else `value` itself.

    A reference inside a longer string stays text. `nodes` holds the names of the flow's nodes: a node named like one of
    the built-in sources takes precedence. Raises ValueError that explains an invalid reference.
    """
    if not (isinstance(value, str) and value.startswith("${") and value.endswith("}")):
        return value
    text = value[2:-1].strip()
    head, dot, rest = text.partition(".")
    if head in ("inputs", "flow"):
        if not rest:
            raise ValueError(f"{value} names no input: write ${{inputs.NAME}}")
        return Reference("inputs", rest)
    own = _OWN.fullmatch(text)
    if own and own[1] not in nodes:
        return _own_reference(value, own[1], own[2])
    if not dot:
        return Reference("node", head)
    section, dot, path = rest.partition(".")
    if section != "output":
        raise ValueError(f"{value}: after a node's name only .output may follow, then properties")
    return Reference("node", head, _path(value, path) if dot else ())


def parse_values(value: Any, nodes: Container[str]) -> Any:
    """Return `value` with every reference in its lists and mappings parsed; raises ValueError as `parse_value`."""
    if isinstance(value, dict):
        return {name: parse_values(item, nodes) for name, item in value.items()}
    if isinstance(value, list):
        return [parse_values(item, nodes) for item in value]
    return parse_value(value, nodes)


def _own_reference(value: str, source: str, text: str) -> Reference:
    path = _path(value, text.removeprefix(".")) if text else ()
    if source == "item":
        return Reference("item", "", path)
    if source == "index":
        if path:
            raise ValueError(f"{value}: the index is a number and has no properties")
        return Reference("index", "")
    whole, mappings = get_args(SystemVariable), get_args(GivenVariable)
    if source == "sys" and not (path and (path[0] in mappings or (path[0] in whole and len(path) == 1))):
        raise ValueError(f"{value}: there is no such variable; sys has {', '.join(whole + mappings)}")
    if not path or isinstance(path[0], int):
        raise ValueError(f"{value} names no variable: write ${{{source}.NAME}}")
    return Reference(source, path[0], path[1:])  # type: ignore[arg-type]  # one of the names in _OWN


def _path(value: str, text: str) -> tuple[str | int, ...]:
    path: list[str | int] = []
    end = 0
    while end < len(text):
        match = _TOKEN.match(text, end) if end else _TOKEN.match(text)
        if match is None:
            break
        word, single, double, index = match.groups()
        path.append(next(part for part in (word, single, double) if part is not None) if index is None else int(index))
        end = match.end()
    if not path or end < len(text):
        raise ValueError(f"{value}: properties are written .name, ['name'] or [0]")
    return tuple(path)


@dataclass(slots=True)
class Scope:
    """The values that references resolve to, in one run or in one round of a batch or a loop.

    `outer` is the scope around a round. The output of a bypassed node is None; `taken` holds the branches that a node
    took.
    """

    inputs: Mapping[str, Any]
    sys: Mapping[str, Any] = field(default_factory=dict)
    session: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    bypassed: set[str] = field(default_factory=set)
    taken: dict[str, Collection[str]] = field(default_factory=dict)
    outer: "Scope | None" = None
    loop: dict[str, Any] = field(default_factory=dict)
    item: Any = None
    index: int = 0

    def round(self, index: int, item: Any = None, loop: dict[str, Any] | None = None) -> "Scope":
        """Return the scope of one round inside this one; without `loop` it has the loop variables of this scope."""
        loop = self.loop if loop is None else loop
        return Scope(self.inputs, self.sys, self.session, outer=self, loop=loop, item=item, index=index)

    def is_bypassed(self, name: str) -> bool:
        """Return whether a node, of this scope or one around it, was bypassed."""
        return name in self.bypassed or (self.outer is not None and self.outer.is_bypassed(name))

    def taken_by(self, name: str) -> Collection[str]:
        """Return the branches that a node, of this scope or one around it, took."""
        if name in self.taken or self.outer is None:
            return self.taken.get(name, ())
        return self.outer.taken_by(name)

    def resolve(self, value: Any) -> Any:
        """Return `value` with all references in it resolved; raises LookupError that names the reference."""
        if isinstance(value, Reference):
            found = self._root(value)
            for key in () if found is _BYPASSED else value.path:
                try:
                    found = _part(found, key, value)
                except LookupError:
                    if value.source == "sys":
                        return None  # optional in a request, and its keys may be secret, so no message names them
                    raise
            return None if found is _BYPASSED else found
        if isinstance(value, dict) and references_in(value):
            return {name: self.resolve(item) for name, item in value.items()}
        if isinstance(value, list) and references_in(value):
            return [self.resolve(item) for item in value]
        return deepcopy(value) if isinstance(value, list | dict) else value  # a node's code may change it

    def _root(self, reference: Reference) -> Any:
        name = reference.name
        match reference.source:
            case "node":
                return self._node(name)
            case "inputs":
                return self.inputs.get(name)
            case "sys":
                return self.sys.get(name)
            case "session":
                return self.session.get(name)
            case "loop":
                return self.loop.get(name)
            case "item":
                return self.item
            case "index":
                return self.index

    def _node(self, name: str) -> Any:
        if name in self.outputs:
            return self.outputs[name]
        if name not in self.bypassed and self.outer is not None:
            return self.outer._node(name)
        return _BYPASSED


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
    # A method of a string, such as `title`, is not a property.
    if found is not _MISSING and not inspect.isroutine(found):
        return found
    raise LookupError(f"{reference}: {type(value).__name__} has no {key!r}")
