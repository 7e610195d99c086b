"""`flow.dag.yaml` as its authors write it; the source of the published JSON Schema."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from flowpod.flow.document.base import CommonPart, Part, Text, empty_if_none
from flowpod.flow.document.control_kinds import (
    AggregatePart,
    AssignPart,
    BatchPart,
    ConditionPart,
    LoopPart,
    OutputNodePart,
    TemplatePart,
    VariablePart,
)
from flowpod.flow.model import MAX_ROUNDS, Override, ValueType

NODE_TAG = "code"
"""The discriminator's name, in pydantic's error locations, of every node that is no control node."""


class InputPart(Part):
    """An input of the flow: a key of the request body."""

    type: ValueType = Field(description="The type that a request's value is read as.")
    default: Any = Field(None, description="The value when a request gives none. Without it the input is required.")
    description: Text = ""
    enum: list[Any] | None = Field(None, description="The values that a form offers.")
    is_chat_input: bool = Field(False, description="This input is the user's message of a conversation.")
    is_chat_history: bool | None = Field(None, description="This input gets the past turns of the conversation.")
    is_chat_images: bool = Field(False, description="This input, a list, gets the images of the user's message.")


class OutputPart(Part):
    """An output of the flow."""

    type: ValueType = "string"
    reference: Any = Field(None, description="Where the value comes from, such as ${node.output}.")
    description: Text = ""
    is_chat_output: bool = Field(False, description="This output is the answer of a conversation.")
    evaluation_only: bool = False


class HistoryPart(Part):
    """How much of a conversation goes into the chat history of the next turn."""

    rounds: int = Field(20, ge=0, le=MAX_ROUNDS, description="The last turns, at most.")
    tokens: int | None = Field(
        None, ge=1, description="Of them the newest that fit; four bytes of UTF-8 count as a token."
    )


class SourcePart(Part):
    """Where a node's code or prompt is."""

    type: Literal["code", "package", "package_with_prompt"] = "code"
    path: Text = Field("", description="A file in the flow's folder: Python, or a Jinja2 prompt.")
    tool: Text = Field("", description="package: the tool, as package.module.function or package.module.Class.method.")


class NodePart(CommonPart):
    """A node that runs code or calls a model."""

    type: Literal["llm", "python", "prompt", "custom_llm"] = Field(description="What the node does.")
    source: SourcePart = Field(default_factory=SourcePart)
    connection: Text = Field("", description="llm: the name of a connection.")
    provider: Text = ""
    api: Literal["chat", "completion"] = Field("chat", description="llm: which API of the model is called.")
    overrides: list[Override] = Field(
        default_factory=list, description="llm: parameters of the model that a request may set."
    )
    module: Text = ""
    aggregation: bool = False
    use_variants: bool = False
    enable_cache: bool = False


_CONTROL: Mapping[str, type[CommonPart]] = {
    "condition": ConditionPart,
    "aggregate": AggregatePart,
    "assign": AssignPart,
    "template": TemplatePart,
    "output": OutputNodePart,
    "batch": BatchPart,
    "loop": LoopPart,
}


def _kind(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return kind if isinstance(kind, str) and kind in _CONTROL else NODE_TAG


AnyNode = Annotated[
    Annotated[NodePart, Tag(NODE_TAG)]
    | Annotated[ConditionPart, Tag("condition")]
    | Annotated[AggregatePart, Tag("aggregate")]
    | Annotated[AssignPart, Tag("assign")]
    | Annotated[TemplatePart, Tag("template")]
    | Annotated[OutputNodePart, Tag("output")]
    | Annotated[BatchPart, Tag("batch")]
    | Annotated[LoopPart, Tag("loop")],
    Discriminator(_kind),
]
for _part in (BatchPart, LoopPart):
    _part.model_rebuild(_types_namespace={"AnyNode": AnyNode})


class FlowDocument(Part):
    """A flow: inputs, outputs and the nodes between them."""

    schema_: str | None = Field(None, alias="$schema")
    id: Text = ""
    name: Text = ""
    type: Literal["standard", "chat", "evaluation"] | None = None
    language: Literal["python", "csharp"] = "python"
    display_name: Text = ""
    description: Text = ""
    tags: Annotated[dict[str, Any], BeforeValidator(empty_if_none)] = Field(default_factory=dict)
    inputs: Annotated[dict[str, InputPart], BeforeValidator(empty_if_none)] = Field(default_factory=dict)
    outputs: Annotated[dict[str, OutputPart], BeforeValidator(empty_if_none)] = Field(default_factory=dict)
    variables: Annotated[dict[str, VariablePart], BeforeValidator(empty_if_none)] = Field(
        default_factory=dict, description="Session variables: kept with the conversation, read as ${session.NAME}."
    )
    history: HistoryPart = Field(default_factory=HistoryPart)
    nodes: list[AnyNode] = Field(min_length=1)
    node_variants: Annotated[dict[str, Any], BeforeValidator(empty_if_none)] = Field(default_factory=dict)
    environment: Annotated[dict[str, Any], BeforeValidator(empty_if_none)] = Field(default_factory=dict)
    environment_variables: Annotated[dict[str, Any], BeforeValidator(empty_if_none)] = Field(default_factory=dict)
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
    for part in (schema, *(schema["$defs"][kind.__name__] for kind in (BatchPart, LoopPart))):
        nodes = part["properties"]["nodes"]
        nodes["items"] = {"anyOf": [nodes["items"], _VariantNodePart.model_json_schema()]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
