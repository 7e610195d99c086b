"""The control nodes as their authors write them: what promptflow never had."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from flowpod.flow.document.base import CommonPart, Part, Text, empty_if_none
from flowpod.flow.model import ValueType

if TYPE_CHECKING:
    from flowpod.flow.document.flow import AnyNode

Operator = Literal[
    "equals",
    "not_equals",
    "is_null",
    "is_not_null",
    "is_true",
    "is_false",
    "greater",
    "greater_or_equal",
    "less",
    "less_or_equal",
    "contains",
    "not_contains",
    "matches",
    "length_equals",
    "length_greater",
    "length_greater_or_equal",
    "length_less",
    "length_less_or_equal",
]
Assignment = Literal["set", "append", "extend", "increase", "clear"]


class VariablePart(Part):
    """A variable: of the session, or of a loop."""

    type: ValueType
    default: Any = Field(None, description="The value before it is first written; in a loop a reference is allowed.")
    description: Text = ""


class ComparisonPart(Part):
    """One comparison: an input of the node with a value, or with another input."""

    input: str = Field(description="The name of an input of the node; in a loop's `until`, of a loop variable.")
    operator: Operator
    value: Any = Field(None, description="What the input is compared with.")
    value_from: Text = Field("", description="The name of the input that it is compared with, instead of `value`.")


class GroupPart(Part):
    """Comparisons that must all hold."""

    all: list[ComparisonPart] = Field(min_length=1)


class BranchPart(Part):
    """A branch of a condition; without `any` it is the else branch."""

    name: str = Field(min_length=1)
    any: list[GroupPart] | None = Field(None, min_length=1, description="The branch is taken when one of these holds.")


class ConditionPart(CommonPart):
    """Takes the first branch that holds; nodes follow it with after: [node.branch]."""

    type: Literal["condition"]
    branches: list[BranchPart] = Field(min_length=1)


class GroupingPart(Part):
    """A group of an aggregate node."""

    inputs: list[str] = Field(min_length=1, description="Inputs of the node, in order.")
    pick: Literal["first", "last"] = "first"


def _grouping(value: Any) -> Any:
    return {"inputs": value} if isinstance(value, list) else value


class AggregatePart(CommonPart):
    """Gives, for each group, the first or last of its inputs that is not empty."""

    type: Literal["aggregate"]
    groups: dict[str, Annotated[GroupingPart, BeforeValidator(_grouping)]] = Field(min_length=1)


class AssignmentPart(Part):
    """One change of a variable."""

    variable: str = Field(pattern=r"^(session|loop)\..+$", description="session.NAME or loop.NAME.")
    operation: Assignment = "set"
    value: Any = Field(None, description="The value that is set, appended, added and so on.")
    input: Text = Field("", description="The input that holds it, instead of `value`.")


class AssignPart(CommonPart):
    """Writes variables of the session or of the loop around it."""

    type: Literal["assign"]
    assignments: list[AssignmentPart] = Field(min_length=1)


class TemplatePart(CommonPart):
    """Renders a Jinja2 template to text, or to JSON that is parsed."""

    type: Literal["template"]
    template: str
    format: Literal["text", "json"] = "text"


class OutputNodePart(CommonPart):
    """Adds text to an output of the flow in the middle of a run, as it comes."""

    type: Literal["output"]
    text: str = Field(description="The text; {{ name }} stands for an input, which streams where its node does.")
    to: Text = Field("", description="The output that it adds to; the chat output by default.")


class BatchPart(CommonPart):
    """Runs its nodes once for each item of one list, or of several side by side."""

    type: Literal["batch"]
    over: list[str] = Field(default_factory=list, description="The inputs that are lists; all of them by default.")
    max_items: int = Field(100, ge=1, le=100, description="How many items are run at most; the rest is left out.")
    parallel: int = Field(1, ge=1, le=10, description="How many items run at the same time.")
    on_item_error: Literal["fail", "null", "drop"] = Field(
        "fail", description="fail the node, put null for the item, or drop it."
    )
    nodes: list["AnyNode"] = Field(min_length=1)
    result: Any = Field(None, description="What an item comes to, such as ${inner.output}.")


class LoopPart(CommonPart):
    """Runs its nodes again and again, until a condition on its variables holds or the maximum is reached."""

    type: Literal["loop"]
    variables: Annotated[dict[str, VariablePart], BeforeValidator(empty_if_none)] = Field(default_factory=dict)
    max_rounds: int = Field(ge=1, le=1000)
    until: list[GroupPart] | None = Field(None, min_length=1, description="The loop ends when one of these holds.")
    nodes: list["AnyNode"] = Field(min_length=1)
