"""Model calls that a flow's own code makes with the `openai` package: each gets a span below that of its node.

opentelemetry-instrumentation-openai-v2 2.4b0 cannot be imported with openai 3.54, which no longer installs httpx, and
openinference-instrumentation-openai 0.1.66 makes spans without GenAI attributes, run and session ids, metrics or a
`traceparent` header. So the methods are replaced here, as promptflow does (tracing/_integrations); `llm` nodes report
their calls themselves.
"""

import functools
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import orjson
from openai import AsyncStream, Stream
from openai.resources.chat.completions import AsyncCompletions, Completions
from openai.resources.embeddings import AsyncEmbeddings, Embeddings

from flowpod.errors import text_of
from flowpod.jsonable import as_text, dumps
from flowpod.telemetry.model_call import CALL, ModelCall
from flowpod.telemetry.tracing import TRACING, Tracing

Operation = Literal["chat", "embeddings"]

_METHODS: tuple[tuple[type, str, Operation], ...] = (
    (Completions, "create", "chat"),
    (Completions, "parse", "chat"),
    (AsyncCompletions, "create", "chat"),
    (AsyncCompletions, "parse", "chat"),
    (Embeddings, "create", "embeddings"),
    (AsyncEmbeddings, "create", "embeddings"),
)
_ASYNC = (AsyncCompletions, AsyncEmbeddings)
_MARK = "__flowpod_traced__"


def trace_openai_calls() -> None:
    """Trace the calls that nodes of this process make; further calls of this function do nothing."""
    for owner, name, operation in _METHODS:
        method = getattr(owner, name)
        if not hasattr(method, _MARK):
            traced = (_traced_async if owner in _ASYNC else _traced)(method, operation)
            setattr(traced, _MARK, True)
            setattr(owner, name, traced)


def _traced(method: Callable[..., Any], operation: Operation) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(resource: Any, *args: Any, **kwargs: Any) -> Any:
        started = _started_call(resource, operation, kwargs)
        if started is None:
            return method(resource, *args, **kwargs)
        with started:
            return started.finish(method(resource, *args, **started.arguments))

    return call


def _traced_async(method: Callable[..., Any], operation: Operation) -> Callable[..., Any]:
    @functools.wraps(method)
    async def call(resource: Any, *args: Any, **kwargs: Any) -> Any:
        started = _started_call(resource, operation, kwargs)
        if started is None:
            return await method(resource, *args, **kwargs)
        with started:
            return started.finish(await method(resource, *args, **started.arguments))

    return call


def _started_call(resource: Any, operation: Operation, kwargs: Mapping[str, Any]) -> "_TracedCall | None":
    """Start a call's span; None outside of nodes, and in `llm` nodes, whose calls have a span already."""
    tracing = TRACING.get()
    if tracing is None or CALL.get() is not None:
        return None
    client = resource._client
    provider = "azure.ai.openai" if "Azure" in type(client).__name__ else "openai"
    address = urlsplit(str(client.base_url)).netloc.rpartition("@")[2]
    call = tracing.start_model_call(str(kwargs.get("model", "")), provider, address, operation)
    prompt = kwargs.get("messages" if operation == "chat" else "input")
    if operation == "chat" and isinstance(prompt, list):
        prompt = [message if isinstance(message, Mapping) else _as_mapping(message) for message in prompt]
    else:
        prompt = as_text(prompt)
    rest = {name: value for name, value in kwargs.items() if name not in ("messages", "input", "extra_headers")}
    prompt, rest = orjson.loads(dumps((prompt, rest)))  # a copy: the node may change its lists during the call
    call.set_request(prompt, rest, stream=bool(kwargs.get("stream")))
    headers = {**call.headers(), **(kwargs.get("extra_headers") or {})}
    return _TracedCall({**kwargs, "extra_headers": headers}, call, tracing)


class _TracedCall:
    """A call in progress, with the chunks of its stream so far. A block with it ends the call if it fails."""

    def __init__(self, arguments: Mapping[str, Any], call: ModelCall, tracing: Tracing) -> None:
        self.arguments = arguments
        self._call = call
        self._tracing = tracing
        self._texts: list[str] = []
        self._model = ""
        self._finish_reason = ""
        self._usage: tuple[int, int] | None = None
        self._chunks = 0
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        if isinstance(error, StopIteration | StopAsyncIteration):
            self.end_stream()
        elif error is not None and not self._ended:
            self._ended = True
            code = type(error).__name__
            self._call.set_error(code)
            self._tracing.fail(self._call.span, text_of(error), code, error)
            self._call.end()

    def finish(self, answer: Any) -> Any:
        """Return the answer; it ends the call, unless it is a stream. A raw response ends it unread."""
        if isinstance(answer, Stream | AsyncStream):
            return _TracedStream(answer, self)
        choices = getattr(answer, "choices", None) or ()
        message = choices[0].message if choices else None
        value = _as_mapping(message) if message and message.tool_calls else getattr(message, "content", None)
        reason = (choices[0].finish_reason or "") if choices else ""
        self._end(value, getattr(answer, "model", None) or "", reason, _usage(answer))
        return answer

    def add_chunk(self, chunk: Any) -> None:
        if not self._chunks:
            self._call.record_first_chunk()
        self._chunks += 1
        self._model = getattr(chunk, "model", None) or self._model
        self._usage = _usage(chunk) or self._usage
        for choice in (getattr(chunk, "choices", None) or ())[:1]:
            self._finish_reason = choice.finish_reason or self._finish_reason
            if choice.delta is not None and choice.delta.content:
                self._texts.append(choice.delta.content)

    def end_stream(self) -> None:
        """End the call with the chunks so far, also when the caller stops reading early."""
        if not self._ended:
            self._end("".join(self._texts), self._model, self._finish_reason, self._usage)

    def _end(self, value: Any, model: str, finish_reason: str, usage: tuple[int, int] | None) -> None:
        self._ended = True
        self._call.set_response(value, model, finish_reason, usage)
        self._call.end()


class _TracedStream:
    """The client's stream, whichever of the two it is; each chunk is added to the call on its way."""

    def __init__(self, stream: Any, call: _TracedCall) -> None:
        self._stream = stream
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self) -> Self:
        return self

    def __aiter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        with self._call:
            chunk = next(self._stream)
        self._call.add_chunk(chunk)
        return chunk

    async def __anext__(self) -> Any:
        with self._call:
            chunk = await anext(self._stream)
        self._call.add_chunk(chunk)
        return chunk

    def __enter__(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def close(self) -> Any:
        """Close the stream; an asynchronous one is closed when the result is awaited."""
        self._call.end_stream()
        return self._stream.close()


def _as_mapping(message: Any) -> dict[str, Any]:
    """Return a message of an earlier answer, which is an object of the client's, as a mapping."""
    dump = getattr(message, "model_dump", None)
    return dump(exclude_none=True) if dump is not None else {"content": as_text(message)}


def _usage(answer: Any) -> tuple[int, int] | None:
    usage = getattr(answer, "usage", None)
    if usage is None:
        return None
    return usage.prompt_tokens or 0, getattr(usage, "completion_tokens", 0) or 0
