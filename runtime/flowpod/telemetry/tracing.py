"""The spans of a run: one trace a run, a span a node, a client span a model call.

Names and attributes are those of OpenTelemetry's GenAI conventions, with OpenInference's for inputs and outputs.
"""

import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

from opentelemetry import baggage, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Span, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from flowpod.errors import text_of
from flowpod.spans import end_span
from flowpod.telemetry.content import Content
from flowpod.telemetry.metrics import Metrics
from flowpod.telemetry.model_call import ModelCall
from flowpod.telemetry.span_redaction import attributes_of

_PROPAGATOR = TraceContextTextMapPropagator()
_BAGGAGE = W3CBaggagePropagator()

TRACING: ContextVar["Tracing | None"] = ContextVar("tracing", default=None)
"""The tracing of the node that this task, or this thread, runs."""

_RUN_ATTRIBUTES = ("session.id", "gen_ai.conversation.id", "user.id", "flowpod.run.id")
"""Attributes of the root span that every span below repeats: backends show and filter spans one by one."""


SpanKind = Literal["CHAIN", "TOOL", "RETRIEVER", "AGENT", "LLM", "EMBEDDING", "RERANKER", "GUARDRAIL"]
"""OpenInference's kinds of spans."""


class Tracing:
    """Starts the spans of runs, nodes and model calls; without a tracer it makes none, and only the metrics remain."""

    def __init__(self, tracer: Tracer | None, metrics: Metrics | None = None, content: Content | None = None) -> None:
        self._tracer = tracer or trace.NoOpTracer()
        self.enabled = tracer is not None
        self.metrics = metrics or Metrics()
        self.content = content or Content()

    def start_run(self, flow: str, headers: Mapping[str, str], attributes: Mapping[str, str]) -> Span:
        """Start a run's root span, below the span that the request's `traceparent` names, if any."""
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

    def add_span(
        self, name: str, headers: Mapping[str, str], attributes: Mapping[str, AttributeValue], user_id: str | None
    ) -> None:
        """Make a span with these attributes and the caller's baggage, below that of `traceparent`, and end it.

        A caller that names a user cannot make a span of another one.
        """
        context = _BAGGAGE.extract(headers, context=_PROPAGATOR.extract(headers, context=Context()))
        items = {key: str(value) for key, value in baggage.get_all(context).items()}
        user = {} if user_id is None else {"user.id": user_id}
        self._tracer.start_span(name, context=context, attributes={**attributes, **items, **user}).end()

    @contextmanager
    def node(self, parent: Span, name: str, kind: str, path: str, span_kind: SpanKind) -> Iterator[Span]:
        """Run the block in the span of a node. The block must stay in one task, and must not contain a yield.

        `path` is the node's name, with the rounds of the batches and loops around it; `span_kind` is that of its kind.
        """
        span = self._tracer.start_span(
            name,
            context=trace.set_span_in_context(parent, Context()),
            attributes={
                "flowpod.node.name": name,
                "flowpod.node.type": kind,
                "flowpod.node.path": path,
                "openinference.span.kind": span_kind,
                **_run_attributes(parent),
            },
        )
        started = time.monotonic()
        TRACING.set(self)
        try:
            # `fail` records failures, with the message that the caller gets.
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                yield span
        finally:
            end_span(span, time.monotonic() - started)

    def start_model_call(self, model: str, provider: str, address: str, operation: str = "chat") -> ModelCall:
        """Start one call of a model, under the current span; `address` is the model's host, or host and port."""
        host, _, port = address.rpartition(":") if address.rpartition(":")[2].isdecimal() else (address, "", "")
        span = self._tracer.start_span(
            f"{operation} {model}" if model else operation,
            kind=trace.SpanKind.CLIENT,
            attributes={
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": provider,
                "gen_ai.request.model": model,
                "llm.model_name": model,
                "llm.provider": provider,
                "openinference.span.kind": "EMBEDDING" if operation == "embeddings" else "LLM",
                **_run_attributes(trace.get_current_span()),
                **({"server.address": host} if host else {}),
                **({"server.port": int(port)} if port else {}),
            },
        )
        return ModelCall(span, self.content, self.metrics, self.metrics.model_attributes(operation, provider, model))

    def trace_id(self, span: Span) -> str:
        """Return the trace's id as `0x` and 32 hex digits, or "" when tracing is off."""
        return f"0x{span.get_span_context().trace_id:032x}" if self.enabled else ""

    def record(self, span: Span, key: str, value: Any) -> None:
        """Put `value` on the span under `key`, with its type, if spans hold content."""
        if span.is_recording() and self.content.captured:
            span.set_attributes(self.content.attributes(key, value))

    def fail(self, span: Span, message: str, code: str, error: BaseException | None = None) -> None:
        """Mark the span as failed, with the exception as an event."""
        if error is not None:
            # Not by `record_exception`, which fails where the exception's own text does.
            stack = "".join(traceback.format_tb(error.__traceback__))
            names = ("exception.type", "exception.message", "exception.stacktrace")
            values = (type(error).__qualname__, text_of(error), stack)
            span.add_event("exception", dict(zip(names, values, strict=True)))
        span.set_attribute("error.type", code)
        span.set_status(StatusCode.ERROR, message)


def _run_attributes(span: Span) -> dict[str, AttributeValue]:
    attributes = attributes_of(span) if isinstance(span, ReadableSpan) else {}
    return {name: attributes[name] for name in _RUN_ATTRIBUTES if name in attributes}
