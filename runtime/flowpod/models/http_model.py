"""What the models behind HTTP have in common: one answer is read, whole or as a stream, and failures are explained.

The `openai` client makes the requests, pools connections and retries; the stream's bytes are decoded here. Its typed
chunks cost six times as much, and they hide how a stream ended: a model that broke off must not look like one that
finished.
"""

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ClassVar, NoReturn

import httpx2
import openai
import orjson
from openai import AsyncOpenAI, AsyncStream

from flowpod.errors import NodeError
from flowpod.flow.model import Connection
from flowpod.models.base import Chunk, Result, Usage
from flowpod.models.client import client_of
from flowpod.models.sse_reader import EventData
from flowpod.models.tool_calls import Calling, with_function_call

_DRAIN_S = 0.1
# What promptflow's rules always send, and has no effect: other APIs than chat completions refuse some of it.
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
    """What has been read of one answer; each API has a class of its own.

    `what` names what the API answers, `end` what its streams end with.
    """

    what: ClassVar[str]
    end: ClassVar[str]

    def __init__(self, where: str, model: str, calling: Calling = "") -> None:
        self.where = where
        self.model = model
        self.calling = calling
        self.usage: Usage | None = None
        self.finish_reason = ""
        self.ended = False
        self._texts: list[str] = []

    def add(self, data: bytes, *, last: bool = False) -> Chunk | None:
        """Take the data of one event; `last` marks one that the end of the stream may have cut.

        Raises NodeError when it is none of the API's.
        """
        if data == b"[DONE]":
            self.ended = True
            return None
        try:
            content = _loads(data)
        except ValueError as error:
            if last:
                return None
            raise self.rubbish(data) from error
        if not isinstance(content, dict):
            raise self.rubbish(data)
        self._raise_if_error(content)
        try:
            chunk = self.piece(content)
        except (AttributeError, LookupError, TypeError) as error:
            raise self.rubbish(data) from error
        if chunk.text:
            self._texts.append(chunk.text)
        return chunk if chunk.text or chunk.reasoning else None

    def result(self) -> Result:
        """Return the whole of a streamed answer; raises NodeError when the stream ended before the model did."""
        if not (self.ended or self.finish_reason):
            message = f"{self.where}: the model broke off its answer: {self.end} before the end"
            raise NodeError(message, code="model_broke_off")
        return self._result("".join(self._texts))

    def whole(self, body: bytes) -> tuple[Chunk | Result, ...]:
        """Return the parts of an answer in one piece; of one to a request with tools, the message alone."""
        try:
            content = _loads(body)
            if not isinstance(content, dict):
                raise self.rubbish(body)
            self._raise_if_error(content)
            if self.calling:
                message = self.message(content)
                if self.calling == "functions" and message.get("tool_calls"):
                    message, self.finish_reason = with_function_call(message), "function_call"
                return (self._result(message),)
            chunk = self.all(content)
        except (ValueError, AttributeError, LookupError, TypeError) as error:
            raise self.rubbish(body) from error
        return chunk, self._result(chunk.text)

    @abstractmethod
    def piece(self, content: dict[str, Any]) -> Chunk:
        """Take one event in and return what it says; any LookupError, TypeError or AttributeError is a bad event."""

    @abstractmethod
    def all(self, content: dict[str, Any]) -> Chunk:
        """Take a whole answer in and return what it says; raises as `piece`."""

    @abstractmethod
    def message(self, content: dict[str, Any]) -> dict[str, Any]:
        """Take a whole answer in and return its message, with its calls of tools; raises as `piece`."""

    def error_of(self, content: Mapping[str, Any]) -> Any:
        """Return the error that a body or an event reports, a text or a mapping with a message, or None."""
        # DashScope's and others' errors are flat, and may come with an output that is null.
        is_flat = "code" in content and "message" in content
        answers = content.get("choices") is not None or content.get("output") is not None
        return content.get("error") or (content if is_flat and not answers else None)

    def _raise_if_error(self, content: Mapping[str, Any]) -> None:
        if error := self.error_of(content):
            message = error.get("message") if isinstance(error, dict) else error
            raise NodeError(f"{self.where}: the model reported an error: {message or error}", code="model_error")

    def _result(self, value: Any) -> Result:
        return Result(value, self.usage, self.model, self.finish_reason or "stop")

    def rubbish(self, data: bytes) -> NodeError:
        """Return the error for what the API does not answer."""
        shown = data[:200].decode("utf-8", "replace")
        return NodeError(f"{self.where}: the model sent what is not {self.what}: {shown!r}", code="model_bad_answer")


class HttpModel:
    """The model behind one connection: one client and its pool, shared by all runs. Each API has a class of its own."""

    fixed_model = False

    def __init__(self, connection: Connection) -> None:
        self.connection_type = connection.type
        self.default_model = str(connection.fields["model"])
        self._timeout_s = float(connection.fields["timeout_s"])
        client = client_of(connection)
        self.address = client.address
        self._where = client.where
        self._client = client.api

    def _ask(
        self,
        path: str,
        body: Mapping[str, Any],
        headers: Mapping[str, str] | None,
        reading: AnswerReader,
        *,
        stream: bool,
    ) -> AsyncGenerator[Chunk | Result, None]:
        request = posted(self._client, path, body, headers or {}, stream=stream)
        return answer_of(request, reading, stream=stream, timeout_s=self._timeout_s)

    async def close(self) -> None:
        """Close the pool."""
        await self._client.close()


async def answer_of(
    request: AbstractAsyncContextManager[httpx2.Response], reading: AnswerReader, *, stream: bool, timeout_s: float
) -> AsyncGenerator[Chunk | Result, None]:
    """Yield the chunks of the answer to a request, then its Result. Raises NodeError for whatever goes wrong."""
    try:
        async with request as response:
            if _is_stream(response.headers.get("content-type", ""), stream):
                async for item in _streamed(response, reading):
                    yield item
            else:
                for part in reading.whole(await response.aread()):
                    yield part
    except (openai.APIError, httpx2.HTTPError) as error:
        _explain(error, reading.where, timeout_s)


@asynccontextmanager
async def posted(
    client: AsyncOpenAI, path: str, body: Mapping[str, Any], headers: Mapping[str, str], *, stream: bool
) -> AsyncGenerator[httpx2.Response, None]:
    """Make a request by the `openai` client, and give its response, whole or as it comes."""
    # By the client's own `post`: its typed methods look at the types of all that they are given, which takes long the
    # first time and is a good part of each request.
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


def text_of(value: Any) -> str:
    """Return a text, "" for null; raises TypeError for anything else."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def usage_of(usage: Any, prompt: str, completion: str) -> Usage | None:
    """Return the tokens that a mapping counts under these names, or None."""
    if not isinstance(usage, dict):
        return None
    return Usage(*(count if isinstance(count := usage.get(name), int) else 0 for name in (prompt, completion)))


def with_effect(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that change something, without those that are promptflow's defaults for the same."""
    return {
        name: value
        for name, value in parameters.items()
        if value is not None and not (name in _NEUTRAL and value == _NEUTRAL[name])
    }


async def _streamed(response: httpx2.Response, reading: AnswerReader) -> AsyncIterator[Chunk | Result]:
    events = EventData()
    pieces = response.aiter_bytes()
    try:
        async for piece in pieces:
            for data in events.feed(piece):
                if chunk := reading.add(data):
                    yield chunk
            if reading.ended:
                break
        else:
            for data in events.end():
                if chunk := reading.add(data, last=True):
                    yield chunk
    except httpx2.HTTPError:
        # A server that says why it finished but never closes the stream has still given its whole answer.
        if not reading.finish_reason:
            raise
    if reading.ended:
        await _read_to_end(pieces)
    yield reading.result()


async def _read_to_end(pieces: AsyncIterator[bytes]) -> None:
    """Read what follows the end, nothing as a rule, so that the connection goes back to the pool."""
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
        return json.loads(data)  # takes what orjson refuses and models send: half an emoji as a lone surrogate


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
    """Return what led to an error, the first cause last: the transport calls many a failure a time-out that is none."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    return causes


def _status_message(error: openai.APIStatusError) -> str:
    body = error.body
    if isinstance(body, dict) and isinstance(body.get("message"), str):
        return str(body["message"])
    return error.response.text[:500].strip() or error.response.reason_phrase
