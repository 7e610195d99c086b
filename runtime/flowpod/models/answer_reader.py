"""Reads the answer of a model behind HTTP, whole or event by event; each API has a subclass."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import orjson

from flowpod.errors import NodeError, shorten
from flowpod.jsonable import MAX_DEPTH, as_text, is_too_deep
from flowpod.models.base import Chunk, Result, Usage, merged
from flowpod.models.sse_reader import EventData
from flowpod.models.tool_calls import OfferedCalls, with_function_call

MAX_RESPONSE_BYTES = 16 * 1024 * 1024
"""The limit of a whole answer and of one event of a stream, after decompression: about five million tokens."""
_MAX_TOKENS = 10**12  # no call has more: sums of token counts fit into 64 bits wherever they are stored
_MAX_NAME_CHARS = 256
_UNREADABLE = (ValueError, AttributeError, LookupError, TypeError, RecursionError)


class AnswerReader(ABC):
    """Reads one answer, whole or event by event. Each API has a subclass.

    Bytes go in, chunks and a Result come out; nothing here waits. `what` names the API's answers in messages, `end`
    what ends its streams.
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
        self._events = EventData()
        self._body = bytearray()

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """Yield the chunks of the events that `data` completes, merged.

        Raises NodeError for an event that is not one of the API's, and for one of more than MAX_RESPONSE_BYTES.
        """
        chunks, failure = list[Chunk](), None
        for event in self._events.feed(data):
            try:
                chunk = self._read_event(event)
            except NodeError as error:
                failure = error
                break
            if chunk is not None:
                chunks.append(chunk)
        yield from merged(chunks)
        if failure is not None:
            raise failure
        if self._events.held > MAX_RESPONSE_BYTES:
            raise self._too_large("an event")

    def feed_end(self) -> Iterator[Chunk]:
        """Yield the chunk of an event that the end of the stream completes, unless it is truncated."""
        for event in self._events.end():
            if chunk := self._read_event(event, last=True):
                yield chunk

    def _read_event(self, data: bytes, *, last: bool = False) -> Chunk | None:
        if data == b"[DONE]":
            self.ended = True
            return None
        try:
            content = _loads(data)
        except _UNREADABLE as error:
            if last:
                return None
            raise self.unexpected(data) from error
        if not isinstance(content, dict):
            raise self.unexpected(data)
        try:
            self._raise_if_error(content)
            chunk = self.read_chunk(content)
        except _UNREADABLE as error:
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

    def feed_body(self, data: bytes) -> None:
        """Add to a whole answer. Raises NodeError when it has more than MAX_RESPONSE_BYTES."""
        self._body += data
        if len(self._body) > MAX_RESPONSE_BYTES:
            raise self._too_large("its answer")

    def read_whole(self) -> tuple[Chunk | Result, ...]:
        """Return a whole answer as a chunk and a Result; the answer to a request with tools is a Result alone."""
        body = bytes(self._body)
        self._body.clear()
        try:
            content = _loads(body)
            if not isinstance(content, dict):
                raise self.unexpected(body)
            self._raise_if_error(content)
            if self.offered:
                if is_too_deep(content):
                    raise self.unexpected(body, f"lists and objects nested more than {MAX_DEPTH} deep")
                message = self.read_message(content)
                if self.offered == "functions" and message.get("tool_calls"):
                    message, self.finish_reason = with_function_call(message), "function_call"
                return (self._result(message),)
            chunk = self.read_body(content)
        except _UNREADABLE as error:
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
        if error := content.get("error"):
            return error
        # The errors of DashScope and others are flat, and may come with a null output.
        if "code" not in content or "message" not in content:
            return None
        answers = content.get("choices") is not None or content.get("output") is not None
        return None if answers else content

    def _raise_if_error(self, content: Mapping[str, Any]) -> None:
        if error := self.error_of(content):
            message = error.get("message") if isinstance(error, dict) else error
            text = shorten(as_text(message or error))
            raise NodeError(f"{self.where}: the model reported an error: {text}", code="model_error")

    def _result(self, value: Any) -> Result:
        return Result(value, self.usage, self.model, self.finish_reason or "stop")

    def unexpected(self, data: bytes, reason: str = "") -> NodeError:
        """Return the error for an answer that is not one of the API's."""
        shown = reason or repr(data[:200].decode("utf-8", "replace"))
        text = f"{self.where}: the model answered with something other than {self.what}: {shown}"
        return NodeError(text, code="model_bad_answer")

    def _too_large(self, what: str) -> NodeError:
        text = f"{self.where}: {what} has more than {MAX_RESPONSE_BYTES} bytes, the limit of a model's answer"
        return NodeError(text, code="model_response_too_large")


def optional_text(value: Any) -> str:
    """Return a text, "" for null; raises TypeError for anything else."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def optional_name(value: Any) -> str:
    """Return the name of a model or of a reason, "" for null; raises TypeError for anything else or a long text."""
    if value is not None and len(value) > _MAX_NAME_CHARS:
        raise TypeError(value)
    return optional_text(value)


def usage_of(usage: Any, prompt: str, completion: str) -> Usage | None:
    """Return the token counts under these names of a mapping, or None. A count that no call can have is 0."""
    if not isinstance(usage, dict):
        return None
    return Usage(*(_token_count(usage.get(name)) for name in (prompt, completion)))


def _token_count(value: Any) -> int:
    return value if type(value) is int and 0 <= value <= _MAX_TOKENS else 0


def _loads(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return json.loads(data)  # accepts a lone surrogate, half an emoji, which some models send and orjson rejects
