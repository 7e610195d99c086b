"""Removing aggregation nodes: they summarize the rows of a batch run, which a service does not have."""

from collections.abc import Collection
from dataclasses import replace

from flowpod.flow.document.located_yaml import Source
from flowpod.flow.model import Flow, references_in


def without_aggregation(flow: Flow, marked: Collection[str], source: Source) -> Flow:
    """Return the flow without the nodes `marked` and all that refers to them, with a warning for each of `marked`."""
    if not marked:
        return flow
    removed = set(marked)
    while dependants := {node.name for node in flow.nodes.values() if node.needs() & removed} - removed:
        removed |= dependants
    outputs = {name: output for name, output in flow.outputs.items() if not _refers_to_any(output.value, removed)}
    for name in marked:
        source.add(("nodes", flow.nodes[name].index, "aggregation"), _warning(flow, name, removed, outputs), "warning")
    if removed >= flow.nodes.keys():
        text = "there is nothing to serve: every node aggregates a batch run or depends on a node that does"
        source.add(("nodes",), text)
    return replace(
        flow,
        nodes={name: node for name, node in flow.nodes.items() if name not in removed},
        outputs=outputs,
        chat_output=flow.chat_output if flow.chat_output in outputs else None,
    )


def _warning(flow: Flow, name: str, removed: Collection[str], outputs: Collection[str]) -> str:
    text = f"node {name!r} aggregates the rows of a batch run and is not served"
    dependants = [other for other in flow.nodes if other in removed and other != name]
    lost_outputs = [output for output in flow.outputs if output not in outputs]
    if dependants or lost_outputs:
        lost = {"nodes": dependants, "outputs": lost_outputs}
        parts = [f"{what} {', '.join(names)}" for what, names in lost.items() if names]
        text += f"; neither are {' and '.join(parts)}"
    return text


def _refers_to_any(value: object, names: Collection[str]) -> bool:
    return any(reference.source == "node" and reference.name in names for reference in references_in(value))
