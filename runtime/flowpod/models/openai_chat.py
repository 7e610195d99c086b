"""Chat completions and plain completions of an OpenAI-compatible server."""

from collections.abc import Mapping
from typing import Any

from flowpod.flow.model import Connection
from flowpod.models.answer_reader import AnswerReader, optional_name, optional_text, usage_of
from flowpod.models.base import Chunk, ModelRequest
from flowpod.models.http_model import HttpCall, HttpModel


class _ChatReader(AnswerReader):
    what = "a chat completion"
    end = "no finish_reason and no [DONE]"

    def read_chunk(self, content: dict[str, Any]) -> Chunk:
        self._note(content)
        choices = content.get("choices")
        if not choices or (choice := choices[0]).get("index"):
            return Chunk()  # or a further answer, when the node sets `n`: the first one is the value
        if reason := choice.get("finish_reason"):
            self.finish_reason = optional_name(reason)
        return _chunk(choice, choice.get("delta") or {})

    def read_body(self, content: dict[str, Any]) -> Chunk:
        choice = content["choices"][0]
        self._note(content)
        self.finish_reason = optional_name(choice.get("finish_reason"))
        return _chunk(choice, choice["message"] if "text" not in choice else {})

    def read_message(self, content: dict[str, Any]) -> dict[str, Any]:
        self.finish_reason = optional_name(content["choices"][0].get("finish_reason"))
        self._note(content)
        return message_of(content["choices"])

    def _note(self, content: Mapping[str, Any]) -> None:
        if (model := content.get("model")) != self.model:  # it is the same in every event
            self.model = optional_name(model) or self.model
        if usage := content.get("usage"):
            self.usage = usage_of(usage, "prompt_tokens", "completion_tokens") or self.usage


def message_of(choices: Any) -> dict[str, Any]:
    """Return the message of a model that was offered tools, with the keys of the client's type, as promptflow does."""
    # Imported on first use, because it takes half a second, and few models are offered tools.
    from openai.types.chat import ChatCompletion

    message: dict[str, Any] = ChatCompletion.construct(choices=choices).model_dump()["choices"][0]["message"]
    return message


def _chunk(choice: Mapping[str, Any], message: Mapping[str, Any]) -> Chunk:
    """Return the text of a choice: of its message or delta, or of a plain completion."""
    if "text" in choice:
        return Chunk(optional_text(choice["text"]))
    # `reasoning_content` is DeepSeek's and Qwen's name, `reasoning` that of newer vLLM.
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    return Chunk(optional_text(message.get("content")), optional_text(reasoning))


class ChatCompletionsModel(HttpModel):
    """Calls `/chat/completions` and `/completions`."""

    reader = _ChatReader

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._stream_usage = bool(connection.fields["stream_usage"])

    def http_call(self, request: ModelRequest, *, stream: bool) -> HttpCall:
        """Return the request of a chat completion, or of a plain completion."""
        plain = isinstance(request.prompt, str)
        prompt = {"prompt" if plain else "messages": request.prompt}
        body = {"model": self.default_model, **prompt, **request.parameters, "stream": stream}
        if stream and self._stream_usage:
            body.setdefault("stream_options", {"include_usage": True})
        return HttpCall("/completions" if plain else "/chat/completions", body)
