"""The spans of a run: one trace a run, a span a node, a client span a model call.

Names and attributes are those of OpenTelemetry's GenAI conventions, with OpenInference's for inputs and outputs.
"""

import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

from opentelemetry import baggage, context, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from flowpod.errors import text_of
from flowpod.telemetry.content import Content
from flowpod.telemetry.metrics import Metrics
from flowpod.telemetry.model_call import ModelCall
from flowpod.telemetry.span_provider import SpanProvider
from flowpod.telemetry.span_record import SpanRecord

_PROPAGATOR = TraceContextTextMapPropagator()
_BAGGAGE = W3CBaggagePropagator()

TRACING: ContextVar["Tracing | None"] = ContextVar("tracing", default=None)
"""The tracing of the node that this task, or this thread, runs."""

_RUN_ATTRIBUTES = ("session.id", "gen_ai.conversation.id", "user.id", "flowpod.run.id")
"""Attributes of the root span that every span below repeats: backends show and filter spans one by one."""


SpanKind = Literal["CHAIN", "TOOL", "RETRIEVER", "AGENT", "LLM", "EMBEDDING", "RERANKER", "GUARDRAIL"]
"""OpenInference's kinds of spans."""


class Tracing:
    """Starts the spans of runs, nodes and model calls. Without a provider, only metrics are recorded."""

    def __init__(
        self, provider: SpanProvider | None, metrics: Metrics | None = None, content: Content | None = None
    ) -> None:
        self._provider = provider
        self.metrics = metrics or Metrics()
        self.content = content or (Content() if provider is None else provider.content)

    def start_run(self, flow: str, headers: Mapping[str, str], attributes: Mapping[str, str]) -> Span:
        """Start a run's root span, below the span that the request's `traceparent` names, if any."""
        if self._provider is None:
            return INVALID_SPAN
        return self._provider.start_root(
            f"invoke_workflow {flow}",
            _PROPAGATOR.extract(headers, context=Context()),
            {
                "gen_ai.operation.name": "invoke_workflow",
                "gen_ai.workflow.name": flow,
                "openinference.span.kind": "CHAIN",
                **attributes,
            },
            {name: attributes[name] for name in _RUN_ATTRIBUTES if name in attributes},
        )

    def add_span(
        self, name: str, headers: Mapping[str, str], attributes: Mapping[str, AttributeValue], user_id: str | None
    ) -> None:
        """Make a span with these attributes and the caller's baggage, below that of `traceparent`, and end it.

        A caller that names a user cannot make a span of another one.
        """
        caller = _BAGGAGE.extract(headers, context=_PROPAGATOR.extract(headers, context=Context()))
        items = {key: str(value) for key, value in baggage.get_all(caller).items()}
        user = {} if user_id is None else {"user.id": user_id}
        if self._provider is not None:
            self._provider.start_root(name, caller, {**attributes, **items, **user}).end()

    @contextmanager
    def node(self, parent: Span, name: str, kind: str, path: str, span_kind: SpanKind) -> Iterator[Span]:
        """Run the block in the span of a node. The block must stay in one task, and must not contain a yield.

        `path` is the node's name, with the rounds of the batches and loops around it; `span_kind` is that of its kind.
        """
        attributes = {
            "flowpod.node.name": name,
            "flowpod.node.type": kind,
            "flowpod.node.path": path,
            "openinference.span.kind": span_kind,
        }
        span = self._start_child(name, parent, attributes)
        tracing, token = TRACING.set(self), context.attach(trace.set_span_in_context(span))
        try:
            yield span  # `fail` records failures, with the message that the caller gets
        finally:
            context.detach(token)
            TRACING.reset(tracing)
            span.end()

    def _start_child(
        self, name: str, parent: Span, attributes: dict[str, Any], kind: trace.SpanKind = trace.SpanKind.INTERNAL
    ) -> Span:
        return INVALID_SPAN if self._provider is None else self._provider.start_child(name, parent, attributes, kind)

    def start_model_call(self, model: str, provider: str, address: str, operation: str = "chat") -> ModelCall:
        """Start one call of a model, under the current span; `address` is the model's host, or host and port."""
        host, _, port = address.rpartition(":") if address.rpartition(":")[2].isdecimal() else (address, "", "")
        attributes = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": provider,
            "gen_ai.request.model": model,
            "llm.model_name": model,
            "llm.provider": provider,
            "openinference.span.kind": "EMBEDDING" if operation == "embeddings" else "LLM",
            **({"server.address": host} if host else {}),
            **({"server.port": int(port)} if port else {}),
        }
        name = f"{operation} {model}" if model else operation
        span = self._start_child(name, trace.get_current_span(), attributes, trace.SpanKind.CLIENT)
        return ModelCall(span, self.content, self.metrics, self.metrics.model_labels(operation, provider, model))

    def trace_id(self, span: Span) -> str:
        """Return the trace's id as `0x` and 32 hex digits, or "" when tracing is off."""
        return f"0x{span.get_span_context().trace_id:032x}" if self._provider else ""

    def end_run(self, span: Span, status: str) -> None:
        """End a run's root span."""
        if isinstance(span, SpanRecord):
            span.put({"flowpod.run.status": status})
        span.end()

    def record(self, span: Span, key: str, value: Any) -> None:
        """Put `value` on the span under `key`, with its type, if spans hold content."""
        if isinstance(span, SpanRecord) and self.content.captured:
            span.put(self.content.attributes(key, value))

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
