"""promptflow's tracing: spans of a flow's own functions, under the span of the node that calls them."""

import contextvars
import functools
import inspect
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any, ParamSpec, TypeVar, cast, overload

from opentelemetry import trace as otel
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Span

P = ParamSpec("P")
R = TypeVar("R")
Function = TypeVar("Function", bound=Callable[..., Any])

_SCOPE = "flowpod.trace"


@overload
def trace(func: Function) -> Function: ...
@overload
def trace(func: None = None) -> Callable[[Function], Function]: ...


def trace(func: Function | None = None) -> Function | Callable[[Function], Function]:
    """Record each call of a function as a span; that of a generator lasts until it ends, and is not the current one."""
    return trace if func is None else cast(Function, _traced(func))


def _traced(function: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def traced_stream(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            with _span(function, current=False):
                async for item in function(*args, **kwargs):
                    yield item

        return traced_stream
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def traced_iterator(*args: Any, **kwargs: Any) -> Iterator[Any]:
            with _span(function, current=False):
                yield from function(*args, **kwargs)

        return traced_iterator
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def traced_coroutine(*args: Any, **kwargs: Any) -> Any:
            with _span(function):
                return await function(*args, **kwargs)

        return traced_coroutine

    @functools.wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        with _span(function):
            return function(*args, **kwargs)

    return traced


@contextmanager
def _span(function: Callable[..., Any], *, current: bool = True) -> Iterator[Span]:
    span = otel.get_tracer(_SCOPE).start_span(
        getattr(function, "__name__", repr(function)), attributes={"openinference.span.kind": "CHAIN"}
    )
    started = time.monotonic_ns()
    try:
        with otel.use_span(span, record_exception=False, set_status_on_exception=False) if current else nullcontext():
            yield span
    except Exception as error:
        span.record_exception(error)
        span.set_status(otel.StatusCode.ERROR, f"{type(error).__name__}: {error}")
        raise
    finally:
        # By the monotonic clock: the wall clock may be set during the call.
        start_ns = span.start_time if isinstance(span, ReadableSpan) else None
        span.end(None if start_ns is None else start_ns + time.monotonic_ns() - started)


def start_trace(*, resource_attributes: Any = None, collection: str | None = None, **kwargs: Any) -> None:
    """Do nothing: Flowpod traces every run, and OTEL_EXPORTER_OTLP_ENDPOINT sets where spans go."""


class ThreadPoolExecutorWithContext(ThreadPoolExecutor):
    """A thread pool whose threads have the context variables of the code that submits work."""

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> "Future[R]":
        """Call `fn` in a thread, in a copy of the current context."""
        context = contextvars.copy_context()
        return super().submit(context.run, functools.partial(fn, *args, **kwargs))
