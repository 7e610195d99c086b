"""Calls of models that a flow's own code makes with the `openai` package: each gets a span, below that of its node.

promptflow traces them in the same way, by replacing the methods that are called (tracing/_integrations). LLM nodes tell
of their calls themselves.
"""

import functools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from openai import AsyncStream, Stream
from openai.resources.chat.completions import AsyncCompletions, Completions
from openai.resources.embeddings import AsyncEmbeddings, Embeddings

from flowpod.errors import text_of
from flowpod.jsonable import as_text
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
    """Have calls traced that are made inside nodes, in this process; a second time it does nothing."""
    for owner, name, operation in _METHODS:
        method = getattr(owner, name)
        if not hasattr(method, _MARK):
            traced = (_traced_async if owner in _ASYNC else _traced)(method, operation)
            setattr(traced, _MARK, True)
            setattr(owner, name, traced)


def _traced(method: Callable[..., Any], operation: Operation) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(resource: Any, *args: Any, **kwargs: Any) -> Any:
        begun = _begin(resource, operation, kwargs)
        if begun is None:
            return method(resource, *args, **kwargs)
        try:
            answer = method(resource, *args, **begun.with_headers(kwargs))
        except BaseException as error:
            begun.fail(error)
            raise
        if isinstance(answer, Stream):
            return _WatchedStream(answer, begun)
        begun.end(answer)
        return answer

    return call


def _traced_async(method: Callable[..., Any], operation: Operation) -> Callable[..., Any]:
    @functools.wraps(method)
    async def call(resource: Any, *args: Any, **kwargs: Any) -> Any:
        begun = _begin(resource, operation, kwargs)
        if begun is None:
            return await method(resource, *args, **kwargs)
        try:
            answer = await method(resource, *args, **begun.with_headers(kwargs))
        except BaseException as error:
            begun.fail(error)
            raise
        if isinstance(answer, AsyncStream):
            return _WatchedAsyncStream(answer, begun)
        begun.end(answer)
        return answer

    return call


def _begin(resource: Any, operation: Operation, kwargs: Mapping[str, Any]) -> "_Begun | None":
    """Start a call's span; None outside of nodes, and for the calls of LLM nodes, which have theirs already."""
    tracing = TRACING.get()
    if tracing is None or CALL.get() is not None:
        return None
    client = resource._client
    provider = "azure.ai.openai" if "Azure" in type(client).__name__ else "openai"
    address = urlsplit(str(client.base_url)).netloc.rpartition("@")[2]
    call = tracing.start_model_call(str(kwargs.get("model", "")), provider, address, operation)
    prompt = kwargs.get("messages") if operation == "chat" else as_text(kwargs.get("input"))
    if isinstance(prompt, list):
        prompt = [message if isinstance(message, Mapping) else _as_mapping(message) for message in prompt]
    rest = {name: value for name, value in kwargs.items() if name not in ("messages", "input", "extra_headers")}
    call.asked(prompt if isinstance(prompt, list | str) else as_text(prompt), rest, stream=bool(kwargs.get("stream")))
    return _Begun(call, tracing)


class _Begun:
    """A call in progress, and what its stream has brought so far."""

    def __init__(self, call: ModelCall, tracing: Tracing) -> None:
        self._call = call
        self._tracing = tracing
        self._texts: list[str] = []
        self._model = ""
        self._finish_reason = ""
        self._usage: tuple[int, int] | None = None
        self._chunks = 0
        self._ended = False

    def with_headers(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments with the headers that carry the span to the model."""
        return {**kwargs, "extra_headers": {**self._call.headers(), **(kwargs.get("extra_headers") or {})}}

    def take(self, chunk: Any) -> None:
        """Note a chunk of a streamed answer."""
        if not self._chunks:
            self._call.first_chunk()
        self._chunks += 1
        self._model = getattr(chunk, "model", None) or self._model
        self._usage = _usage(chunk) or self._usage
        for choice in (getattr(chunk, "choices", None) or ())[:1]:
            self._finish_reason = choice.finish_reason or self._finish_reason
            if choice.delta is not None and choice.delta.content:
                self._texts.append(choice.delta.content)

    def end_stream(self) -> None:
        """End the call with what its stream has brought; what was left early counts as answered so far."""
        if not self._ended:
            self._ended = True
            self._call.answered("".join(self._texts), self._model, self._finish_reason, self._usage)
            self._call.end()

    def end(self, answer: Any) -> None:
        """End the call with a whole answer; of a raw response nothing is read."""
        choices = getattr(answer, "choices", None) or ()
        value = _value(choices[0].message) if choices else None
        reason = (choices[0].finish_reason or "") if choices else ""
        self._call.answered(value, getattr(answer, "model", None) or "", reason, _usage(answer))
        self._call.end()

    def fail(self, error: BaseException) -> None:
        """End the call as failed."""
        if not self._ended:
            self._ended = True
            code = type(error).__name__
            self._call.failed(code)
            self._tracing.fail(self._call.span, text_of(error), code, error)
            self._call.end()


class _Watched:
    """A stream of the client's, with all that it can do; its chunks are noted on their way."""

    def __init__(self, stream: Any, begun: _Begun) -> None:
        self._stream = stream
        self._begun = begun

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _WatchedStream(_Watched):
    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            chunk = next(self._stream)
        except StopIteration:
            self._begun.end_stream()
            raise
        except BaseException as error:
            self._begun.fail(error)
            raise
        self._begun.take(chunk)
        return chunk

    def __enter__(self) -> "_WatchedStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the stream."""
        self._begun.end_stream()
        self._stream.close()


class _WatchedAsyncStream(_Watched):
    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        try:
            chunk = await anext(self._stream)
        except StopAsyncIteration:
            self._begun.end_stream()
            raise
        except BaseException as error:
            self._begun.fail(error)
            raise
        self._begun.take(chunk)
        return chunk

    async def __aenter__(self) -> "_WatchedAsyncStream":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the stream."""
        self._begun.end_stream()
        await self._stream.close()


def _as_mapping(message: Any) -> dict[str, Any]:
    """Return a message that an earlier answer gave, which is an object of the client's."""
    dump = getattr(message, "model_dump", None)
    return dump(exclude_none=True) if dump is not None else {"content": as_text(message)}


def _value(message: Any) -> Any:
    return _as_mapping(message) if message.tool_calls else message.content


def _usage(answer: Any) -> tuple[int, int] | None:
    usage = getattr(answer, "usage", None)
    if usage is None:
        return None
    return usage.prompt_tokens or 0, getattr(usage, "completion_tokens", 0) or 0
