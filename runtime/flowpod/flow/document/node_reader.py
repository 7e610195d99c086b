"""From the nodes of the file to the nodes of the flow."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowpod.flow.document.base import NodeOptions, VariableOptions
from flowpod.flow.document.located_yaml import NOT_A_MAPPING, Key, Source
from flowpod.flow.kinds import BodyOptions, FlowKind, FlowKinds
from flowpod.flow.model import Activation, Edge, Node, OnError, Reference, Retry, Variable
from flowpod.flow.references import parse_value, parse_values
from flowpod.flow.values import coerce


@dataclass(frozen=True, slots=True)
class NodeDocument:
    """A node of the file, read by its kind's model, with the nodes inside it."""

    key: Key
    kind: FlowKind
    options: NodeOptions
    body: BodyOptions | None
    nodes: tuple["NodeDocument", ...]


def read_node_documents(source: Source, kinds: FlowKinds, key: Key, nodes: Sequence[Any]) -> tuple[NodeDocument, ...]:
    """Read the nodes of the list at `key`. A node that is not valid is left out, and its problems are reported."""
    documents = (_read_node(source, kinds, (*key, index), node) for index, node in enumerate(nodes))
    return tuple(document for document in documents if document is not None)


def _read_node(source: Source, kinds: FlowKinds, key: Key, node: Any) -> NodeDocument | None:
    if not isinstance(node, dict):
        source.add(key, NOT_A_MAPPING)
        return None
    if "type" not in node:
        source.add((*key, "type"), "this key is required")
        return None
    kind = kinds.get(node["type"]) if isinstance(node["type"], str) else None
    if kind is None:
        source.add((*key, "type"), f"there is no node kind {node['type']!r}; the kinds are {', '.join(kinds)}")
        return None
    options = source.read(kind.options, node, key)
    if options is None:
        return None
    body = kind.body(options) if kind.body is not None else None
    nodes = read_node_documents(source, kinds, (*key, "nodes"), body.nodes) if body is not None else ()
    return NodeDocument(key, kind, options, body, nodes)


def names_of(documents: Iterable[NodeDocument]) -> set[str]:
    """Return the names of the nodes and of all nodes inside them."""
    names = set()
    for document in documents:
        names |= {document.options.name, *names_of(document.nodes)}
    return names


class NodeReader:
    """Makes the flow's nodes and values, and reports problems. `names` are the names of all nodes of the flow."""

    def __init__(self, source: Source, names: set[str]) -> None:
        self._source = source
        self._names = names

    def read_nodes(self, documents: Sequence[NodeDocument]) -> tuple[Node, ...]:
        """Return the nodes of one list."""
        return tuple(self._node(index, document) for index, document in enumerate(documents))

    def read_variables(self, key: Key, variables: Mapping[str, VariableOptions]) -> dict[str, Variable]:
        """Return the variables declared at `key`, each default converted to its variable's type."""
        read = {}
        for name, options in variables.items():
            default = self.read_references((*key, name, "default"), options.default)
            if default is not None and not isinstance(default, Reference):
                try:
                    default = coerce(default, options.type)
                except ValueError as error:
                    self._source.add((*key, name, "default"), str(error))
            read[name] = Variable(name, options.type, default)
        return read

    def read_references(self, key: Key, value: Any) -> Any:
        """Return the value at `key` with every reference in its lists and mappings parsed."""
        return self._parsed(parse_values, key, value)

    def _parsed(self, parse: Callable[[Any, set[str]], Any], key: Key, value: Any) -> Any:
        try:
            return parse(value, self._names)
        except ValueError as error:
            self._source.add(key, str(error))
            return None

    def _node(self, index: int, document: NodeDocument) -> Node:
        key, kind, options = document.key, document.kind, document.options
        body = document.body or BodyOptions((), "")
        on_error = self._on_error(key, options)
        branches = [*kind.branches(options), *([on_error.branch] if on_error and on_error.branch else [])]
        return Node(
            name=options.name,
            type=kind.name,
            index=index,
            inputs={
                name: self._parsed(parse_value, (*key, "inputs", name), value) for name, value in options.inputs.items()
            },
            options=options,
            key=key,
            activate=self._activation(key, options),
            after=tuple(self._edge(text) for text in options.after),
            retry=Retry(options.retry.max, options.retry.interval_ms / 1000) if options.retry else None,
            timeout_s=options.timeout_s,
            on_error=on_error,
            description=options.description,
            display_name=options.display_name,
            branches=tuple(branches),
            connections=options.connections,
            writes_to=None if kind.writes_to is None else kind.writes_to(options),
            takes_secrets=kind.takes_secrets,
            body=self.read_nodes(document.nodes),
            body_scope=body.scope,
            variables=tuple(self.read_variables((*key, "variables"), body.variables).values()),
            result=self.read_references((*key, "result"), body.result),
        )

    def _activation(self, key: Key, options: NodeOptions) -> Activation | None:
        if options.activate is None:
            return None
        when = self._parsed(parse_value, (*key, "activate", "when"), options.activate.when)
        return Activation(when, options.activate.is_)

    def _edge(self, text: str) -> Edge:
        node, dot, branch = text.rpartition(".")
        return Edge(node, branch) if dot and text not in self._names else Edge(text)

    def _on_error(self, key: Key, options: NodeOptions) -> OnError | None:
        if options.on_error is None:
            return None
        has_default = "default" in options.on_error.model_fields_set
        if has_default == bool(options.on_error.branch):
            self._source.add((*key, "on_error"), "give either default, a value, or branch, a name")
        return OnError(options.on_error.branch or None, options.on_error.default)
