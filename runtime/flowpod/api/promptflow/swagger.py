"""The OpenAPI document of `/score`, with the extension keys by which promptflow's clients find the chat fields."""

from collections.abc import Mapping
from typing import Any

from flowpod.api.docs.schemas import inputs_schema, outputs_schema
from flowpod.service import FlowService

_ANY_OBJECT = {"type": "object", "additionalProperties": {}}


def swagger_document(service: FlowService) -> dict[str, Any]:
    """Return the OpenAPI 3.0 document of a service's flow."""
    body = inputs_schema(service, history_is_required=True)
    outputs = outputs_schema(service, for_evaluation=False)
    score = _operation(f"Run the flow {service.name}", body, bool(service.flow.inputs), outputs)
    score["responses"]["200"]["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    score["responses"]["406"] = {"description": "The response is not available in any format that Accept allows"}
    feedback = _operation("Give feedback on an answer", _ANY_OBJECT, True, _ANY_OBJECT)
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


def _operation(summary: str, body: Mapping[str, Any], required: bool, response: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "summary": summary,
        "requestBody": {"required": required, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": {"description": "The outputs", "content": {"application/json": {"schema": response}}},
            "400": {"description": "The request is not valid, or a node of the flow failed"},
            "default": {"description": "Any other error"},
        },
    }
