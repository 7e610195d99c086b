"""The messages of a model call as span attributes.

`gen_ai.*.messages` are those of OpenTelemetry's GenAI conventions (roles with typed parts, as JSON), `llm.*_messages.N`
those of OpenInference, which has an attribute for each field.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.util.types import AttributeValue

from flowpod.jsonable import dumps
from flowpod.telemetry.content import Content

_MOST_FLATTENED = 200  # messages; a span has a limit of attributes


def input_messages(messages: Sequence[Mapping[str, Any]], content: Content) -> dict[str, AttributeValue]:
    """Return the attributes of OpenAI's `messages` as they go to a model: the last of them that fit together."""
    shown: list[Any] = []
    parted: list[bytes] = []
    size = 0
    for message in reversed(messages):
        made = _shown(message, content)
        part = dumps(_parted(made))
        size += len(part)
        if size > content.max_chars and shown:
            break
        shown.append(made)
        parted.append(part)
    shown.reverse()
    parted.reverse()
    attributes: dict[str, AttributeValue] = {"gen_ai.input.messages": f"[{b','.join(parted).decode()}]"}
    if len(shown) < len(messages):
        attributes["flowpod.messages.left_out"] = len(messages) - len(shown)
    for number, message in enumerate(shown[:_MOST_FLATTENED]):
        attributes.update(_flat(f"llm.input_messages.{number}.message", message))
    return attributes


def output_message(value: Any, finish_reason: str, content: Content) -> dict[str, AttributeValue]:
    """Return the attributes of a model's answer: its text, or its whole message where it calls tools."""
    message = value if isinstance(value, Mapping) else {"content": value}
    shown = {"role": "assistant", **_shown(message, content)}
    parted = [{**_parted(shown), "finish_reason": finish_reason}]
    flat = _flat("llm.output_messages.0.message", shown)
    return {"gen_ai.output.messages": dumps(parted).decode(), **flat}


def _shown(value: Any, content: Content) -> Any:
    """Return `value` with every text in it as it may be shown."""
    if isinstance(value, str):
        return content.text(value)
    if isinstance(value, Mapping):
        return {key: _shown(item, content) for key, item in value.items() if item is not None}
    return [_shown(item, content) for item in value] if isinstance(value, list) else value


def _parted(message: Mapping[str, Any]) -> dict[str, Any]:
    role = message.get("role", "")
    parts = [_part(item) for item in _items(message.get("content"))]
    if role == "tool":
        parts = [{"type": "tool_call_response", "id": message.get("tool_call_id"), "response": message.get("content")}]
    parts += [
        {"type": "tool_call", "id": call.get("id"), **_function(call)} for call in message.get("tool_calls") or ()
    ]
    return {"role": role, "parts": parts} | ({"name": message["name"]} if message.get("name") else {})


def _items(content: Any) -> list[Any]:
    if content is None or content == "":
        return []
    return content if isinstance(content, list) else [{"type": "text", "text": content}]


def _part(item: Any) -> dict[str, Any]:
    if not isinstance(item, Mapping) or item.get("type") not in ("text", "image_url"):
        return {"type": "unknown", "content": item}
    if item["type"] == "text":
        return {"type": "text", "content": item.get("text", "")}
    return {"type": "uri", "modality": "image", "uri": _url(item)}


def _url(item: Mapping[str, Any]) -> str:
    image = item.get("image_url")
    return str(image.get("url", "") if isinstance(image, Mapping) else image)


def _function(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function") or {}
    return {"name": function.get("name"), "arguments": function.get("arguments")}


def _flat(key: str, message: Mapping[str, Any]) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {f"{key}.role": str(message.get("role", ""))}
    content = message.get("content")
    if isinstance(content, list):
        for number, item in enumerate(content):
            place = f"{key}.contents.{number}.message_content"
            part = _part(item)
            if part["type"] == "text":
                attributes |= {f"{place}.type": "text", f"{place}.text": str(part["content"])}
            elif part["type"] == "uri":
                attributes |= {f"{place}.type": "image", f"{place}.image.image.url": part["uri"]}
    elif content is not None:
        attributes[f"{key}.content"] = content if isinstance(content, str) else dumps(content).decode()
    if message.get("tool_call_id"):
        attributes[f"{key}.tool_call_id"] = str(message["tool_call_id"])
    for number, call in enumerate(message.get("tool_calls") or ()):
        place, function = f"{key}.tool_calls.{number}.tool_call", _function(call)
        attributes[f"{place}.id"] = str(call.get("id"))
        attributes[f"{place}.function.name"] = str(function["name"])
        attributes[f"{place}.function.arguments"] = str(function["arguments"])
    return attributes
