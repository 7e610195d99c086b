"""Whether the parts of a flow fit each other: names, references, branches and variables."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from flowpod.flow.document.located_yaml import Key, Source
from flowpod.flow.model import SECRET_VARIABLES, Flow, Node, Reference, references_in
from flowpod.flow.plan import OUTPUT, Graph

_TAKES_SECRETS = ("python", "custom_llm")


def check_flow(flow: Flow, source: Source) -> None:
    """Note what does not fit."""
    _Check(flow, source).run()


def all_nodes(nodes: Sequence[Node]) -> Iterator[Node]:
    """Yield nodes in the file's order, each followed by those inside it."""
    for node in nodes:
        yield node
        yield from all_nodes(node.body)


class _Check:
    def __init__(self, flow: Flow, source: Source) -> None:
        self._flow = flow
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
        self._check_output_nodes(top)

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
                self._check_value(key, value, visible, inside, takes_secrets=node.type in _TAKES_SECRETS)
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
                kinds = " and ".join(_TAKES_SECRETS)
                text = f"{reference} is a secret of the caller's; only the inputs of {kinds} nodes may refer to it"
                self._note(key, text)
            self._check_reference(key, reference, visible, inside)

    def _check_reference(
        self, key: Key, reference: Reference, visible: Mapping[str, Node], inside: tuple[Node, ...]
    ) -> None:
        loop = next((node for node in reversed(inside) if node.type == "loop"), None)
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
            case "item" if not any(node.type == "batch" for node in inside):
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
            elif edge.branch is not None and edge.branch not in (branches := branches_of(other)):
                self._note(key, f"{edge.node!r} has no branch {edge.branch!r}; it has {', '.join(branches) or 'none'}")

    def _check_cycles(self, nodes: Sequence[Node], key: Key) -> None:
        by_name = {node.name: node for node in nodes}
        if self._known and (cycle := Graph.of(by_name).cycle()):
            text = f"nodes wait for each other: {' -> '.join([*cycle, cycle[0]])}"
            self._source.add((*key, by_name[cycle[0]].index), text)

    def _check_kind(self, node: Node, inside: tuple[Node, ...]) -> None:
        match node.type:
            case "condition":
                self._check_branches(node)
            case "aggregate":
                for name, group in node.options["groups"].items():
                    for given in group["inputs"]:
                        self._require_input((*node.key, "groups", name), given, node.inputs)
            case "assign":
                self._check_assignments(node, inside)
            case "batch":
                for given in node.options["over"]:
                    self._require_input((*node.key, "over"), given, node.inputs)
                if not node.inputs:
                    self._note((*node.key, "inputs"), f"the batch {node.name!r} has no list to run over")
            case "loop":
                names = [variable.name for variable in node.variables]
                self._check_groups((*node.key, "until"), node.options["until"] or [], names)
            case "output" if inside:
                text = (
                    f"the output node {node.name!r} stands inside {inside[-1].name!r}; only the flow itself has outputs"
                )
                self._note(node.key, text)

    def _check_branches(self, node: Node) -> None:
        branches = node.options["branches"]
        for place, branch in enumerate(branches):
            key = (*node.key, "branches", place)
            if branch["any"] is None and place < len(branches) - 1:
                self._note(key, f"the else branch {branch['name']!r}, which has no any, must be the last one")
            self._check_groups((*key, "any"), branch["any"] or [], node.inputs)
        for name, count in Counter(branch["name"] for branch in branches).items():
            if count > 1:
                self._note((*node.key, "branches"), f"{count} branches are named {name!r}")

    def _check_groups(self, key: Key, groups: Sequence[Mapping[str, Any]], names: Collection[str]) -> None:
        for place, group in enumerate(groups):
            for number, comparison in enumerate(group["all"]):
                for given in (comparison["input"], comparison["value_from"]):
                    if given:
                        self._require_input((*key, place, "all", number), given, names)

    def _require_input(self, key: Key, name: str, names: Collection[str]) -> None:
        if name not in names:
            self._note(key, f"there is no input {name!r} here; there are {', '.join(names) or 'none'}")

    def _check_assignments(self, node: Node, inside: tuple[Node, ...]) -> None:
        loop = next((other for other in reversed(inside) if other.type == "loop"), None)
        for place, assignment in enumerate(node.options["assignments"]):
            key = (*node.key, "assignments", place)
            if assignment["input"]:
                self._require_input((*key, "input"), assignment["input"], node.inputs)
            source, _, name = assignment["variable"].partition(".")
            known = (
                list(self._flow.variables) if source == "session" else [v.name for v in loop.variables] if loop else []
            )
            if name not in known:
                text = f"there is no {source} variable {name!r} here; there are {', '.join(known) or 'none'}"
                self._note((*key, "variable"), text)

    def _check_output_nodes(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            if node.type != OUTPUT:
                continue
            to = node.options["to"] or self._flow.chat_output
            if to is None:
                self._note((*node.key, "to"), "the flow has no chat output, so `to` must name an output")
            elif to not in self._flow.outputs:
                known = ", ".join(self._flow.outputs) or "none"
                self._note((*node.key, "to"), f"there is no output {to!r}; there are {known}")
            elif self._flow.outputs[to].value is not None:
                self._note((*node.key, "to"), f"the output {to!r} has a reference of its own; take one of the two away")


def branches_of(node: Node) -> list[str]:
    """Return the branches that nodes may come after."""
    branches = [branch["name"] for branch in node.options.get("branches", ())]
    return [*branches, node.on_error.branch] if node.on_error and node.on_error.branch else branches


def _names(nodes: Any) -> Iterator[str]:
    for node in nodes if isinstance(nodes, list) else ():
        if isinstance(node, dict):
            yield str(node.get("name"))
            yield from _names(node.get("nodes"))
