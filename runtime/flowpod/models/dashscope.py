"""DashScope's own API as a model: text generation, and multimodal generation for messages with images."""

from collections.abc import Mapping
from typing import Any

from flowpod.flow.model import Connection
from flowpod.models.answer_reader import AnswerReader, optional_name, optional_text, usage_of
from flowpod.models.base import Chunk, ModelRequest
from flowpod.models.http_model import HttpCall, HttpModel, with_effect
from flowpod.models.openai_chat import message_of
from flowpod.models.tool_calls import with_tool_messages, with_tools

_TEXT = "/services/aigc/text-generation/generation"
_MULTIMODAL = "/services/aigc/multimodal-generation/generation"


class _DashScopeReader(AnswerReader):
    what = "an answer of DashScope"
    end = "no finish_reason"

    def read_chunk(self, content: dict[str, Any]) -> Chunk:
        self.usage = usage_of(content.get("usage"), "input_tokens", "output_tokens") or self.usage
        output = content.get("output") or {}
        choice = _choice(output)
        if choice.get("index"):
            return Chunk()  # a further answer, when the node sets `n`: the first one is the value
        self._finish(choice)
        self.ended = bool(self.finish_reason)
        return _chunk(choice)

    def read_body(self, content: dict[str, Any]) -> Chunk:
        self.usage = usage_of(content.get("usage"), "input_tokens", "output_tokens")
        choice = _choice(content["output"])
        self._finish(choice)
        if "message" not in choice and "text" not in choice:
            raise LookupError("message")
        return _chunk(choice)

    def read_message(self, content: dict[str, Any]) -> dict[str, Any]:
        self.read_body(content)
        return message_of(content["output"]["choices"])

    def _finish(self, choice: Mapping[str, Any]) -> None:
        reason = optional_name(choice.get("finish_reason"))
        self.finish_reason = "" if reason == "null" else reason


def _choice(output: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the first choice, or in the older form, which has none, the output itself."""
    choices = output.get("choices")
    choice: Mapping[str, Any] = choices[0] if choices else output
    return choice


def _chunk(choice: Mapping[str, Any]) -> Chunk:
    message = choice.get("message") or {"content": choice.get("text")}
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(optional_text(part.get("text")) for part in content)
    return Chunk(optional_text(content), optional_text(message.get("reasoning_content")))


def _has_image(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    return isinstance(content, list) and any(part["type"] != "text" for part in content)


def _message(message: Mapping[str, Any], *, multimodal: bool) -> Mapping[str, Any]:
    """Return OpenAI's message as DashScope takes it: with a text, or for multimodal generation with content parts."""
    content = message.get("content")
    if isinstance(content, list):
        if not multimodal:
            return {**message, "content": "\n".join(part["text"] for part in content if part["type"] == "text")}
        return {**message, "content": [_part(part) for part in content]}
    return {**message, "content": [{"text": content}]} if multimodal and content is not None else message


def _part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"text": part["text"]} if part["type"] == "text" else {"image": part["image_url"]["url"]}


class DashScopeModel(HttpModel):
    """Calls DashScope's text or multimodal generation."""

    reader = _DashScopeReader

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._api = str(connection.fields["api"])
        workspace = str(connection.fields["workspace"])
        self._headers = {"X-DashScope-WorkSpace": workspace} if workspace else {}

    def http_call(self, request: ModelRequest, *, stream: bool) -> HttpCall:
        """Return the request of a generation: multimodal where the messages have images or the connection says so."""
        rest, prompt = with_tools(with_effect(request.parameters)), request.prompt
        multimodal = False
        if isinstance(prompt, str):
            content: Mapping[str, Any] = {"prompt": prompt}
        else:
            multimodal = self._api == "multimodal" or (self._api == "auto" and any(map(_has_image, prompt)))
            messages = [_message(message, multimodal=multimodal) for message in with_tool_messages(prompt)]
            content = {"messages": messages}
            rest["result_format"] = "message"
        model = rest.pop("model", self.default_model)
        if "max_completion_tokens" in rest:
            rest["max_tokens"] = rest.pop("max_completion_tokens")
        if stream:
            rest["incremental_output"] = True
        stream_headers = {"Accept": "text/event-stream", "X-DashScope-SSE": "enable"} if stream else {}
        body = {"model": model, "input": content, "parameters": rest}
        return HttpCall(_MULTIMODAL if multimodal else _TEXT, body, {**self._headers, **stream_headers}, str(model))
