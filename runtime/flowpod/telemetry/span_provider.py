"""OpenTelemetry's tracer provider, which makes the spans of runs as records and passes on all spans that end."""

from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace import Span as SDKSpan
from opentelemetry.sdk.trace.sampling import Decision, Sampler
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags, TraceState

from flowpod import __version__
from flowpod.telemetry.content import Content
from flowpod.telemetry.metrics import SCOPE
from flowpod.telemetry.redaction import RUN_SECRETS, RunSecrets
from flowpod.telemetry.span_record import EndedSpan, SpanConsumer, SpanOwner, SpanRecord
from flowpod.telemetry.span_redaction import attributes_of, readable_span, redact_span

_SCOPE = InstrumentationScope(SCOPE, __version__)


class SpanProvider(TracerProvider):
    """Makes the spans of runs by `start_root` and `start_child`; the SDK's tracers make those of a flow's own code.

    Every sampled span goes to `consumers` when it ends, and without secrets to the processors that a flow's code adds.
    """

    def __init__(
        self,
        consumers: Sequence[SpanConsumer] = (),
        content: Content | None = None,
        sampler: Sampler | None = None,
        resource: Resource | None = None,
        limits: SpanLimits | None = None,
    ) -> None:
        limits = limits or SpanLimits()
        super().__init__(sampler, resource, shutdown_on_exit=False, span_limits=limits)
        super().add_span_processor(_ForeignSpans(self))
        self.content = content or Content()
        self.processors: tuple[SpanProcessor, ...] = ()
        self._consumers = tuple(consumers)
        self._owner = SpanOwner(_SCOPE, limits, self.take)

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        """Pass all spans from now on to a processor of a flow's own code, too."""
        self.processors = (*self.processors, span_processor)

    def start_root(
        self, name: str, context: Context, attributes: Mapping[str, Any], shared: Mapping[str, Any] | None = None
    ) -> Span:
        """Start a span below the one in `context`, if there is one; the spans below it repeat the attributes `shared`.

        A span that the sampler drops has ids and records nothing.
        """
        parent: SpanContext | None = trace.get_current_span(context).get_span_context()
        if parent is None or not parent.is_valid:
            parent = None
            trace_id, is_random = self.id_generator.generate_trace_id(), self.id_generator.is_trace_id_random()
        else:
            trace_id, is_random = parent.trace_id, parent.trace_flags.random_trace_id
        result = self.sampler.should_sample(context, trace_id, name, SpanKind.INTERNAL, attributes)
        sampled = result.decision is Decision.RECORD_AND_SAMPLE
        flags = TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT
        flags |= TraceFlags.RANDOM_TRACE_ID if is_random else 0
        own = self._context(trace_id, TraceFlags(flags), result.trace_state)
        if not sampled:
            return NonRecordingSpan(own)
        kind, attributes = SpanKind.INTERNAL, dict(result.attributes or {})
        return self._started(SpanRecord(self._owner, name, own, parent, kind, attributes, shared or {}))

    def start_child(
        self, name: str, parent: Span, attributes: dict[str, Any], kind: SpanKind = SpanKind.INTERNAL
    ) -> Span:
        """Start a span below another; it is sampled if that one is."""
        above = parent.get_span_context()
        if not above.trace_flags.sampled:
            return NonRecordingSpan(above)
        shared = parent.shared if isinstance(parent, SpanRecord) else {}
        own = self._context(above.trace_id, above.trace_flags, above.trace_state)
        return self._started(SpanRecord(self._owner, name, own, above, kind, {**attributes, **shared}, shared))

    def _context(self, trace_id: int, flags: TraceFlags, state: TraceState | None) -> SpanContext:
        span_id = self.id_generator.generate_span_id()
        return SpanContext(trace_id, span_id, is_remote=False, trace_flags=flags, trace_state=state)

    def _started(self, span: SpanRecord) -> SpanRecord:
        for processor in self.processors:
            processor.on_start(span)  # type: ignore[arg-type]  # a span to which it may add attributes
        return span

    def take(self, span: EndedSpan) -> None:
        """Pass on a span that has ended."""
        for consumer in self._consumers:
            consumer.take(span)
        if self.processors:
            readable = readable_span(redact_span(span, self.content), self.resource)
            for processor in self.processors:
                processor.on_end(readable)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Store and export the spans that have ended by now."""
        flushed = [consumer.force_flush(timeout_millis) for consumer in self._consumers]
        return all(flushed + [processor.force_flush(timeout_millis) for processor in self.processors])

    def shutdown(self) -> None:
        """Store and export the spans that have ended by now, and stop."""
        super().shutdown()
        for consumer in self._consumers:
            consumer.shutdown()
        for processor in self.processors:
            processor.shutdown()


class _ForeignSpans(SpanProcessor):
    """Passes the spans of a flow's own code to the provider when they end."""

    def __init__(self, provider: SpanProvider) -> None:
        self._provider = provider
        self._secrets: dict[int, RunSecrets] = {}

    def on_start(self, span: SDKSpan, parent_context: Context | None = None) -> None:
        """Remember the secrets of the run, if it has any: the span may end in a task or a thread of no run."""
        if (secrets := RUN_SECRETS.get()) and span.context is not None:
            self._secrets[span.context.span_id] = secrets
        for processor in self._provider.processors:
            processor.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        """Pass the span on."""
        if span.context is None:
            return
        secrets = self._secrets.pop(span.context.span_id, None) or RUN_SECRETS.get()
        if span.context.trace_flags.sampled:
            self._provider.take(
                EndedSpan(
                    span.name,
                    span.context,
                    span.parent,
                    span.kind,
                    span.start_time or 0,
                    span.end_time or 0,
                    span.status,
                    attributes_of(span),
                    span.events,
                    span.links,
                    span.instrumentation_scope or _SCOPE,
                    secrets,
                )
            )
