"""One call of a model: its client span, and its metrics."""

import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from flowpod.telemetry.content import Content
from flowpod.telemetry.instruments import LabelValues
from flowpod.telemetry.metrics import Metrics
from flowpod.telemetry.model_attributes import Exchange, without_content
from flowpod.telemetry.span_record import SpanRecord

CALL: ContextVar["ModelCall | None"] = ContextVar("model_call", default=None)
"""The call that this task makes, for the client's own retries."""

_PROPAGATOR = TraceContextTextMapPropagator()


class ModelCall:
    """A call of a model in progress. The caller reports the request, the first chunk, the response, and the end.

    The span is not made current: a generator that is abandoned while suspended could not restore the previous one.
    """

    def __init__(self, span: Span, content: Content, metrics: Metrics, labels: LabelValues) -> None:
        self.span = span
        self._content = content
        self._metrics = metrics
        self._labels = labels
        self._started = time.perf_counter()
        self._error = "canceled"  # unless the call comes to an end

    def set_request(
        self, prompt: str | Sequence[Mapping[str, Any]], parameters: Mapping[str, Any], *, stream: bool
    ) -> None:
        """Put the request on the span, which keeps the mappings: they must not change any more."""
        if not isinstance(self.span, SpanRecord):
            return
        if self._content.captured:
            self.span.exchange = Exchange(prompt, parameters, stream)
        else:
            self.span.exchange = Exchange(None, without_content(parameters), stream)

    def headers(self) -> dict[str, str]:
        """Return the headers that carry the span to the model."""
        headers: dict[str, str] = {}
        _PROPAGATOR.inject(headers, context=trace.set_span_in_context(self.span, Context()))
        return headers

    def add_retry(self, attempt: int) -> None:
        """Add an event: the client has sent the request again."""
        self.span.add_event("retry", {"flowpod.attempt": attempt})

    def record_first_chunk(self) -> None:
        """Record how long a streamed response took to begin."""
        seconds = time.perf_counter() - self._started
        if isinstance(self.span, SpanRecord):
            self.span.put({"gen_ai.response.time_to_first_chunk": seconds})
        self._metrics.first_chunk_received(self._labels, seconds)

    def set_response(self, value: Any, model: str, finish_reason: str, usage: tuple[int, int] | None) -> None:
        """Put the response on the span; `usage` is the tokens of the prompt and of the completion."""
        self._error = ""
        if usage is not None:
            self._metrics.tokens_used(self._labels, *usage)
        if isinstance(self.span, SpanRecord) and self.span.exchange is not None:
            self.span.exchange = self.span.exchange._replace(
                value=value if self._content.captured else None, model=model, finish_reason=finish_reason, usage=usage
            )

    def set_error(self, code: str) -> None:
        """Set the code of the call's failure."""
        self._error = code

    def end(self) -> None:
        """End the span. A call without a response or an error was abandoned by its caller, and counts as canceled."""
        if self._error == "canceled":
            self.span.set_attribute("error.type", self._error)
        seconds = time.perf_counter() - self._started
        self._metrics.model_call_ended(self._labels, seconds, self._error)
        self.span.end()
