"""From the nodes of the document to the nodes of the flow."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flowpod.flow.document.base import CommonPart
from flowpod.flow.document.control_kinds import BatchPart, LoopPart, VariablePart
from flowpod.flow.document.flow import NodePart
from flowpod.flow.document.located_yaml import Key, Source
from flowpod.flow.model import Activation, Edge, Node, OnError, Reference, Retry, Variable
from flowpod.flow.paths import kind_of, leads_out
from flowpod.flow.references import parse_value, parse_values
from flowpod.flow.values import coerce

_NOT_OPTIONS = {*CommonPart.model_fields, "type", "nodes", "variables", "result"}


def names_in(parts: Iterable[CommonPart]) -> set[str]:
    """Return the names of the nodes, those inside batches and loops too."""
    names = set()
    for part in parts:
        names.add(part.name)
        if isinstance(part, BatchPart | LoopPart):
            names |= names_in(part.nodes)
    return names


class NodeReader:
    """Reads nodes, noting problems on the way. `names` are those of all the flow's nodes."""

    def __init__(self, source: Source, folder: Path, names: set[str]) -> None:
        self._source = source
        self._folder = folder
        self._names = names

    def nodes(self, key: Key, parts: Sequence[CommonPart]) -> list[Node]:
        """Return the nodes of a list that stands at `key`."""
        return [self._node((*key, index), index, part) for index, part in enumerate(parts)]

    def variables(self, key: Key, parts: Mapping[str, VariablePart]) -> dict[str, Variable]:
        """Return variables with their defaults, each of its type."""
        variables = {}
        for name, part in parts.items():
            default = self.values((*key, name, "default"), part.default)
            if default is not None and not isinstance(default, Reference):
                try:
                    default = coerce(default, part.type)
                except ValueError as error:
                    self._source.add((*key, name, "default"), str(error))
            variables[name] = Variable(name, part.type, default)
        return variables

    def values(self, key: Key, value: Any) -> Any:
        """Return a value with all references in it parsed."""
        try:
            return parse_values(value, self._names)
        except ValueError as error:
            self._source.add(key, str(error))
            return None

    def _node(self, key: Key, index: int, part: CommonPart) -> Node:
        path = connection = ""
        if isinstance(part, NodePart):
            connection = part.connection
            if part.source.type != "package":
                path = part.source.path
                self._check_file(key, part)
            if part.overrides and part.type != "llm":
                self._source.add(
                    (*key, "overrides"), f"node {part.name!r}: only llm nodes leave parameters to a request"
                )
        activate = None
        if part.activate is not None:
            activate = Activation(self._value((*key, "activate", "when"), part.activate.when), part.activate.is_)
        body: tuple[Node, ...] = ()
        if isinstance(part, BatchPart | LoopPart):
            body = tuple(self.nodes((*key, "nodes"), part.nodes))
        variables = self.variables((*key, "variables"), part.variables) if isinstance(part, LoopPart) else {}
        return Node(
            name=part.name,
            type=str(getattr(part, "type", "")),
            index=index,
            path=path,
            inputs={name: self._value((*key, "inputs", name), value) for name, value in part.inputs.items()},
            connection=connection,
            api=part.api if isinstance(part, NodePart) else "chat",
            source=part.source.type if isinstance(part, NodePart) else "code",
            tool=part.source.tool if isinstance(part, NodePart) else "",
            overrides=tuple(part.overrides) if isinstance(part, NodePart) else (),
            activate=activate,
            description=part.description,
            display_name=part.display_name,
            key=key,
            after=tuple(self._edge(text) for text in part.after),
            retry=Retry(part.retry.max, part.retry.interval_ms / 1000) if part.retry else None,
            timeout_s=part.timeout_s,
            on_error=self._on_error(key, part),
            options={} if isinstance(part, NodePart) else part.model_dump(exclude=_NOT_OPTIONS),
            body=body,
            variables=tuple(variables.values()),
            result=self.values((*key, "result"), part.result) if isinstance(part, BatchPart) else None,
        )

    def _check_file(self, key: Key, part: NodePart) -> None:
        path = part.source.path
        at = (*key, "source", "path")
        if not path:
            self._source.add(at, f"node {part.name!r} names no file")
        elif kind_of(self._folder / path) != "file":
            self._source.add(at, f"there is no file {path!r} in the flow's folder")
        elif leads_out(path):
            self._source.add(at, f"{path!r} lies outside the flow's folder")

    def _value(self, key: Key, value: Any) -> Any:
        try:
            return parse_value(value, self._names)
        except ValueError as error:
            self._source.add(key, str(error))
            return None

    def _edge(self, text: str) -> Edge:
        node, dot, branch = text.rpartition(".")
        return Edge(node, branch) if dot and text not in self._names else Edge(text)

    def _on_error(self, key: Key, part: CommonPart) -> OnError | None:
        if part.on_error is None:
            return None
        has_default = "default" in part.on_error.model_fields_set
        if has_default == bool(part.on_error.branch):
            self._source.add((*key, "on_error"), "give either default, a value, or branch, a name")
        return OnError(part.on_error.branch or None, part.on_error.default)
