"""Which node's stream goes where, worked out once when the flow is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass

from flowpod.flow.model import Flow, Reference, references_in


@dataclass(frozen=True, slots=True)
class Wiring:
    """Where streams go.

    `segments`: for each output that is streamed, the nodes whose texts it is made of, in order: the one node that it
    is the value of, or its output nodes. `feeds`: a node to the outputs that it is a segment of. `tapped`: the nodes
    whose streams output nodes take in. `parts`: the nodes that each other output refers to. `late`: the outputs that
    refer to session variables, which are what they are when the last node has ended.
    """

    segments: Mapping[str, tuple[str, ...]]
    feeds: Mapping[str, tuple[str, ...]]
    tapped: frozenset[str]
    parts: Mapping[str, frozenset[str]]
    late: tuple[str, ...]

    @classmethod
    def of(cls, flow: Flow) -> "Wiring":
        """Return the wiring of a flow."""
        segments: dict[str, list[str]] = {}
        tapped: set[str] = set()
        for node in flow.nodes.values():
            if node.writes_to is not None:
                segments.setdefault(node.writes_to or flow.chat_output or "", []).append(node.name)
                tapped |= {value.name for value in node.inputs.values() if _is_whole_node(value)}
        parts, late = {}, []
        for name, output in flow.outputs.items():
            references = references_in(output.value)
            if _is_whole_node(output.value):
                segments[name] = [output.value.name]
            elif any(reference.source == "session" for reference in references):
                late.append(name)
            elif name not in segments:
                parts[name] = frozenset(reference.name for reference in references if reference.source == "node")
        feeds: dict[str, list[str]] = {}
        for name, nodes in segments.items():
            for node_name in nodes:
                feeds.setdefault(node_name, []).append(name)
        return cls(
            {name: tuple(nodes) for name, nodes in segments.items()},
            {name: tuple(outputs) for name, outputs in feeds.items()},
            frozenset(tapped),
            parts,
            tuple(late),
        )

    def can_stream(self, node: str) -> bool:
        """Return whether anybody reads the node's chunks as they come."""
        return node in self.feeds or node in self.tapped

    def sources_of(self, flow: Flow, output: str) -> set[str]:
        """Return the nodes whose streams the output is made of, through output nodes too."""
        found = set()
        for name in self.segments.get(output, ()):
            node = flow.nodes[name]
            if node.writes_to is not None:
                found |= {value.name for value in node.inputs.values() if _is_whole_node(value)}
            else:
                found.add(name)
        return found


def _is_whole_node(value: object) -> bool:
    return isinstance(value, Reference) and value.source == "node" and not value.path
