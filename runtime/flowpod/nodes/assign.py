"""The assign node: writes variables of the session or of a loop."""

from collections.abc import Mapping
from typing import Any

from flowpod.errors import NodeError
from flowpod.nodes.kind import Context, NodeSpec, Resources


class AssignNode:
    """Makes its assignments in order; its value is what each variable then holds, by name."""

    optional: frozenset[str] = frozenset()
    waits_for_nodes = False

    def __init__(self, spec: NodeSpec, resources: Resources) -> None:  # noqa: ARG002
        self._assignments: list[Mapping[str, Any]] = spec.options["assignments"]

    async def run(self, inputs: Mapping[str, Any], context: Context) -> dict[str, Any]:
        """Write the variables."""
        written = {}
        for assignment in self._assignments:
            name = assignment["variable"]
            value = inputs.get(assignment["input"]) if assignment["input"] else assignment["value"]
            try:
                context.write_variable(name, _assigned(context.read_variable(name), assignment["operation"], value))
            except (TypeError, ValueError) as error:
                text = f"{name}: cannot {assignment['operation']} {value!r}: {error}"
                raise NodeError(text, code="invalid_assignment") from error
            written[name] = context.read_variable(name)  # as its type has it
        return written


def _assigned(old: Any, operation: str, value: Any) -> Any:
    match operation:
        case "append":
            return [*(old or []), value]
        case "extend":
            if not isinstance(value, list | tuple):
                raise TypeError("a list is needed")
            return [*(old or []), *value]
        case "increase":
            return (old or 0) + value
        case "clear":
            return None
        case _:
            return value
