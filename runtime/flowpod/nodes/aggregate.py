"""The aggregate node: brings branches together again."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from flowpod.flow.document.base import NodeOptions, Section
from flowpod.flow.model import Node
from flowpod.flow.node_check import NodeCheck
from flowpod.nodes.kind import BuiltNode, Context, Kind, Resources


class InputGroup(Section):
    """A group of an aggregate node."""

    inputs: list[str] = Field(min_length=1, description="Inputs of the node, in order.")
    pick: Literal["first", "last"] = "first"


_list_as_group = BeforeValidator(lambda value: {"inputs": value} if isinstance(value, list) else value)


class AggregateOptions(NodeOptions):
    """Gives, for each group, the first or last of its inputs that is not empty."""

    groups: dict[str, Annotated[InputGroup, _list_as_group]] = Field(min_length=1)


class AggregateNode(BuiltNode):
    """Picks an input for each group. null, "", [] and {} are empty; 0 and false are not."""

    def __init__(self, node: Node, options: AggregateOptions, resources: Resources) -> None:  # noqa: ARG002
        self._groups = options.groups

    async def run(self, inputs: Mapping[str, Any], context: Context) -> dict[str, Any]:  # noqa: ARG002
        """Return a value for each group."""
        return {name: _picked(group, inputs) for name, group in self._groups.items()}


def _picked(group: InputGroup, inputs: Mapping[str, Any]) -> Any:
    names = group.inputs if group.pick == "first" else reversed(group.inputs)
    values = (inputs.get(name) for name in names)
    return next((value for value in values if not _is_empty(value)), None)


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str | list | tuple | dict) and not value)


def _check(options: AggregateOptions, check: NodeCheck) -> None:
    for name, group in options.groups.items():
        for given in group.inputs:
            check.require_input(("groups", name), given)


AGGREGATE = Kind(
    "aggregate", AggregateOptions, dashscope_type="VariableHandle", build=AggregateNode, check=_check, runs_inline=True
)
