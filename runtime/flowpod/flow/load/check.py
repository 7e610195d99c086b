"""Whether the parts of a flow fit each other: names, references, branches and variables."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from flowpod.flow.document.located_yaml import Key, Source
from flowpod.flow.kinds import FlowKinds
from flowpod.flow.model import SECRET_VARIABLES, Flow, Node, Reference, references_in
from flowpod.flow.node_check import NodeCheck, no_connection
from flowpod.flow.plan import Graph


def check_flow(flow: Flow, kinds: FlowKinds, source: Source) -> frozenset[str]:
    """Report what does not fit. Return the names of the nodes that their own kind's check, or a connection, failed."""
    check = _Check(flow, kinds, source)
    check.run()
    return frozenset(check.failed)


def all_nodes(nodes: Sequence[Node]) -> Iterator[Node]:
    """Yield nodes in the file's order, each followed by those inside it."""
    for node in nodes:
        yield node
        yield from all_nodes(node.body)


class _Check:
    def __init__(self, flow: Flow, kinds: FlowKinds, source: Source) -> None:
        self._flow = flow
        self._kinds = kinds
        self.failed: set[str] = set()
        self._source = source
        self._nodes = {node.name: node for node in all_nodes(list(flow.nodes.values()))}
        self._known = True

    def run(self) -> None:
        self._check_names()
        top = list(self._flow.nodes.values())
        for name, output in self._flow.outputs.items():
            self._check_value(("outputs", name, "reference"), output.value, self._flow.nodes, ())
        self._check_level(top, {}, ())
        self._check_cycles(top, ("nodes",))

    def _check_names(self) -> None:
        # A flow's nodes are a mapping by now, so twins at the top are counted in what the file says.
        content = self._source.content if isinstance(self._source.content, dict) else {}
        for name, count in Counter(_names(content.get("nodes"))).items():
            if count > 1:
                self._source.add(("nodes",), f"{count} nodes are named {name!r}")

    def _check_level(self, nodes: Sequence[Node], around: Mapping[str, Node], inside: tuple[Node, ...]) -> None:
        """Check the nodes of one list. `around` are the nodes outside that they may refer to."""
        visible = {**around, **{node.name: node for node in nodes}}
        for node in nodes:
            for name, value in node.inputs.items():
                key = (*node.key, "inputs", name)
                self._check_value(key, value, visible, inside, takes_secrets=node.takes_secrets)
            if node.activate is not None:
                self._check_value((*node.key, "activate", "when"), node.activate.when, visible, inside)
            self._check_edges(node, visible)
            self._check_kind(node, inside)
            if node.body:
                outer = {name: other for name, other in visible.items() if name != node.name}
                self._check_container(node, visible, inside)
                self._check_level(node.body, outer, (*inside, node))
                self._check_cycles(node.body, (*node.key, "nodes"))

    def _check_container(self, node: Node, visible: Mapping[str, Node], inside: tuple[Node, ...]) -> None:
        for variable in node.variables:
            self._check_value((*node.key, "variables", variable.name, "default"), variable.default, visible, inside)
        own = {inner.name: inner for inner in node.body}
        self._check_value((*node.key, "result"), node.result, {**visible, **own}, (*inside, node))

    def _check_value(
        self,
        key: Key,
        value: Any,
        visible: Mapping[str, Node],
        inside: tuple[Node, ...],
        *,
        takes_secrets: bool = False,
    ) -> None:
        for reference in references_in(value):
            if reference.source == "sys" and reference.name in SECRET_VARIABLES and not takes_secrets:
                kinds = " and ".join(kind.name for kind in self._kinds.values() if kind.takes_secrets)
                text = f"{reference} is a secret of the caller's; only the inputs of {kinds} nodes may refer to it"
                self._note(key, text)
            self._check_reference(key, reference, visible, inside)

    def _check_reference(
        self, key: Key, reference: Reference, visible: Mapping[str, Node], inside: tuple[Node, ...]
    ) -> None:
        loop = next((node for node in reversed(inside) if node.body_scope == "loop"), None)
        match reference.source:
            case "inputs":
                self._require(key, reference, "input", self._flow.inputs)
            case "node":
                self._require(key, reference, "node", visible)
            case "session":
                self._require(key, reference, "session variable", self._flow.variables)
            case "loop" if loop is not None:
                self._require(key, reference, "loop variable", [variable.name for variable in loop.variables])
            case "loop":
                self._note(key, f"{reference} stands only inside a loop")
            case "item" if not any(node.body_scope == "item" for node in inside):
                self._note(key, f"{reference} stands only inside a batch")
            case "index" if not inside:
                self._note(key, f"{reference} stands only inside a loop or a batch")

    def _require(self, key: Key, reference: Reference, what: str, known: Collection[str]) -> None:
        if reference.name not in known:
            inside = f"; {reference.name!r} is inside another node" if reference.name in self._nodes else ""
            there = f"there are {', '.join(known) or 'none'}"
            self._note(key, f"{reference}: there is no {what} {reference.name!r}{inside}; {there}")

    def _note(self, key: Key, message: str) -> None:
        self._known = False
        self._source.add(key, message)

    def _check_edges(self, node: Node, visible: Mapping[str, Node]) -> None:
        for place, edge in enumerate(node.after):
            key = (*node.key, "after", place)
            other = visible.get(edge.node)
            if other is None:
                self._note(key, f"there is no node {edge.node!r} here")
            elif edge.branch is not None and edge.branch not in (branches := other.branches):
                self._note(key, f"{edge.node!r} has no branch {edge.branch!r}; it has {', '.join(branches) or 'none'}")

    def _check_cycles(self, nodes: Sequence[Node], key: Key) -> None:
        by_name = {node.name: node for node in nodes}
        if self._known and (cycle := Graph.of(by_name).cycle()):
            text = f"nodes wait for each other: {' -> '.join([*cycle, cycle[0]])}"
            self._source.add((*key, by_name[cycle[0]].index), text)

    def _check_kind(self, node: Node, inside: tuple[Node, ...]) -> None:
        check = NodeCheck(node, inside, self._flow, self._source)
        for key, name in node.connections.items():
            if name not in self._flow.connections:
                check.error((key,), f"node {node.name!r}: {no_connection(name)}")
        self._kinds[node.type].check(node.options, check)
        if check.failed:
            self._known = False
            self.failed.add(node.name)


def _names(nodes: Any) -> Iterator[str]:
    for node in nodes if isinstance(nodes, list) else ():
        if isinstance(node, dict):
            yield str(node.get("name"))
            yield from _names(node.get("nodes"))
