"""`flow.dag.yaml` as its authors write it; the source of the published JSON Schema."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.json_schema import models_json_schema

from flowpod.flow.document.base import Section, Text, VariableOptions, empty_if_none
from flowpod.flow.kinds import FlowKinds
from flowpod.flow.model import MAX_ROUNDS, ValueType


class InputOptions(Section):
    """An input of the flow: a key of the request body."""

    type: ValueType = Field(description="The type that a request's value is converted to.")
    default: Any = Field(None, description="The value when a request gives none. Without it the input is required.")
    description: Text = ""
    enum: list[Any] | None = Field(None, description="The values that a form offers.")
    is_chat_input: bool = Field(False, description="This input is the user's message of a conversation.")
    is_chat_history: bool | None = Field(None, description="This input gets the past turns of the conversation.")
    is_chat_images: bool = Field(False, description="This input, a list, gets the images of the user's message.")


class OutputOptions(Section):
    """An output of the flow."""

    type: ValueType = "string"
    reference: Any = Field(None, description="Where the value comes from, such as ${node.output}.")
    description: Text = ""
    is_chat_output: bool = Field(False, description="This output is the answer of a conversation.")
    evaluation_only: bool = False


class HistoryOptions(Section):
    """How much of a conversation goes into the chat history of the next turn."""

    rounds: int = Field(20, ge=0, le=MAX_ROUNDS, description="The maximum number of past turns.")
    tokens: int | None = Field(
        None, ge=1, description="The maximum size of these turns; four bytes of UTF-8 count as a token."
    )


class FlowDocument(Section):
    """A flow: inputs, outputs and the nodes between them."""

    schema_: str | None = Field(None, alias="$schema")
    id: Text = ""
    name: Text = ""
    type: Literal["standard", "chat", "evaluation"] | None = None
    language: Literal["python", "csharp"] = "python"
    display_name: Text = ""
    description: Text = ""
    tags: Annotated[dict[str, Any], BeforeValidator(empty_if_none)] = Field(default_factory=dict)
    inputs: Annotated[dict[str, InputOptions], BeforeValidator(empty_if_none)] = Field(default_factory=dict)
    outputs: Annotated[dict[str, OutputOptions], BeforeValidator(empty_if_none)] = Field(default_factory=dict)
    variables: Annotated[dict[str, VariableOptions], BeforeValidator(empty_if_none)] = Field(
        default_factory=dict, description="Session variables: kept with the conversation, read as ${session.NAME}."
    )
    history: HistoryOptions = Field(default_factory=HistoryOptions)
    nodes: list[Any] = Field(min_length=1)  # each is read by the model of its kind
    node_variants: Annotated[dict[str, Any], BeforeValidator(empty_if_none)] = Field(default_factory=dict)
    environment: Annotated[dict[str, Any], BeforeValidator(empty_if_none)] = Field(default_factory=dict)
    environment_variables: Annotated[dict[str, Any], BeforeValidator(empty_if_none)] = Field(default_factory=dict)
    additional_includes: list[str] | None = Field(
        None, description="Files and folders from outside the flow's folder, copied beside its own."
    )


class VariantNode(BaseModel):
    """A node whose default variant, under node_variants, is served."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1)
    use_variants: Literal[True]


def flow_json_schema(kinds: FlowKinds) -> dict[str, Any]:
    """Return the JSON Schema of `flow.dag.yaml` with these node kinds, for editors."""
    models: list[type[BaseModel]] = [FlowDocument, VariantNode, *(kind.options for kind in kinds.values())]
    references, top = models_json_schema([(model, "validation") for model in models], by_alias=True)
    definitions: dict[str, Any] = top["$defs"]
    nodes = {"anyOf": [references[model, "validation"] for model in models[1:]]}
    for kind in kinds.values():
        properties = definitions[kind.options.__name__]["properties"]
        properties["type"] = {"const": kind.name, "title": "Type", "type": "string"}
        if kind.body is not None:
            properties["nodes"]["items"] = nodes
    flow = definitions.pop(FlowDocument.__name__)
    flow["properties"]["nodes"]["items"] = nodes
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **flow, "$defs": definitions}
