"""The assign node: writes variables of the session or of a loop."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from flowpod.errors import NodeError
from flowpod.flow.document.base import NodeOptions, Section, Text
from flowpod.flow.model import Node
from flowpod.flow.node_check import NodeCheck
from flowpod.nodes.kind import BuiltNode, Context, Kind, Resources

Operation = Literal["set", "append", "extend", "increase", "clear"]


class Assignment(Section):
    """One change of a variable."""

    variable: str = Field(pattern=r"^(session|loop)\..+$", description="session.NAME or loop.NAME.")
    operation: Operation = "set"
    value: Any = Field(None, description="The value to set, append, add and so on.")
    input: Text = Field("", description="The input that holds the value, instead of `value`.")


class AssignOptions(NodeOptions):
    """Writes variables of the session or of the loop around it."""

    assignments: list[Assignment] = Field(min_length=1)


class AssignNode(BuiltNode):
    """Makes its assignments in order. Its value maps each variable to what it then holds."""

    def __init__(self, node: Node, options: AssignOptions, resources: Resources) -> None:  # noqa: ARG002
        self._assignments = options.assignments

    async def run(self, inputs: Mapping[str, Any], context: Context) -> dict[str, Any]:
        """Write the variables."""
        written = {}
        for assignment in self._assignments:
            name, operation = assignment.variable, assignment.operation
            value = inputs.get(assignment.input) if assignment.input else assignment.value
            try:
                context.write_variable(name, _assigned(context.read_variable(name), operation, value))
            except (TypeError, ValueError) as error:
                text = f"{name}: cannot {operation} {value!r}: {error}"
                raise NodeError(text, code="invalid_assignment") from error
            written[name] = context.read_variable(name)  # converted to the variable's type
        return written


def _assigned(old: Any, operation: Operation, value: Any) -> Any:
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
        case "set":
            return value


def _check(options: AssignOptions, check: NodeCheck) -> None:
    for place, assignment in enumerate(options.assignments):
        key = ("assignments", place)
        if assignment.input:
            check.require_input((*key, "input"), assignment.input)
        source, _, name = assignment.variable.partition(".")
        known = check.variables(source)
        if name not in known:
            text = f"there is no {source} variable {name!r} here; there are {', '.join(known) or 'none'}"
            check.error((*key, "variable"), text)


ASSIGN = Kind(
    "assign", AssignOptions, dashscope_type="VariableAssign", build=AssignNode, check=_check, runs_inline=True
)
