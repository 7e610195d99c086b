"""Which node's stream goes to which output, computed once when the flow is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass

from flowpod.flow.model import Flow, Reference, references_in


@dataclass(frozen=True, slots=True)
class Wiring:
    """Where streams go.

    `segments` maps each streamed output to the nodes whose texts it consists of, in order: the one node that it refers
    to, or its output nodes. `feeds` maps a node to the outputs that its text is a segment of. `teed` are the nodes
    whose streams output nodes read. `sources` maps every other output to the nodes that it refers to. `late` are the
    outputs that refer to session variables, which have their final values only after the last node.
    """

    segments: Mapping[str, tuple[str, ...]]
    feeds: Mapping[str, tuple[str, ...]]
    teed: frozenset[str]
    sources: Mapping[str, frozenset[str]]
    late: tuple[str, ...]

    @classmethod
    def of(cls, flow: Flow) -> "Wiring":
        """Return the wiring of a flow."""
        segments: dict[str, list[str]] = {}
        teed: set[str] = set()
        for node in flow.nodes.values():
            if node.writes_to is not None:
                segments.setdefault(node.writes_to or flow.chat_output or "", []).append(node.name)
                teed |= {value.name for value in node.inputs.values() if _is_whole_node(value)}
        sources, late = {}, []
        for name, output in flow.outputs.items():
            references = references_in(output.value)
            if _is_whole_node(output.value):
                segments[name] = [output.value.name]
            elif any(reference.source == "session" for reference in references):
                late.append(name)
            elif name not in segments:
                sources[name] = frozenset(reference.name for reference in references if reference.source == "node")
        feeds: dict[str, list[str]] = {}
        for name, nodes in segments.items():
            for node_name in nodes:
                feeds.setdefault(node_name, []).append(name)
        return cls(
            {name: tuple(nodes) for name, nodes in segments.items()},
            {name: tuple(outputs) for name, outputs in feeds.items()},
            frozenset(teed),
            sources,
            tuple(late),
        )

    def can_stream(self, node: str) -> bool:
        """Return whether an output or an output node reads the node's chunks as they come."""
        return node in self.feeds or node in self.teed

    def sources_of(self, flow: Flow, output: str) -> set[str]:
        """Return the nodes whose streams the output is made of, also through output nodes."""
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
