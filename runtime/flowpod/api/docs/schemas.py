"""The types of a flow's inputs and outputs as OpenAPI's schemas, and values that they take."""

from collections.abc import Mapping
from typing import Any

from flowpod.service import FlowService

_FILE: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        name: {"type": "string"} for name in ("source_uri", "download_url", "file_id", "file_name", "file_type")
    },
    "required": ["source_uri"],
}
# promptflow, core/_serving/swagger.py; the types that it leaves out are text on the wire.
_TYPES: Mapping[str, Mapping[str, Any]] = {
    "int": {"type": "integer"},
    "double": {"type": "number"},
    "bool": {"type": "boolean"},
    "list": {"type": "array", "items": {}},
    "object": {"type": "object", "additionalProperties": {}},
    "image": {"type": "object", "additionalProperties": {}},
    "File": _FILE,
    "file": _FILE,
}
_TEXT: Mapping[str, Any] = {"type": "string"}
_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
_EXAMPLES: Mapping[str, Any] = {
    "int": 1,
    "double": 0.5,
    "bool": True,
    "list": [],
    "object": {},
    "image": {"data:image/png;base64": _PIXEL},
    "File": {"source_uri": "https://example.com/report.pdf"},
    "file": {"source_uri": "https://example.com/report.pdf"},
}


def described(kind: str, description: str) -> dict[str, Any]:
    """Return the schema of a value of type `kind`."""
    return {**_TYPES.get(kind, _TEXT), **({"description": description} if description else {})}


def inputs_schema(service: FlowService, *, history_is_required: bool) -> dict[str, Any]:
    """Return the schema of a body with the flow's inputs, and their defaults but for those of secrets.

    `history_is_required`: a chat history without a default must be sent.
    """
    flow = service.flow
    properties = {name: described(one.type, one.description) for name, one in flow.inputs.items()}
    for name, one in flow.inputs.items():
        if one.has_default and one.type != "secret":
            properties[name]["default"] = one.default
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    required = [
        name
        for name, one in flow.inputs.items()
        if not one.has_default and (history_is_required or name != flow.chat_history)
    ]
    return schema | ({"required": required} if required else {})


def outputs_schema(service: FlowService, *, for_evaluation: bool) -> dict[str, Any]:
    """Return the schema of the flow's outputs, with those that are only for evaluation or without them."""
    outputs = {
        name: described(one.type, one.description)
        for name, one in service.flow.outputs.items()
        if for_evaluation or not one.evaluation_only
    }
    return {"type": "object", "properties": outputs}


def example_of(schema: Mapping[str, Any], service: FlowService) -> dict[str, Any]:
    """Return a body that an inputs' schema takes: every input that is required."""
    inputs = service.flow.inputs
    return {name: _EXAMPLES.get(inputs[name].type, "Hello") for name in schema.get("required", ())}
