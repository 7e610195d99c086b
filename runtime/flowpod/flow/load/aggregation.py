"""Aggregation nodes: they sum up a batch run of many rows, which a service does not have."""

from collections.abc import Collection
from dataclasses import replace

from flowpod.flow.document.located_yaml import Source
from flowpod.flow.model import Flow, Node, references_in


def without_aggregation(flow: Flow, marked: Collection[str], source: Source) -> Flow:
    """Return what is left of a flow to serve without the nodes `marked` and all that refers to them.

    A warning says so for each of them.
    """
    if not marked:
        return flow
    removed = set(marked)
    while further := {node.name for node in flow.nodes.values() if _refers_to(node, removed)} - removed:
        removed |= further
    outputs = {name: output for name, output in flow.outputs.items() if not _is_of(output.value, removed)}
    for name in marked:
        source.add(("nodes", flow.nodes[name].index, "aggregation"), _lost(flow, name, removed, outputs), "warning")
    if removed >= flow.nodes.keys():
        source.add(
            ("nodes",), "every node aggregates a batch run or depends on one that does: there is nothing to serve"
        )
    return replace(
        flow,
        nodes={name: node for name, node in flow.nodes.items() if name not in removed},
        outputs=outputs,
        chat_output=flow.chat_output if flow.chat_output in outputs else None,
    )


def _lost(flow: Flow, name: str, removed: Collection[str], outputs: Collection[str]) -> str:
    text = f"node {name!r} aggregates the rows of a batch run and is not served"
    behind = [other for other in flow.nodes if other in removed and other != name]
    gone = [output for output in flow.outputs if output not in outputs]
    if behind or gone:
        parts = [f"{what} {', '.join(names)}" for what, names in (("nodes", behind), ("outputs", gone)) if names]
        text += f"; neither are {' and '.join(parts)}"
    return text


def _refers_to(node: Node, names: Collection[str]) -> bool:
    return not node.needs().isdisjoint(names)


def _is_of(value: object, names: Collection[str]) -> bool:
    return any(reference.source == "node" and reference.name in names for reference in references_in(value))
