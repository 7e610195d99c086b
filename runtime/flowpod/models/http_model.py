"""What the models behind HTTP have in common: they send one request and read its answer."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import aiohttp

from flowpod.flow.model import Connection
from flowpod.models.answer_reader import AnswerReader
from flowpod.models.base import Chunk, ModelRequest, Result
from flowpod.models.client import ModelClient
from flowpod.models.failures import FAILURES
from flowpod.models.tool_calls import offered_calls

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
        self._client = ModelClient(connection)
        self.address = self._client.address

    def answer(self, request: ModelRequest) -> AsyncGenerator[Chunk | Result, None]:
        """Yield the answer's chunks, then its Result; see `Model.answer`."""
        offered = offered_calls(request.parameters)
        stream = request.stream and not offered
        call = self.http_call(request, stream=stream)
        sent = self._client.post(call.path, call.body, {**call.headers, **request.headers})
        return answer_of(sent, self.reader(self._client.where, call.model, offered), stream=stream)

    @abstractmethod
    def http_call(self, request: ModelRequest, *, stream: bool) -> HttpCall:
        """Return `request` as the API takes it."""

    async def close(self) -> None:
        """Close the pool."""
        await self._client.close()


async def answer_of(
    request: AbstractAsyncContextManager[aiohttp.ClientResponse], reader: AnswerReader, *, stream: bool
) -> AsyncGenerator[Chunk | Result, None]:
    """Yield the chunks of the answer to a request, then its Result. Raises NodeError for every failure."""
    async with request as response:
        kind = response.headers.get("content-type", "")
        if "event-stream" in kind or (stream and "json" not in kind and "html" not in kind):
            async for item in _streamed(response.content, reader):
                yield item
        else:
            async for data in response.content.iter_any():
                reader.feed_body(data)
            for part in reader.read_whole():
                yield part


def with_effect(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters without those that have no value or are promptflow's neutral defaults."""
    return {
        name: value
        for name, value in parameters.items()
        if value is not None and not (name in _NEUTRAL and value == _NEUTRAL[name])
    }


async def _streamed(content: aiohttp.StreamReader, reader: AnswerReader) -> AsyncIterator[Chunk | Result]:
    try:
        async for data in content.iter_any():
            for chunk in reader.feed(data):
                yield chunk
            if reader.ended:
                break
        else:
            for chunk in reader.feed_end():
                yield chunk
    except FAILURES:
        # A server that gives a finish reason but never closes the stream has still sent its whole answer.
        if not reader.finish_reason:
            raise
    if reader.ended:
        await _read_to_end(content)
    yield reader.result()


async def _read_to_end(content: aiohttp.StreamReader) -> None:
    """Read what follows the end, usually nothing, so that the connection returns to the pool."""
    try:
        async with asyncio.timeout(_DRAIN_S):
            async for _ in content.iter_any():
                pass
    except FAILURES:
        return  # the answer is whole; only the connection is lost
