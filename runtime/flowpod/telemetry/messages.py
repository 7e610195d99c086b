"""The messages of a model call as span attributes.

`gen_ai.*.messages` are those of OpenTelemetry's GenAI conventions (roles with typed parts, as JSON), `llm.*_messages.N`
those of OpenInference, which has an attribute for each field.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from opentelemetry.util.types import AttributeValue

from flowpod.jsonable import dumps
from flowpod.telemetry.content import Content

_MAX_FLATTENED = 200  # messages; a span has a limit of attributes

Message = Mapping[str, Any]


def input_messages(messages: Sequence[Message], content: Content) -> dict[str, AttributeValue]:
    """Return the attributes of OpenAI's `messages`: the last of them that are not too long together."""
    encoded = dumps([_genai_message(message) for message in messages]).decode()
    kept = messages
    if len(encoded) > content.max_chars:
        kept, encoded = _last_messages(messages, content)
    attributes: dict[str, AttributeValue] = {"gen_ai.input.messages": encoded}
    if len(kept) < len(messages):
        attributes["flowpod.messages.left_out"] = len(messages) - len(kept)
    for number, message in enumerate(kept[:_MAX_FLATTENED]):
        attributes.update(_openinference_message(f"llm.input_messages.{number}.message", message))
    return attributes


def output_message(value: Any, finish_reason: str, content: Content) -> dict[str, AttributeValue]:
    """Return the attributes of a model's answer: its text, or its whole message where it calls tools."""
    message = {"role": "assistant", **(value if isinstance(value, Mapping) else {"content": value})}
    encoded = _encode_answer(message, finish_reason)
    if len(encoded) > content.max_chars:
        message = _truncate(message, content)
        encoded = _encode_answer(message, finish_reason)
    return {"gen_ai.output.messages": encoded, **_openinference_message("llm.output_messages.0.message", message)}


def _encode_answer(message: Message, finish_reason: str) -> str:
    return dumps([{**_genai_message(message), "finish_reason": finish_reason}]).decode()


def _last_messages(messages: Sequence[Message], content: Content) -> tuple[list[Message], str]:
    """Return the last messages, each truncated, that are not too long together; and their JSON. One is always kept."""
    kept: list[Message] = []
    encoded: list[str] = []
    size = 0
    for message in (_truncate(message, content) for message in reversed(messages)):
        text = dumps(_genai_message(message)).decode()
        size += len(text)
        if size > content.max_chars and kept:
            break
        kept.append(message)
        encoded.append(text)
    return kept[::-1], f"[{','.join(reversed(encoded))}]"


def _truncate(value: Any, content: Content) -> Any:
    if isinstance(value, str):
        return content.text(value)
    if isinstance(value, Mapping):
        return {key: _truncate(item, content) for key, item in value.items()}
    return [_truncate(item, content) for item in value] if isinstance(value, list) else value


def _genai_message(message: Message) -> dict[str, Any]:
    role = message.get("role", "")
    parts = [_genai_part(item) for item in _content_parts(message.get("content"))]
    if role == "tool":
        parts = [{"type": "tool_call_response", "id": message.get("tool_call_id"), "response": message.get("content")}]
    calls = message.get("tool_calls") or ()
    parts += [{"type": "tool_call", "id": call.get("id"), **_function(call)} for call in calls]
    return {"role": role, "parts": parts} | ({"name": message["name"]} if message.get("name") else {})


def _content_parts(content: Any) -> Iterable[Any]:
    if content is None or content == "":
        return ()
    return content if isinstance(content, list) else ({"type": "text", "text": content},)


def _genai_part(item: Any) -> dict[str, Any]:
    if not isinstance(item, Mapping) or item.get("type") not in ("text", "image_url"):
        return {"type": "unknown", "content": item}
    if item["type"] == "text":
        return {"type": "text", "content": item.get("text", "")}
    image = item.get("image_url")
    url = image.get("url", "") if isinstance(image, Mapping) else image
    return {"type": "uri", "modality": "image", "uri": str(url)}


def _function(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function") or {}
    return {"name": function.get("name"), "arguments": function.get("arguments")}


def _openinference_message(key: str, message: Message) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {f"{key}.role": str(message.get("role", ""))}
    content = message.get("content")
    if isinstance(content, list):
        for number, item in enumerate(content):
            place, part = f"{key}.contents.{number}.message_content", _genai_part(item)
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
