"""The spans of a run: one trace a run, a span a node, a client span a model call.

Names and attributes are those of OpenTelemetry's GenAI conventions, with OpenInference's for inputs and outputs.
"""

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from opentelemetry import baggage, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from runtime.errors import text_of
from runtime.jsonable import dumps

_PROPAGATOR = TraceContextTextMapPropagator()
_BAGGAGE = W3CBaggagePropagator()


class Tracing:
    """Starts spans, and says which trace they belong to; with no tracer it does nothing."""

    def __init__(self, tracer: Tracer | None) -> None:
        self._tracer = tracer or trace.NoOpTracer()
        self.enabled = tracer is not None

    def start_run(self, flow: str, headers: Mapping[str, str], attributes: Mapping[str, str]) -> Span:
        """Start a run's root span, as a child of the span that the request's `traceparent` names, if any."""
        return self._tracer.start_span(
            f"invoke_workflow {flow}",
            context=_PROPAGATOR.extract(headers, context=Context()),
            attributes={
                "gen_ai.operation.name": "invoke_workflow",
                "gen_ai.workflow.name": flow,
                "openinference.span.kind": "CHAIN",
                **attributes,
            },
        )

    def note(self, name: str, headers: Mapping[str, str], attributes: Mapping[str, AttributeValue]) -> None:
        """Make a span that has only its attributes, and the caller's baggage, under the span of `traceparent`."""
        context = _BAGGAGE.extract(headers, context=_PROPAGATOR.extract(headers, context=Context()))
        items = {key: str(value) for key, value in baggage.get_all(context).items()}
        self._tracer.start_span(name, context=context, attributes={**attributes, **items}).end()

    @contextmanager
    def node(self, run: Span, name: str, kind: str) -> Iterator[Span]:
        """Run the block under the span of a node. The block must stay in one task and never be left by a yield."""
        span = self._tracer.start_span(
            name,
            context=trace.set_span_in_context(run, Context()),
            attributes={
                "flowpod.node.name": name,
                "flowpod.node.type": kind,
                "openinference.span.kind": "LLM" if kind == "llm" else "CHAIN",
            },
        )
        # Failures are recorded by `fail`, with the message that the caller sees too.
        with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            yield span

    def start_model_call(self, model: str, attributes: Mapping[str, str], operation: str = "chat") -> Span:
        """Start the span of one call of a model, under the current span. The caller ends it."""
        return self._tracer.start_span(
            f"{operation} {model}" if model else operation,
            kind=SpanKind.CLIENT,
            attributes={
                "gen_ai.operation.name": operation,
                "gen_ai.request.model": model,
                "openinference.span.kind": "LLM",
                **attributes,
            },
        )

    def trace_id(self, span: Span) -> str:
        """Return the trace's id as `0x` and 32 hex digits, or "" when tracing is off."""
        return f"0x{span.get_span_context().trace_id:032x}" if self.enabled else ""


def outgoing_headers(span: Span) -> dict[str, str]:
    """Return the headers that carry `span` to another service."""
    headers: dict[str, str] = {}
    _PROPAGATOR.inject(headers, context=trace.set_span_in_context(span, Context()))
    return headers


def record(span: Span, key: str, value: Any) -> None:
    """Put `value` on the span as JSON under `key`, with its type; text stays text."""
    if not span.is_recording():
        return
    if isinstance(value, str):
        span.set_attributes({f"{key}.value": value, f"{key}.mime_type": "text/plain"})
    else:
        span.set_attributes({f"{key}.value": dumps(value).decode(), f"{key}.mime_type": "application/json"})


def fail(span: Span, message: str, kind: str, error: BaseException | None = None) -> None:
    """Mark the span as failed."""
    if error is not None:
        # Not by `record_exception`, which fails where the exception's own text does.
        stack = "".join(traceback.format_tb(error.__traceback__))
        facts = {"exception.type": type(error).__qualname__, "exception.message": text_of(error)}
        span.add_event("exception", facts | {"exception.stacktrace": stack})
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR, message)
