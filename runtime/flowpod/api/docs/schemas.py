"""JSON schemas of a flow's inputs and outputs, and example values for them."""

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
# From promptflow, core/_serving/swagger.py; types that are missing here are strings on the wire.
_TYPES: Mapping[str, Mapping[str, Any]] = {
    "int": {"type": "integer"},
    "double": {"type": "number"},
    "bool": {"type": "boolean"},
    "list": {"type": "array", "items": {}},
    "object": {"type": "object", "additionalProperties": {}},
    "image": {
        "description": '`{"data:image/png;url": URL}` or `{"data:image/png;base64": content}`, or either as text.',
        "oneOf": [
            {"type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": {"type": "string"}},
            {"type": "string", "minLength": 1},
        ],
    },
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


def type_schema(name: str, description: str) -> dict[str, Any]:
    """Return the schema of a value of the type `name`."""
    return {**_TYPES.get(name, _TEXT), **({"description": description} if description else {})}


def inputs_schema(service: FlowService, *, history_is_required: bool) -> dict[str, Any]:
    """Return the schema of the flow's inputs as an object; it has their defaults, except those of secrets.

    `history_is_required`: a chat history without a default is a required key.
    """
    flow = service.flow
    properties = {name: type_schema(declared.type, declared.description) for name, declared in flow.inputs.items()}
    for name, declared in flow.inputs.items():
        if declared.has_default and declared.type != "secret":
            properties[name]["default"] = declared.default
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    required = [
        name
        for name, declared in flow.inputs.items()
        if not declared.has_default and (history_is_required or name != flow.chat_history)
    ]
    return schema | ({"required": required} if required else {})


def further_inputs_schema(service: FlowService, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of the inputs that a chat request has besides its messages, from that of all inputs.

    None is required, because the messages may contain the images.
    """
    properties = {name: schema for name, schema in inputs["properties"].items() if name != service.flow.chat_input}
    return {
        "type": "object",
        "nullable": True,
        "description": "Further inputs of the flow by name.",
        "properties": properties,
        "additionalProperties": False,
    }


def nullable_inputs_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return an inputs schema in which an input that is not required may be null, which counts as absent."""
    required = schema.get("required", ())
    properties = {
        name: one if name in required else {**one, "nullable": True} for name, one in schema["properties"].items()
    }
    return {**schema, "properties": properties}


def outputs_schema(service: FlowService, *, for_evaluation: bool) -> dict[str, Any]:
    """Return the schema of the flow's outputs, with or without those that are only `for_evaluation`."""
    outputs = {
        name: type_schema(declared.type, declared.description)
        for name, declared in service.flow.outputs.items()
        if for_evaluation or not declared.evaluation_only
    }
    return {"type": "object", "properties": outputs}


def example_inputs(schema: Mapping[str, Any], service: FlowService) -> dict[str, Any]:
    """Return example values for the required inputs of an inputs schema."""
    inputs = service.flow.inputs
    return {name: _EXAMPLES.get(inputs[name].type, "Hello") for name in schema.get("required", ())}
