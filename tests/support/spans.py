"""Spans that have ended, as the consumers of a provider get them."""

from collections.abc import Mapping
from contextvars import copy_context
from typing import Any

from flowpod.telemetry.redaction import RUN_SECRETS, RunSecrets
from flowpod.telemetry.span_provider import SpanProvider
from flowpod.telemetry.span_record import EndedSpan


class EndedSpans(list[EndedSpan]):
    """Keeps the spans that a provider passes on."""

    def take(self, span: EndedSpan) -> None:
        self.append(span)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True

    def shutdown(self) -> None:
        pass


def ended_span(attributes: Mapping[str, Any], *secrets: object) -> EndedSpan:
    """Return a span that a flow's own code has made, in a run with these secrets."""
    spans = EndedSpans()
    tracer = SpanProvider([spans]).get_tracer("test")

    def make() -> None:
        RUN_SECRETS.set(RunSecrets.of(*secrets))
        tracer.start_span("node", attributes=attributes).end()

    copy_context().run(make)
    return spans[0]
