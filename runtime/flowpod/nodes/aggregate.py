"""The aggregate node: brings branches together again."""

from collections.abc import Mapping
from typing import Any

from flowpod.nodes.kind import Context, NodeSpec, Resources


class AggregateNode:
    """Gives each group's first or last input that is not empty; null, "", [] and {} are empty, 0 and false are not."""

    optional: frozenset[str] = frozenset()
    waits_for_nodes = False

    def __init__(self, spec: NodeSpec, resources: Resources) -> None:  # noqa: ARG002
        self._groups: Mapping[str, Mapping[str, Any]] = spec.options["groups"]

    async def run(self, inputs: Mapping[str, Any], context: Context) -> dict[str, Any]:  # noqa: ARG002
        """Return a value for each group."""
        return {name: _pick(group, inputs) for name, group in self._groups.items()}


def _pick(group: Mapping[str, Any], inputs: Mapping[str, Any]) -> Any:
    names = group["inputs"] if group["pick"] == "first" else reversed(group["inputs"])
    values = (inputs.get(name) for name in names)
    return next((value for value in values if not _is_empty(value)), None)


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str | list | tuple | dict) and not value)
