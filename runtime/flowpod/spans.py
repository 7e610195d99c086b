"""The end of a span, by the monotonic clock."""

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Span


def end_span(span: Span, seconds: float) -> None:
    """End a span `seconds` after its start, even if the wall clock was set in between."""
    start_ns = span.start_time if isinstance(span, ReadableSpan) else None
    span.end(None if start_ns is None else start_ns + int(seconds * 1e9))
