"""OpenAI's Responses as a model, of any server that speaks that API."""

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import Any

from flowpod.models.base import Chunk, Result
from flowpod.models.http_model import AnswerReader, HttpModel, text_of, usage_of, with_effect
from flowpod.models.openai_chat import message_of
from flowpod.models.tool_calls import called_by, with_tool_messages, with_tools


class OpenAIResponses(HttpModel):
    """Calls `/responses`."""

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        parameters: Mapping[str, Any],
        *,
        stream: bool,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[Chunk | Result, None]:
        """Yield the answer's chunks, then its Result; see `ChatModel.chat`."""
        items = [item for message in with_tool_messages(messages) for item in _items(message)]
        return self._call(items, parameters, stream=stream, headers=headers)

    def complete(
        self,
        prompt: str,
        parameters: Mapping[str, Any],
        *,
        stream: bool,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[Chunk | Result, None]:
        """Yield the text's chunks, then its Result; see `ChatModel.complete`."""
        return self._call(prompt, parameters, stream=stream, headers=headers)

    def _call(
        self,
        content: str | list[dict[str, Any]],
        parameters: Mapping[str, Any],
        *,
        stream: bool,
        headers: Mapping[str, str] | None,
    ) -> AsyncGenerator[Chunk | Result, None]:
        calling = called_by(parameters)
        stream = stream and not calling
        # What is stored there by default nothing here ever asks for again.
        body = {"model": self.default_model, "input": content, "store": False, **_parameters(parameters)}
        body["stream"] = stream
        reading = _Reading(self._where, "", calling)
        return self._ask("/responses", body, headers, reading, stream=stream)


class _Reading(AnswerReader):
    what = "an answer of the Responses API"
    end = "no response.completed"

    def piece(self, content: dict[str, Any]) -> Chunk:
        match content["type"]:
            case "response.output_text.delta" | "response.refusal.delta":
                return Chunk(_required(content["delta"]))
            case "response.reasoning_text.delta" | "response.reasoning_summary_text.delta":
                return Chunk("", _required(content["delta"]))
            case "response.completed" | "response.incomplete":
                self._note(content["response"])
                self.ended = True
        return Chunk()

    def all(self, content: dict[str, Any]) -> Chunk:
        self._note(content)
        texts, thoughts = [], []
        for item in content["output"]:
            if item["type"] == "message":
                texts += [_required(part.get("text", part.get("refusal"))) for part in item["content"]]
            elif item["type"] == "reasoning":
                parts = item.get("content") or item.get("summary") or ()
                thoughts += [_required(part["text"]) for part in parts]
        return Chunk("".join(texts), "".join(thoughts))

    def message(self, content: dict[str, Any]) -> dict[str, Any]:
        text = self.all(content).text
        calls = [
            {
                "id": item["call_id"],
                "type": "function",
                "function": {name: item[name] for name in ("name", "arguments")},
            }
            for item in content["output"]
            if item["type"] == "function_call"
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
        self.model = response.get("model") or self.model
        self.usage = usage_of(response.get("usage"), "input_tokens", "output_tokens") or self.usage
        details = response.get("incomplete_details") or {}
        reasons = {"max_output_tokens": "length", "content_filter": "content_filter"}
        self.finish_reason = reasons.get(str(details.get("reason")), "stop")


def _required(value: Any) -> str:
    if value is None:
        raise TypeError(value)
    return text_of(value)


def _items(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the items of the input that a message of chat completions is."""
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
    """Return the parameters of a chat completion under the names that they have here; further ones stay."""
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
    """Return an object with what is in its `inner` one beside its other keys, as Responses have it."""
    if not (isinstance(value, dict) and isinstance(value.get(inner), dict)):
        return value
    return {**{name: item for name, item in value.items() if name != inner}, **value[inner]}
