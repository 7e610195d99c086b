"""Chat completions, and plain completions, of an OpenAI-compatible server."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from openai.types.chat import ChatCompletion

from flowpod.flow.model import Connection
from flowpod.models.base import Chunk, Result
from flowpod.models.http_model import AnswerReader, HttpModel, text_of, usage_of
from flowpod.models.tool_calls import called_by


class OpenAIChat(HttpModel):
    """Calls `/chat/completions` and `/completions`."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._stream_usage = bool(connection.fields["stream_usage"])

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        parameters: Mapping[str, Any],
        *,
        stream: bool,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[Chunk | Result, None]:
        """Yield the answer's chunks, then its Result; see `ChatModel.chat`."""
        calling = called_by(parameters)
        stream = stream and not calling
        reading = _Reading(self._where, "", calling)
        return self._call("/chat/completions", {"messages": messages}, parameters, headers, reading, stream=stream)

    def complete(
        self,
        prompt: str,
        parameters: Mapping[str, Any],
        *,
        stream: bool,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[Chunk | Result, None]:
        """Yield the text's chunks, then its Result; see `ChatModel.complete`."""
        reading = _Reading(self._where, "")
        return self._call("/completions", {"prompt": prompt}, parameters, headers, reading, stream=stream)

    def _call(
        self,
        path: str,
        asked: Mapping[str, Any],
        parameters: Mapping[str, Any],
        headers: Mapping[str, str] | None,
        reading: "_Reading",
        *,
        stream: bool,
    ) -> AsyncGenerator[Chunk | Result, None]:
        body = {"model": self.default_model, **asked, **parameters, "stream": stream}
        if stream and self._stream_usage:
            body.setdefault("stream_options", {"include_usage": True})
        return self._ask(path, body, headers, reading, stream=stream)


class _Reading(AnswerReader):
    what = "a chat completion"
    end = "no finish_reason and no [DONE]"

    def piece(self, content: dict[str, Any]) -> Chunk:
        self._note(content)
        choices = content.get("choices")
        if not choices or choices[0].get("index"):
            return Chunk()  # or a further answer, of a node that asked for `n`: the first one is the value
        self.finish_reason = choices[0].get("finish_reason") or self.finish_reason
        return _chunk(choices[0], choices[0].get("delta") or {})

    def all(self, content: dict[str, Any]) -> Chunk:
        choice = content["choices"][0]
        self._note(content)
        self.finish_reason = choice.get("finish_reason") or ""
        return _chunk(choice, choice["message"] if "text" not in choice else {})

    def message(self, content: dict[str, Any]) -> dict[str, Any]:
        self.finish_reason = content["choices"][0].get("finish_reason") or ""
        self._note(content)
        return message_of(content["choices"])

    def _note(self, content: Mapping[str, Any]) -> None:
        self.model = content.get("model") or self.model
        self.usage = usage_of(content.get("usage"), "prompt_tokens", "completion_tokens") or self.usage


def message_of(choices: Any) -> dict[str, Any]:
    """Return the message that a model answered to a request with tools, with the keys that promptflow gives it.

    Those are the ones of the client's own type, null where the model gave none.
    """
    message: dict[str, Any] = ChatCompletion.construct(choices=choices).model_dump()["choices"][0]["message"]
    return message


def _chunk(choice: Mapping[str, Any], message: Mapping[str, Any]) -> Chunk:
    """Return what a choice says: in its message or delta, or of a plain completion in its text."""
    if "text" in choice:
        return Chunk(text_of(choice["text"]))
    # `reasoning_content` is DeepSeek's and Qwen's name, `reasoning` that of newer vLLM.
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    return Chunk(text_of(message.get("content")), text_of(reasoning))
