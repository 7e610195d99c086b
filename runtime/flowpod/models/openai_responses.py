"""The Responses API of OpenAI, or of a compatible server, as a model."""

from collections.abc import Iterator, Mapping
from typing import Any

from flowpod.models.answer_reader import AnswerReader, optional_name, optional_text, usage_of
from flowpod.models.base import Chunk, ModelRequest
from flowpod.models.http_model import HttpCall, HttpModel, with_effect
from flowpod.models.openai_chat import message_of
from flowpod.models.tool_calls import with_tool_messages, with_tools


class _ResponsesReader(AnswerReader):
    what = "an answer of the Responses API"
    end = "no response.completed"

    def read_chunk(self, content: dict[str, Any]) -> Chunk:
        match content["type"]:
            case "response.output_text.delta" | "response.refusal.delta":
                return Chunk(_required(content["delta"]))
            case "response.reasoning_text.delta" | "response.reasoning_summary_text.delta":
                return Chunk("", _required(content["delta"]))
            case "response.completed" | "response.incomplete":
                self._note(content["response"])
                self.ended = True
        return Chunk()

    def read_body(self, content: dict[str, Any]) -> Chunk:
        self._note(content)
        texts, thoughts = [], []
        for item in content["output"]:
            if item["type"] == "message":
                texts += [_required(part.get("text", part.get("refusal"))) for part in item["content"]]
            elif item["type"] == "reasoning":
                parts = item.get("content") or item.get("summary") or ()
                thoughts += [_required(part["text"]) for part in parts]
        return Chunk("".join(texts), "".join(thoughts))

    def read_message(self, content: dict[str, Any]) -> dict[str, Any]:
        text = self.read_body(content).text
        items = [item for item in content["output"] if item["type"] == "function_call"]
        functions = [{"name": item["name"], "arguments": item["arguments"]} for item in items]
        calls = [
            {"id": item["call_id"], "type": "function", "function": function}
            for item, function in zip(items, functions, strict=True)
        ]
        message = {"role": "assistant", "content": text or None, **({"tool_calls": calls} if calls else {})}
        if calls:
            self.finish_reason = "tool_calls"
        return message_of([{"index": 0, "message": message, "finish_reason": self.finish_reason}])

    def error_of(self, content: Mapping[str, Any]) -> Any:
        response = content.get("response")
        if isinstance(response, dict) and response.get("status") == "failed":
            return response.get("error") or "the response failed"
        if content.get("status") == "failed":
            return content.get("error") or "the response failed"
        return super().error_of(content)

    def _note(self, response: Mapping[str, Any]) -> None:
        self.model = optional_name(response.get("model")) or self.model
        self.usage = usage_of(response.get("usage"), "input_tokens", "output_tokens") or self.usage
        details = response.get("incomplete_details") or {}
        reasons = {"max_output_tokens": "length", "content_filter": "content_filter"}
        self.finish_reason = reasons.get(str(details.get("reason")), "stop")


def _required(value: Any) -> str:
    if value is None:
        raise TypeError(value)
    return optional_text(value)


def _items(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    role, content = message["role"], message.get("content")
    kind = "output_text" if role == "assistant" else "input_text"
    parts = [_part(part, kind) for part in content] if isinstance(content, list) else content
    if role == "tool":
        yield {"type": "function_call_output", "call_id": message["tool_call_id"], "output": parts}
        return
    if content is not None:
        yield {"role": role, "content": parts}
    for call in message.get("tool_calls") or ():
        yield {"type": "function_call", "call_id": call["id"], **call["function"]}


def _part(part: Mapping[str, Any], kind: str) -> dict[str, Any]:
    if part["type"] == "text":
        return {"type": kind, "text": part["text"]}
    image = part["image_url"]
    return {"type": "input_image", "image_url": image["url"], "detail": image.get("detail", "auto")}


def _parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a chat completion under their names in this API; unknown ones stay."""
    rest = with_tools(with_effect(parameters))
    limit = rest.pop("max_tokens", None)
    limit = rest.pop("max_completion_tokens", limit)
    if limit is not None:
        rest["max_output_tokens"] = limit
    if effort := rest.pop("reasoning_effort", None):
        rest["reasoning"] = {"effort": effort}
    if form := rest.pop("response_format", None):
        rest["text"] = {"format": _flat(form, "json_schema")}
    if tools := rest.get("tools"):
        rest["tools"] = [_flat(tool, "function") for tool in tools]
    if "tool_choice" in rest:
        rest["tool_choice"] = _flat(rest["tool_choice"], "function")
    return rest


def _flat(value: Any, inner: str) -> Any:
    """Return an object with the keys of its `inner` object beside its own, as this API has them."""
    if not (isinstance(value, dict) and isinstance(value.get(inner), dict)):
        return value
    return {**{name: item for name, item in value.items() if name != inner}, **value[inner]}


class ResponsesModel(HttpModel):
    """Calls `/responses`."""

    reader = _ResponsesReader

    def http_call(self, request: ModelRequest, *, stream: bool) -> HttpCall:
        """Return the request of a response that the server does not store."""
        prompt = request.prompt
        if not isinstance(prompt, str):
            prompt = [item for message in with_tool_messages(prompt) for item in _items(message)]
        body = {"model": self.default_model, "input": prompt, "store": False, **_parameters(request.parameters)}
        return HttpCall("/responses", {**body, "stream": stream})
