"""The loop node: its nodes run again and again, each round with what the one before left in the loop's variables."""

from collections.abc import Mapping
from typing import Any

from flowpod.nodes.kind import Context, NodeSpec, Resources
from flowpod.nodes.operators import Groups, any_group_holds, check_patterns


class LoopNode:
    """Runs rounds until its condition holds or there have been enough; its value is the variables at the end."""

    optional: frozenset[str] = frozenset()
    waits_for_nodes = True

    def __init__(self, spec: NodeSpec, resources: Resources) -> None:  # noqa: ARG002
        self._max_rounds: int = spec.options["max_rounds"]
        self._until: Groups | None = spec.options["until"]
        check_patterns(self._until or (), "until")

    async def run(self, inputs: Mapping[str, Any], context: Context) -> dict[str, Any]:  # noqa: ARG002
        """Return the loop's variables."""
        variables = context.loop_variables()
        for index in range(self._max_rounds):
            await context.run_round(index, None, variables)
            if self._until is not None and any_group_holds(self._until, variables):
                break
        return variables
