"""The keys that every node may have, and the types that the models of `flow.dag.yaml` share."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from flowpod.flow.model import Override, ValueType


class Section(BaseModel):
    """A mapping of the file."""

    # Unknown keys are kept so that a warning can name them; editors that use the schema flag them as well.
    model_config = ConfigDict(extra="allow", frozen=True, json_schema_extra={"additionalProperties": False})


def empty_if_none(value: Any) -> Any:
    """Read a key without a value as an empty mapping."""
    return {} if value is None else value


def _text_if_none(value: Any) -> Any:
    return "" if value is None else value


class _IsConnection:
    """Marks a key whose value is the name of a connection."""


Text = Annotated[str, BeforeValidator(_text_if_none)]
ConnectionName = Annotated[Text, _IsConnection()]
"""The name of a connection. The reader resolves every key of this type, on any node kind."""


class Activate(Section):
    """The condition under which a node runs."""

    when: Any = Field(description="A reference, such as ${inputs.kind} or ${node.output}.")
    is_: Any = Field(alias="is", description="The node runs when the value of `when` equals this.")


class RetryOptions(Section):
    """How a failed node is retried."""

    max: int = Field(ge=1, le=100, description="The number of further attempts.")
    interval_ms: int = Field(0, ge=0, description="The pause before each attempt, in milliseconds.")


class OnErrorOptions(Section):
    """What happens, instead of the run's failure, after a node has failed."""

    default: Any = Field(None, description="The node is Completed with this value.")
    branch: Text = Field("", description="The node is Failed, and the nodes with after: [node.BRANCH] run.")


class VariableOptions(Section):
    """A variable of the session or of a loop."""

    type: ValueType
    default: Any = Field(None, description="The initial value; in a loop it may be a reference.")
    description: Text = ""


class NodeOptions(Section):
    """The keys that every node may have. Each node kind adds its own in a subclass."""

    name: str = Field(min_length=1)
    type: str
    inputs: Annotated[dict[str, Any], BeforeValidator(empty_if_none)] = Field(
        default_factory=dict, description="Local names to values or ${references}; code and prompts see only these."
    )
    activate: Activate | None = None
    after: list[str] = Field(
        default_factory=list,
        description="Nodes, or branches as node.branch. This node runs once all are settled and one was taken.",
    )
    retry: RetryOptions | None = None
    timeout_s: float | None = Field(None, gt=0, allow_inf_nan=False, description="The time limit of an attempt.")
    on_error: OnErrorOptions | None = None
    comment: Text = ""
    description: str | None = None
    display_name: str | None = None

    @property
    def connections(self) -> dict[str, str]:
        """The connections that the node names, by key."""
        fields = type(self).model_fields.items()
        marked = [name for name, field in fields if any(isinstance(item, _IsConnection) for item in field.metadata)]
        return {name: value for name in marked if (value := getattr(self, name))}


class SourceOptions(Section):
    """Where a node's code or prompt is."""

    type: Literal["code", "package", "package_with_prompt"] = "code"
    path: Text = Field("", description="A file in the flow's folder: Python, or a Jinja2 prompt.")
    tool: Text = Field("", description="package: the tool, as package.module.function or package.module.Class.method.")


class PromptFlowOptions(NodeOptions):
    """The keys that Prompt Flow gives to each of its four node kinds."""

    source: SourceOptions = Field(default_factory=SourceOptions)
    connection: Text = Field("", description="llm: the name of a connection.")
    provider: Text = ""
    api: Literal["chat", "completion"] = Field("chat", description="llm: the API of the model that is called.")
    overrides: list[Override] = Field(
        default_factory=list, description="llm: the model parameters that a request may set."
    )
    module: Text = ""
    aggregation: bool = False
    use_variants: bool = False
    enable_cache: bool = False
