"""The OpenAPI document of `/score`, with the vendor keys by which promptflow's clients find the chat fields."""

from collections.abc import Mapping
from typing import Any

from runtime.run.service import FlowService

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
_ANY_OBJECT = {"type": "object", "additionalProperties": {}}


def swagger_document(service: FlowService) -> dict[str, Any]:
    """Return the OpenAPI 3.0 document of a service's flow."""
    flow = service.flow
    outputs = {name: output for name, output in flow.outputs.items() if not output.evaluation_only}
    inputs = {name: _described(one.type, one.description) for name, one in flow.inputs.items()}
    for name, one in flow.inputs.items():
        if one.has_default:
            inputs[name]["default"] = one.default
    answer = {
        "type": "object",
        "properties": {name: _described(one.type, one.description) for name, one in outputs.items()},
    }
    body: dict[str, Any] = {"type": "object", "properties": inputs}
    if required := [name for name, one in flow.inputs.items() if not one.has_default]:
        body["required"] = required
    score = _operation(f"Run the flow {service.name}", body, bool(flow.inputs), answer)
    score["responses"]["200"]["content"]["text/event-stream"] = {"schema": dict(_TEXT)}
    score["responses"]["406"] = {"description": "Accept names no form in which the answer can be given"}
    feedback = _operation("Say what you think of an answer", _ANY_OBJECT, True, _ANY_OBJECT)
    feedback["parameters"] = [{"name": "flatten", "in": "query", "required": False, "schema": {"type": "boolean"}}]
    return {
        "openapi": "3.0.0",
        "info": {"title": service.name, "version": "1.0.0", "x-flow-name": service.name, **_chat_keys(service)},
        "components": {"securitySchemes": {"bearerAuth": {"type": "http", "scheme": "bearer"}}},
        "security": [{"bearerAuth": []}],
        "paths": {"/score": {"post": score}, "/feedback": {"post": feedback}},
    }


def _chat_keys(service: FlowService) -> dict[str, str]:
    flow = service.flow
    keys = {
        "x-chat-input": flow.chat_input,
        "x-flow-type": "chat" if flow.chat_input else None,
        "x-chat-history": flow.chat_history,
        "x-chat-output": flow.chat_output,
    }
    return {key: value for key, value in keys.items() if value is not None}


def _described(kind: str, description: str) -> dict[str, Any]:
    return {**_TYPES.get(kind, _TEXT), **({"description": description} if description else {})}


def _operation(summary: str, body: Mapping[str, Any], required: bool, answer: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "summary": summary,
        "requestBody": {"required": required, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": {"description": "The answer", "content": {"application/json": {"schema": answer}}},
            "400": {"description": "The request is not valid, or a node of the flow failed"},
            "default": {"description": "Any other error"},
        },
    }
