"""What the models behind HTTP have in common: they send one request, read its answer, and explain failures.

The `openai` client makes the requests, pools connections and retries; the stream's bytes are decoded here. The client's
typed chunks cost six times as much and hide how a stream ended: a model that broke off must not look like one that
finished.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn

import aiohttp
import httpx2
import openai
from aiohttp.http import HttpProcessingError
from openai import AsyncOpenAI, AsyncStream

from flowpod.errors import NodeError, shorten
from flowpod.flow.model import Connection
from flowpod.models.answer_reader import AnswerReader
from flowpod.models.base import Chunk, ModelRequest, Result
from flowpod.models.client import MAX_REDIRECTS, client_of
from flowpod.models.tool_calls import offered_calls

_DRAIN_S = 0.1
# Bytes that are not HTTP, or not in their declared encoding. The client passes these errors of aiohttp on as they are.
_INVALID_HTTP = (aiohttp.ClientResponseError, HttpProcessingError, httpx2.DecodingError)
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
        sent = posted(self._client, call.path, call.body, {**call.headers, **request.headers})
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
            kind = response.headers.get("content-type", "")
            if "event-stream" in kind or (stream and "json" not in kind and "html" not in kind):
                async for item in _streamed(response, reader):
                    yield item
            else:
                async for piece in response.aiter_bytes():
                    reader.feed_body(piece)
                for part in reader.read_whole():
                    yield part
    except (openai.APIError, httpx2.HTTPError, *_INVALID_HTTP) as error:
        _explain(error, reader.where, timeout_s)


@asynccontextmanager
async def posted(
    client: AsyncOpenAI, path: str, body: Mapping[str, Any], headers: Mapping[str, str]
) -> AsyncGenerator[httpx2.Response, None]:
    """Send a request with the `openai` client and provide its response, whose body is not read yet."""
    # With the client's own `post`: its typed methods inspect the types of all arguments, which is slow the first time
    # and a good part of each request. As a stream always: otherwise the client reads the body without a limit.
    opened: AsyncStream[object] = await client.post(
        path, cast_to=object, body=body, options={"headers": headers}, stream=True, stream_cls=AsyncStream[object]
    )
    try:
        yield opened.response
    finally:
        await opened.response.aclose()


def with_effect(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters without those that have no value or are promptflow's neutral defaults."""
    return {
        name: value
        for name, value in parameters.items()
        if value is not None and not (name in _NEUTRAL and value == _NEUTRAL[name])
    }


async def _streamed(response: httpx2.Response, reader: AnswerReader) -> AsyncIterator[Chunk | Result]:
    pieces = response.aiter_bytes()
    try:
        async for piece in pieces:
            for chunk in reader.feed(piece):
                yield chunk
            if reader.ended:
                break
        else:
            for chunk in reader.feed_end():
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
    except (TimeoutError, httpx2.HTTPError, *_INVALID_HTTP):
        return  # the answer is whole; only the connection is lost


def _explain(error: Exception, where: str, timeout_s: float) -> NoReturn:
    if isinstance(error, openai.APIStatusError):
        message = f"{where}: the model answered {error.status_code}: {_status_message(error)}"
        plain = f"the model answered with status {error.status_code}"
        raise NodeError(message, code="model_error", plain=plain) from error
    causes = _causes(error)
    if any(isinstance(cause, TimeoutError) for cause in causes):
        message = f"{where}: the model was silent for {timeout_s:g} s (the connection's timeout_s)"
        raise NodeError(message, code="model_timeout") from error
    if isinstance(error, _INVALID_HTTP) or isinstance(error.__cause__, _INVALID_HTTP):
        message = f"{where}: the model's server sent bytes that are not valid HTTP: {_reason(causes)}"
        raise NodeError(message, code="model_invalid_http") from error
    if any(isinstance(cause, httpx2.TooManyRedirects) for cause in causes):
        message = f"{where}: the model's server redirects more than {MAX_REDIRECTS} times"
        raise NodeError(message, code="model_too_many_redirects") from error
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
        return shorten(str(body["message"]))
    return error.response.text[:500].strip() or error.response.reason_phrase


def _reason(causes: Sequence[BaseException]) -> str:
    """Return what is wrong with bytes; without the request, which aiohttp's own text names."""
    error = next(cause for cause in causes if isinstance(cause, _INVALID_HTTP))
    reason = str(error) if isinstance(error, httpx2.DecodingError) else error.message
    return shorten(reason.strip().partition("\n")[0].removesuffix(":")) or type(error).__name__
