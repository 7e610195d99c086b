"""The condition node: takes the first of its branches that holds."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from flowpod.flow.document.base import NodeOptions, Section
from flowpod.flow.model import Node
from flowpod.flow.node_check import NodeCheck
from flowpod.models.base import Result
from flowpod.nodes.kind import BuiltNode, Context, Kind, Resources
from flowpod.nodes.operators import ComparisonGroup, any_group_holds, check_groups, check_patterns


class Branch(Section):
    """A branch of a condition. The one without `any` is the else branch."""

    name: str = Field(min_length=1)
    any: list[ComparisonGroup] | None = Field(
        None, min_length=1, description="The branch is taken when one of these holds."
    )


class ConditionOptions(NodeOptions):
    """Takes the first branch that holds. Nodes follow it with after: [node.branch]."""

    branches: list[Branch] = Field(min_length=1)


class ConditionNode(BuiltNode):
    """Compares its inputs. Its value is `{"branch": name}`, null where no branch holds."""

    def __init__(self, node: Node, options: ConditionOptions, resources: Resources) -> None:  # noqa: ARG002
        self._branches = options.branches
        for place, branch in enumerate(self._branches):
            check_patterns(branch.any or (), f"branches.{place}.any")

    async def run(self, inputs: Mapping[str, Any], context: Context) -> Result:  # noqa: ARG002
        """Return the branch that is taken."""
        for branch in self._branches:
            if branch.any is None or any_group_holds(branch.any, inputs):
                return Result({"branch": branch.name}, taken=(branch.name,))
        return Result({"branch": None})


def _check(options: ConditionOptions, check: NodeCheck) -> None:
    for place, branch in enumerate(options.branches):
        if branch.any is None and place < len(options.branches) - 1:
            text = f"the else branch {branch.name!r}, which has no any, must be the last one"
            check.error(("branches", place), text)
        check_groups(check, ("branches", place, "any"), branch.any or (), check.node.inputs)
    for name, count in Counter(branch.name for branch in options.branches).items():
        if count > 1:
            check.error(("branches",), f"{count} branches are named {name!r}")


CONDITION = Kind(
    "condition",
    ConditionOptions,
    dashscope_type="Judge",
    build=ConditionNode,
    check=_check,
    branches=lambda options: [branch.name for branch in options.branches],
    runs_inline=True,
)
