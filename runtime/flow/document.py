"""`flow.dag.yaml` as its authors write it; the source of the published JSON Schema."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from runtime.flow.model import ValueType


class _Part(BaseModel):
    # Unknown keys are kept so that they can be named; editors that use the schema flag them as well.
    model_config = ConfigDict(extra="allow", frozen=True, json_schema_extra={"additionalProperties": False})


def _empty_if_none(value: Any) -> Any:
    return {} if value is None else value


def _text_if_none(value: Any) -> Any:
    return "" if value is None else value


Text = Annotated[str, BeforeValidator(_text_if_none)]


class InputPart(_Part):
    """An input of the flow: a key of the request body."""

    type: ValueType = Field(description="The type that a request's value is read as.")
    default: Any = Field(None, description="The value when a request gives none. Without it the input is required.")
    description: Text = ""
    enum: list[Any] | None = Field(None, description="The values that a form offers.")
    is_chat_input: bool = Field(False, description="This input is the user's message of a conversation.")
    is_chat_history: bool | None = Field(None, description="This input gets the past turns of the conversation.")


class OutputPart(_Part):
    """An output of the flow."""

    type: ValueType = "string"
    reference: Any = Field(None, description="Where the value comes from, such as ${node.output}.")
    description: Text = ""
    is_chat_output: bool = Field(False, description="This output is the answer of a conversation.")
    evaluation_only: bool = False


class SourcePart(_Part):
    """Where a node's code or prompt is."""

    type: Literal["code", "package", "package_with_prompt"] = "code"
    path: Text = Field("", description="A file in the flow's folder: Python, or a Jinja2 prompt.")
    tool: Text = Field("", description="package: the tool, as package.module.function or package.module.Class.method.")


class ActivatePart(_Part):
    """The condition under which a node runs."""

    when: Any = Field(description="A reference, such as ${inputs.kind} or ${node.output}.")
    is_: Any = Field(alias="is", description="The node runs when the value of `when` equals this.")


class NodePart(_Part):
    """A node of the flow."""

    name: str = Field(min_length=1)
    type: Literal["llm", "python", "prompt", "custom_llm"] = Field(description="What the node does.")
    source: SourcePart = Field(default_factory=SourcePart)
    inputs: Annotated[dict[str, Any], BeforeValidator(_empty_if_none)] = Field(
        default_factory=dict,
        description="Local names to values or ${references}; code and prompts see only these.",
    )
    connection: Text = Field("", description="llm: the name of a connection.")
    provider: Text = ""
    api: Literal["chat", "completion"] = Field("chat", description="llm: which API of the model is called.")
    module: Text = ""
    activate: ActivatePart | None = None
    aggregation: bool = False
    use_variants: bool = False
    enable_cache: bool = False
    comment: Text = ""
    description: str | None = None
    display_name: str | None = None


class FlowDocument(_Part):
    """A flow: inputs, outputs and the nodes between them."""

    schema_: str | None = Field(None, alias="$schema")
    id: Text = ""
    name: Text = ""
    type: Literal["standard", "chat", "evaluation"] | None = None
    language: Literal["python", "csharp"] = "python"
    display_name: Text = ""
    description: Text = ""
    tags: Annotated[dict[str, Any], BeforeValidator(_empty_if_none)] = Field(default_factory=dict)
    inputs: Annotated[dict[str, InputPart], BeforeValidator(_empty_if_none)] = Field(default_factory=dict)
    outputs: Annotated[dict[str, OutputPart], BeforeValidator(_empty_if_none)] = Field(default_factory=dict)
    nodes: list[NodePart] = Field(min_length=1)
    node_variants: Annotated[dict[str, Any], BeforeValidator(_empty_if_none)] = Field(default_factory=dict)
    environment: Annotated[dict[str, Any], BeforeValidator(_empty_if_none)] = Field(default_factory=dict)
    environment_variables: Annotated[dict[str, Any], BeforeValidator(_empty_if_none)] = Field(default_factory=dict)
    additional_includes: list[str] | None = Field(
        None, description="Files and folders from outside the flow's folder, laid beside its own."
    )


class _VariantNodePart(BaseModel):
    """A node whose default variant, under node_variants, is served."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1)
    use_variants: Literal[True]


def flow_json_schema() -> dict[str, Any]:
    """Return the JSON Schema of `flow.dag.yaml`, for editors."""
    schema = FlowDocument.model_json_schema(by_alias=True)
    nodes = schema["properties"]["nodes"]
    nodes["items"] = {"anyOf": [nodes["items"], _VariantNodePart.model_json_schema()]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
