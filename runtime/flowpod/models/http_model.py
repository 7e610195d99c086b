"""What the models behind HTTP have in common: they send one request, read its answer, and explain failures.

The `openai` client makes the requests, pools connections and retries; the stream's bytes are decoded here. The client's
typed chunks cost six times as much and hide how a stream ended: a model that broke off must not look like one that
finished.
"""

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn

import httpx2
import openai
import orjson
from openai import AsyncOpenAI, AsyncStream

from flowpod.errors import NodeError
from flowpod.flow.model import Connection
from flowpod.models.base import Chunk, ModelRequest, Result, Usage
from flowpod.models.client import client_of
from flowpod.models.sse_reader import EventData
from flowpod.models.tool_calls import OfferedCalls, offered_calls, with_function_call

_DRAIN_S = 0.1
# Defaults that promptflow's rules always send, without effect. APIs other than chat completions reject some of them.
_NEUTRAL: Mapping[str, Any] = {
    "n": 1,
    "best_of": 1,
    "echo": False,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "logit_bias": {},
    "user": "",
}


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
        return NodeError(
            f"{self.where}: the model answered with something other than {self.what}: {shown!r}",
            code="model_bad_answer",
        )


@dataclass(frozen=True, slots=True)
class HttpCall:
    """A request as one API takes it. `model` is the model's name where the API's answers do not give it."""

    path: str
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)
    model: str = ""


class HttpModel(ABC):
    """The model behind one connection: one client and its pool, shared by all runs. Each API has a subclass."""

    fixed_model = False
    reader: ClassVar[type[AnswerReader]]

    def __init__(self, connection: Connection) -> None:
        self.connection_type = connection.type
        self.default_model = str(connection.fields["model"])
        self._timeout_s = float(connection.fields["timeout_s"])
        client = client_of(connection)
        self.address = client.address
        self._where = client.where
        self._client = client.api

    def answer(self, request: ModelRequest) -> AsyncGenerator[Chunk | Result, None]:
        """Yield the answer's chunks, then its Result; see `Model.answer`."""
        offered = offered_calls(request.parameters)
        stream = request.stream and not offered
        call = self.http_call(request, stream=stream)
        sent = posted(self._client, call.path, call.body, {**call.headers, **request.headers}, stream=stream)
        reader = self.reader(self._where, call.model, offered)
        return answer_of(sent, reader, stream=stream, timeout_s=self._timeout_s)

    @abstractmethod
    def http_call(self, request: ModelRequest, *, stream: bool) -> HttpCall:
        """Return `request` as the API takes it."""

    async def close(self) -> None:
        """Close the pool."""
        await self._client.close()


async def answer_of(
    request: AbstractAsyncContextManager[httpx2.Response], reader: AnswerReader, *, stream: bool, timeout_s: float
) -> AsyncGenerator[Chunk | Result, None]:
    """Yield the chunks of the answer to a request, then its Result. Raises NodeError for every failure."""
    try:
        async with request as response:
            if _is_stream(response.headers.get("content-type", ""), stream):
                async for item in _streamed(response, reader):
                    yield item
            else:
                for part in reader.read_whole(await response.aread()):
                    yield part
    except (openai.APIError, httpx2.HTTPError) as error:
        _explain(error, reader.where, timeout_s)


@asynccontextmanager
async def posted(
    client: AsyncOpenAI, path: str, body: Mapping[str, Any], headers: Mapping[str, str], *, stream: bool
) -> AsyncGenerator[httpx2.Response, None]:
    """Send a request with the `openai` client and provide its response, whole or as it comes."""
    # With the client's own `post`: its typed methods inspect the types of all arguments, which is slow the first time
    # and a good part of each request.
    if stream:
        opened: AsyncStream[object] = await client.post(
            path,
            cast_to=object,
            body=body,
            options={"headers": headers},
            stream=True,
            stream_cls=AsyncStream[object],
        )
        response = opened.response
    else:
        response = await client.post(path, cast_to=httpx2.Response, body=body, options={"headers": headers})
    try:
        yield response
    finally:
        await response.aclose()


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


def with_effect(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters without those that have no value or are promptflow's neutral defaults."""
    return {
        name: value
        for name, value in parameters.items()
        if value is not None and not (name in _NEUTRAL and value == _NEUTRAL[name])
    }


async def _streamed(response: httpx2.Response, reader: AnswerReader) -> AsyncIterator[Chunk | Result]:
    events = EventData()
    pieces = response.aiter_bytes()
    try:
        async for piece in pieces:
            for data in events.feed(piece):
                if chunk := reader.read_event(data):
                    yield chunk
            if reader.ended:
                break
        else:
            for data in events.end():
                if chunk := reader.read_event(data, last=True):
                    yield chunk
    except httpx2.HTTPError:
        # A server that gives a finish reason but never closes the stream has still sent its whole answer.
        if not reader.finish_reason:
            raise
    if reader.ended:
        await _read_to_end(pieces)
    yield reader.result()


async def _read_to_end(pieces: AsyncIterator[bytes]) -> None:
    """Read what follows the end, usually nothing, so that the connection returns to the pool."""
    try:
        async with asyncio.timeout(_DRAIN_S):
            async for _ in pieces:
                pass
    except (TimeoutError, httpx2.HTTPError):
        return  # the answer is whole; only the connection is lost


def _is_stream(content_type: str, asked: bool) -> bool:
    return "event-stream" in content_type or (asked and "json" not in content_type and "html" not in content_type)


def _loads(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return json.loads(data)  # accepts a lone surrogate, half an emoji, which some models send and orjson rejects


def _explain(error: Exception, where: str, timeout_s: float) -> NoReturn:
    if isinstance(error, openai.APIStatusError):
        message = f"{where}: the model answered {error.status_code}: {_status_message(error)}"
        raise NodeError(message, code="model_error") from error
    causes = _causes(error)
    if any(isinstance(cause, TimeoutError) for cause in causes):
        message = f"{where}: the model was silent for {timeout_s:g} s (the connection's timeout_s)"
        raise NodeError(message, code="model_timeout") from error
    if isinstance(error, openai.APIConnectionError):
        # Other causes may quote the request, and so the key.
        text = next((str(cause) for cause in reversed(causes) if isinstance(cause, OSError)), type(causes[-1]).__name__)
        raise NodeError(f"{where}: cannot be reached: {text}", code="model_unreachable") from error
    raise NodeError(f"{where}: the model broke off its answer: {error}", code="model_broke_off") from error


def _causes(error: BaseException) -> list[BaseException]:
    """Return an error and its causes, the first cause last: the transport reports other failures as time-outs too."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    return causes


def _status_message(error: openai.APIStatusError) -> str:
    body = error.body
    if isinstance(body, dict) and isinstance(body.get("message"), str):
        return str(body["message"])
    return error.response.text[:500].strip() or error.response.reason_phrase
