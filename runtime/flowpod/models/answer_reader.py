"""Reads the answer of a model behind HTTP, whole or event by event; each API has a subclass."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import orjson

from flowpod.errors import NodeError
from flowpod.models.base import Chunk, Result, Usage
from flowpod.models.tool_calls import OfferedCalls, with_function_call


class AnswerReader(ABC):
    """Reads one answer, whole or event by event. Each API has a subclass.

    `what` names the API's answers in messages, `end` what ends its streams.
    """

    what: ClassVar[str]
    end: ClassVar[str]

    def __init__(self, where: str, model: str, offered: OfferedCalls = "") -> None:
        self.where = where
        self.model = model
        self.offered = offered
        self.usage: Usage | None = None
        self.finish_reason = ""
        self.ended = False
        self._texts: list[str] = []

    def read_event(self, data: bytes, *, last: bool = False) -> Chunk | None:
        """Return the chunk in the data of one event.

        `last` marks an event that the end of the stream may have truncated. Raises NodeError when the event is not one
        of the API's.
        """
        if data == b"[DONE]":
            self.ended = True
            return None
        try:
            content = _loads(data)
        except ValueError as error:
            if last:
                return None
            raise self.unexpected(data) from error
        if not isinstance(content, dict):
            raise self.unexpected(data)
        self._raise_if_error(content)
        try:
            chunk = self.read_chunk(content)
        except (AttributeError, LookupError, TypeError) as error:
            raise self.unexpected(data) from error
        if chunk.text:
            self._texts.append(chunk.text)
        return chunk if chunk.text or chunk.reasoning else None

    def result(self) -> Result:
        """Return the result of a streamed answer. Raises NodeError when the stream ended before the answer did."""
        if not (self.ended or self.finish_reason):
            message = f"{self.where}: the model broke off its answer: {self.end} before the end"
            raise NodeError(message, code="model_broke_off")
        return self._result("".join(self._texts))

    def read_whole(self, body: bytes) -> tuple[Chunk | Result, ...]:
        """Return a whole answer as a chunk and a Result; the answer to a request with tools is a Result alone."""
        try:
            content = _loads(body)
            if not isinstance(content, dict):
                raise self.unexpected(body)
            self._raise_if_error(content)
            if self.offered:
                message = self.read_message(content)
                if self.offered == "functions" and message.get("tool_calls"):
                    message, self.finish_reason = with_function_call(message), "function_call"
                return (self._result(message),)
            chunk = self.read_body(content)
        except (ValueError, AttributeError, LookupError, TypeError) as error:
            raise self.unexpected(body) from error
        return chunk, self._result(chunk.text)

    @abstractmethod
    def read_chunk(self, content: dict[str, Any]) -> Chunk:
        """Return the chunk of an event; any LookupError, TypeError or AttributeError means that it is malformed."""

    @abstractmethod
    def read_body(self, content: dict[str, Any]) -> Chunk:
        """Return the text of a whole answer; raises as `read_chunk`."""

    @abstractmethod
    def read_message(self, content: dict[str, Any]) -> dict[str, Any]:
        """Return the message of a whole answer, with its tool calls; raises as `read_chunk`."""

    def error_of(self, content: Mapping[str, Any]) -> Any:
        """Return the error in a body or an event, a text or a mapping with a message, or None."""
        # The errors of DashScope and others are flat, and may come with a null output.
        is_flat = "code" in content and "message" in content
        answers = content.get("choices") is not None or content.get("output") is not None
        return content.get("error") or (content if is_flat and not answers else None)

    def _raise_if_error(self, content: Mapping[str, Any]) -> None:
        if error := self.error_of(content):
            message = error.get("message") if isinstance(error, dict) else error
            raise NodeError(f"{self.where}: the model reported an error: {message or error}", code="model_error")

    def _result(self, value: Any) -> Result:
        return Result(value, self.usage, self.model, self.finish_reason or "stop")

    def unexpected(self, data: bytes) -> NodeError:
        """Return the error for an answer that is not one of the API's."""
        shown = data[:200].decode("utf-8", "replace")
        text = f"{self.where}: the model answered with something other than {self.what}: {shown!r}"
        return NodeError(text, code="model_bad_answer")


def optional_text(value: Any) -> str:
    """Return a text, "" for null; raises TypeError for anything else."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def usage_of(usage: Any, prompt: str, completion: str) -> Usage | None:
    """Return the token counts under these names of a mapping, or None."""
    if not isinstance(usage, dict):
        return None
    return Usage(*(count if isinstance(count := usage.get(name), int) else 0 for name in (prompt, completion)))


def _loads(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return json.loads(data)  # accepts a lone surrogate, half an emoji, which some models send and orjson rejects
