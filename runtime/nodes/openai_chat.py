"""Chat completions, and plain completions, of an OpenAI-compatible server.

The `openai` client makes the request, pools connections and retries; the stream's bytes are decoded here. Its typed
chunks cost six times as much, and they hide how a stream ended: a model that broke off must not look like one that
finished.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, NoReturn

import httpx2
import openai
import orjson
from openai import AsyncStream
from openai.types.chat import ChatCompletion

from runtime.errors import NodeError
from runtime.nodes.base import Chunk, Connection, Result, Usage
from runtime.nodes.openai_clients import client_of
from runtime.nodes.sse import EventData

_DRAIN_S = 0.1


class OpenAIChat:
    """The model behind one connection: one client and its pool, shared by all runs."""

    fixed_model = False

    def __init__(self, connection: Connection) -> None:
        fields = connection.fields
        self.default_model = str(fields["model"])
        self._stream_usage = bool(fields["stream_usage"])
        self._timeout_s = float(fields["timeout_s"])
        self.connection_type = connection.type
        client = client_of(connection)
        self._where = client.where
        self.address = client.address
        self._client = client.api

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        parameters: Mapping[str, Any],
        *,
        stream: bool,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[Chunk | Result, None]:
        """Yield the answer's chunks, then its Result; see `ChatModel.chat`."""
        calling = bool(parameters.get("tools") or parameters.get("functions"))
        stream = stream and not calling
        body = self._body({"messages": messages}, parameters, stream)
        return self._answer("/chat/completions", body, headers, _message_of if calling else None)

    def complete(
        self,
        prompt: str,
        parameters: Mapping[str, Any],
        *,
        stream: bool,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[Chunk | Result, None]:
        """Yield the text's chunks, then its Result; see `ChatModel.complete`."""
        return self._answer("/completions", self._body({"prompt": prompt}, parameters, stream), headers, None)

    def _body(self, asked: Mapping[str, Any], parameters: Mapping[str, Any], stream: bool) -> dict[str, Any]:
        body = {"model": self.default_model, **asked, **parameters, "stream": stream}
        if stream and self._stream_usage:
            body.setdefault("stream_options", {"include_usage": True})
        return body

    async def _answer(
        self,
        path: str,
        body: Mapping[str, Any],
        headers: Mapping[str, str] | None,
        message_of: Callable[[dict[str, Any]], dict[str, Any]] | None,
    ) -> AsyncGenerator[Chunk | Result, None]:
        try:
            async with aclosing(await self._posted(path, body, headers or {})) as response:
                if _is_stream(response.headers.get("content-type", ""), body["stream"]):
                    async for item in self._streamed(response):
                        yield item
                else:
                    for part in _whole(await response.aread(), self._where, message_of):
                        yield part
        except (openai.APIError, httpx2.HTTPError) as error:
            self._explain(error)

    async def _posted(self, path: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> httpx2.Response:
        # By the client's own `post`: its typed methods look at the types of all that they are given, which takes long
        # the first time and is a good part of each request.
        if not body["stream"]:
            return await self._client.post(path, cast_to=httpx2.Response, body=body, options={"headers": headers})
        stream_cls = AsyncStream[object]
        opened: AsyncStream[object] = await self._client.post(
            path, cast_to=object, body=body, options={"headers": headers}, stream=True, stream_cls=stream_cls
        )
        return opened.response

    async def _streamed(self, response: httpx2.Response) -> AsyncIterator[Chunk | Result]:
        answer = _Answer(self._where)
        events = EventData()
        pieces = response.aiter_bytes()
        try:
            async for piece in pieces:
                for data in events.feed(piece):
                    if chunk := answer.add(data):
                        yield chunk
                if answer.ended:
                    break
            else:
                for data in events.end():
                    if chunk := answer.add(data, last=True):
                        yield chunk
        except httpx2.HTTPError:
            # A server that says why it finished but never closes the stream has still given its whole answer.
            if not answer.finish_reason:
                raise
        if answer.ended:
            await _read_to_end(pieces)
        yield answer.result()

    def _explain(self, error: Exception) -> NoReturn:
        if isinstance(error, openai.APIStatusError):
            message = f"{self._where}: the model answered {error.status_code}: {_status_message(error)}"
            raise NodeError(message, code="model_error") from error
        causes = _causes(error)
        if any(isinstance(cause, TimeoutError) for cause in causes):
            message = f"{self._where}: the model was silent for {self._timeout_s:g} s (the connection's timeout_s)"
            raise NodeError(message, code="model_timeout") from error
        if isinstance(error, openai.APIConnectionError):
            # Other causes may quote the request, and so the key.
            text = next(
                (str(cause) for cause in reversed(causes) if isinstance(cause, OSError)), type(causes[-1]).__name__
            )
            raise NodeError(f"{self._where}: cannot be reached: {text}", code="model_unreachable") from error
        raise NodeError(f"{self._where}: the model broke off its answer: {error}", code="model_broke_off") from error

    async def close(self) -> None:
        """Close the pool."""
        await self._client.close()


class _Answer:
    """What has been read of one streamed answer."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._texts: list[str] = []
        self._model = ""
        self._usage: Usage | None = None
        self.finish_reason = ""
        self.ended = False

    def add(self, data: bytes, *, last: bool = False) -> Chunk | None:
        """Take the data of one event; `last` marks one that the end of the stream may have cut.

        Raises NodeError when it is no chunk.
        """
        if data == b"[DONE]":
            self.ended = True
            return None
        try:
            content = _loads(data)
        except ValueError as error:
            if last:
                return None
            raise _rubbish(self._where, data) from error
        if not isinstance(content, dict):
            raise _rubbish(self._where, data)
        _raise_if_error(content, self._where)
        self._model = content.get("model") or self._model
        self._usage = _usage(content) or self._usage
        choices = content.get("choices")
        if not choices:
            return None
        try:
            choice = choices[0]
            if choice.get("index"):
                return None  # a further answer, of a node that asked for `n`: the first one is the value
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            chunk = _chunk(choice, choice.get("delta") or {})
        except (AttributeError, LookupError, TypeError) as error:
            raise _rubbish(self._where, data) from error
        if chunk.text:
            self._texts.append(chunk.text)
        return chunk if chunk.text or chunk.reasoning else None

    def result(self) -> Result:
        """Return the whole answer; raises NodeError when the stream ended before the model did."""
        if not (self.ended or self.finish_reason):
            message = f"{self._where}: the model broke off its answer: no finish_reason and no [DONE] before the end"
            raise NodeError(message, code="model_broke_off")
        return Result("".join(self._texts), self._usage, self._model, self.finish_reason or "stop")


def _is_stream(content_type: str, asked: bool) -> bool:
    return "event-stream" in content_type or (asked and "json" not in content_type and "html" not in content_type)


def _whole(
    body: bytes, where: str, message_of: Callable[[dict[str, Any]], dict[str, Any]] | None
) -> tuple[Chunk | Result, ...]:
    try:
        content = _loads(body)
        if not isinstance(content, dict):
            raise _rubbish(where, body)
        _raise_if_error(content, where)
        choice = content["choices"][0]
        usage, model, finish_reason = _usage(content), content.get("model") or "", choice.get("finish_reason") or "stop"
        if message_of is not None:
            return (Result(message_of(content), usage, model, finish_reason),)
        chunk = _chunk(choice, choice["message"] if "text" not in choice else {})
    except (ValueError, AttributeError, LookupError, TypeError) as error:
        raise _rubbish(where, body) from error
    return chunk, Result(chunk.text, usage, model, finish_reason)


def _message_of(content: dict[str, Any]) -> dict[str, Any]:
    """Return the message that a model answered to a request with tools, with the keys that promptflow gives it.

    Those are the ones of the client's own type, null where the model gave none.
    """
    message: dict[str, Any] = ChatCompletion.construct(**content).model_dump()["choices"][0]["message"]
    return message


def _chunk(choice: Mapping[str, Any], message: Mapping[str, Any]) -> Chunk:
    """Return what a choice says: in its message or delta, or of a plain completion in its text."""
    if "text" in choice:
        return Chunk(_text(choice["text"]))
    return Chunk(_text(message.get("content")), _reasoning(message))


def _loads(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return json.loads(data)  # takes what orjson refuses and models send: half an emoji as a lone surrogate


def _reasoning(message: Mapping[str, Any]) -> str:
    # `reasoning_content` is DeepSeek's and Qwen's name, `reasoning` that of newer vLLM.
    return _text(message.get("reasoning_content") or message.get("reasoning"))


def _text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _usage(content: Mapping[str, Any]) -> Usage | None:
    usage = content.get("usage")
    if not isinstance(usage, dict):
        return None
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    return Usage(*(count if isinstance(count, int) else 0 for count in counts))


def _raise_if_error(content: Mapping[str, Any], where: str) -> None:
    error = content.get("error")
    if not error and "choices" not in content and "code" in content and "message" in content:
        error = content  # the flat form of DashScope and others
    if error:
        message = error.get("message") if isinstance(error, dict) else error
        raise NodeError(f"{where}: the model reported an error: {message or error}", code="model_error")


def _rubbish(where: str, data: bytes) -> NodeError:
    shown = data[:200].decode("utf-8", "replace")
    return NodeError(f"{where}: the model sent what is not a chat completion: {shown!r}", code="model_bad_answer")


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


async def _read_to_end(pieces: AsyncIterator[bytes]) -> None:
    """Read what follows [DONE], nothing as a rule, so that the connection goes back to the pool."""
    try:
        async with asyncio.timeout(_DRAIN_S):
            async for _ in pieces:
                pass
    except (TimeoutError, httpx2.HTTPError):
        return  # the answer is whole; only the connection is lost
