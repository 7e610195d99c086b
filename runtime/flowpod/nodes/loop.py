"""The loop node: runs its nodes again and again, each round with the variables that the round before left."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from flowpod.flow.document.base import NodeOptions, VariableOptions, empty_if_none
from flowpod.flow.kinds import BodyOptions
from flowpod.flow.model import Node
from flowpod.flow.node_check import NodeCheck
from flowpod.nodes.kind import BuiltNode, Context, Kind, Resources
from flowpod.nodes.operators import ComparisonGroup, any_group_holds, check_groups, check_patterns


class LoopOptions(NodeOptions):
    """Runs its nodes again and again, until a condition on its variables holds or the maximum is reached."""

    variables: Annotated[dict[str, VariableOptions], BeforeValidator(empty_if_none)] = Field(default_factory=dict)
    max_rounds: int = Field(ge=1, le=1000)
    until: list[ComparisonGroup] | None = Field(
        None, min_length=1, description="The loop ends when one of these holds."
    )
    nodes: list[Any] = Field(min_length=1)


class LoopNode(BuiltNode):
    """Runs rounds until its condition holds or the maximum is reached. Its value is the variables at the end."""

    waits_for_nodes = True

    def __init__(self, node: Node, options: LoopOptions, resources: Resources) -> None:  # noqa: ARG002
        self._max_rounds = options.max_rounds
        self._until = options.until
        check_patterns(self._until or (), "until")

    async def run(self, inputs: Mapping[str, Any], context: Context) -> dict[str, Any]:  # noqa: ARG002
        """Return the loop's variables."""
        variables = context.loop_variables()
        for index in range(self._max_rounds):
            await context.run_body(index, None, variables)
            if self._until is not None and any_group_holds(self._until, variables):
                break
        return variables


def _check(options: LoopOptions, check: NodeCheck) -> None:
    check_groups(check, ("until",), options.until or (), options.variables)


LOOP = Kind(
    "loop",
    LoopOptions,
    dashscope_type="Iterator",
    build=LoopNode,
    check=_check,
    body=lambda options: BodyOptions(options.nodes, "loop", variables=options.variables),
    runs_inline=True,
)
