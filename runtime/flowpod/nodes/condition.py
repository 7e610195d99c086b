"""The condition node: takes the first of its branches that holds."""

from collections.abc import Mapping
from typing import Any

from flowpod.models.base import Result
from flowpod.nodes.kind import Context, NodeSpec, Resources
from flowpod.nodes.operators import any_group_holds, check_patterns


class ConditionNode:
    """Compares its inputs; its value is `{"branch": name}`, null where no branch holds."""

    optional: frozenset[str] = frozenset()
    waits_for_nodes = False

    def __init__(self, spec: NodeSpec, resources: Resources) -> None:  # noqa: ARG002
        self._branches: list[Mapping[str, Any]] = spec.options["branches"]
        for place, branch in enumerate(self._branches):
            check_patterns(branch["any"] or (), f"branches.{place}.any")

    async def run(self, inputs: Mapping[str, Any], context: Context) -> Result:  # noqa: ARG002
        """Return the branch that was taken."""
        for branch in self._branches:
            if branch["any"] is None or any_group_holds(branch["any"], inputs):
                return Result({"branch": branch["name"]}, taken=(branch["name"],))
        return Result({"branch": None})
