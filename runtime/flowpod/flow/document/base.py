"""What the parts of `flow.dag.yaml` have in common, and the keys of every node."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Part(BaseModel):
    """A mapping of the file."""

    # Unknown keys are kept so that they can be named; editors that use the schema flag them as well.
    model_config = ConfigDict(extra="allow", frozen=True, json_schema_extra={"additionalProperties": False})


def empty_if_none(value: Any) -> Any:
    """Read a key without a value as an empty mapping."""
    return {} if value is None else value


def _text_if_none(value: Any) -> Any:
    return "" if value is None else value


Text = Annotated[str, BeforeValidator(_text_if_none)]


class ActivatePart(Part):
    """The condition under which a node runs."""

    when: Any = Field(description="A reference, such as ${inputs.kind} or ${node.output}.")
    is_: Any = Field(alias="is", description="The node runs when the value of `when` equals this.")


class RetryPart(Part):
    """How a failed node is tried again."""

    max: int = Field(ge=1, le=100, description="How many further attempts there are.")
    interval_ms: int = Field(0, ge=0, description="The pause before each of them, in milliseconds.")


class OnErrorPart(Part):
    """What happens instead of the run's failure when a node has failed."""

    default: Any = Field(None, description="The node is Completed with this value.")
    branch: Text = Field("", description="The node is Failed, and the nodes after: [node.BRANCH] run.")


class CommonPart(Part):
    """The keys that every node may have."""

    name: str = Field(min_length=1)
    inputs: Annotated[dict[str, Any], BeforeValidator(empty_if_none)] = Field(
        default_factory=dict, description="Local names to values or ${references}; code and prompts see only these."
    )
    activate: ActivatePart | None = None
    after: list[str] = Field(
        default_factory=list,
        description="Nodes, or branches as node.branch: this node runs when all are settled and one of them was taken.",
    )
    retry: RetryPart | None = None
    timeout_s: float | None = Field(None, gt=0, allow_inf_nan=False, description="How long one attempt may take.")
    on_error: OnErrorPart | None = None
    comment: Text = ""
    description: str | None = None
    display_name: str | None = None
