"""One call of a model: its client span, and its metrics."""

import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from flowpod.spans import end_span
from flowpod.telemetry.content import Content
from flowpod.telemetry.messages import input_messages, output_message
from flowpod.telemetry.metrics import Metrics

CALL: ContextVar["ModelCall | None"] = ContextVar("model_call", default=None)
"""The call that this task makes, for the client's own retries."""

_PROPAGATOR = TraceContextTextMapPropagator()

# The conventions' names for parameters of a request.
_PARAMETERS = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "seed": "gen_ai.request.seed",
    "n": "gen_ai.request.choice.count",
    "stop": "gen_ai.request.stop_sequences",
}
_NOT_PARAMETERS = ("model", "messages", "prompt")


class ModelCall:
    """A call of a model in progress. The caller reports the request, the first chunk, the response, and the end.

    The span is not made current: a generator that is abandoned while suspended could not restore the previous one.
    """

    def __init__(self, span: Span, content: Content, metrics: Metrics, counted: dict[str, AttributeValue]) -> None:
        self.span = span
        self._content = content
        self._metrics = metrics
        self._counted = counted
        self._started = time.perf_counter()
        self._error = "canceled"  # unless the call comes to an end

    def set_request(
        self, prompt: str | Sequence[Mapping[str, Any]], parameters: Mapping[str, Any], *, stream: bool
    ) -> None:
        """Put the request on the span."""
        if not self.span.is_recording():
            return
        sent = {key: value for key, value in parameters.items() if key not in _NOT_PARAMETERS}
        attributes = _parameter_attributes(sent)
        if stream:
            attributes["gen_ai.request.stream"] = stream
        if self._content.captured:
            attributes |= self._request_content(prompt, parameters, sent)
        self.span.set_attributes(attributes)

    def _request_content(
        self, prompt: str | Sequence[Mapping[str, Any]], parameters: Mapping[str, Any], sent: Mapping[str, Any]
    ) -> dict[str, AttributeValue]:
        attributes: dict[str, AttributeValue] = {}
        if sent:
            attributes["llm.invocation_parameters"] = self._content.json(sent)[0]
        if isinstance(prompt, str):
            return attributes | self._content.attributes("input", prompt)
        value = {"messages": prompt, **parameters}
        return attributes | input_messages(prompt, self._content) | self._content.attributes("input", value)

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
        self.span.set_attribute("gen_ai.response.time_to_first_chunk", seconds)
        self._metrics.first_chunk_received(self._counted, seconds)

    def set_response(self, value: Any, model: str, finish_reason: str, usage: tuple[int, int] | None) -> None:
        """Put the response on the span; `usage` is the tokens of the prompt and of the completion."""
        self._error = ""
        if usage is not None:
            self._metrics.tokens_used(self._counted, *usage)
        if not self.span.is_recording():
            return
        attributes: dict[str, AttributeValue] = {}
        if finish_reason:
            attributes["gen_ai.response.finish_reasons"] = [finish_reason]
        if model:
            attributes |= {"gen_ai.response.model": model, "llm.model_name": model}
        if usage is not None:
            attributes |= {
                "gen_ai.usage.input_tokens": usage[0],
                "gen_ai.usage.output_tokens": usage[1],
                "llm.token_count.prompt": usage[0],
                "llm.token_count.completion": usage[1],
                "llm.token_count.total": sum(usage),
            }
        if self._content.captured and value is not None:
            attributes |= output_message(value, finish_reason, self._content)
            attributes |= self._content.attributes("output", value)
        self.span.set_attributes(attributes)  # all at once: each call takes a lock, and time

    def set_error(self, code: str) -> None:
        """Set the code of the call's failure."""
        self._error = code

    def end(self) -> None:
        """End the span. A call without a response or an error was abandoned by its caller, and counts as canceled."""
        if self._error == "canceled":
            self.span.set_attribute("error.type", self._error)
        seconds = time.perf_counter() - self._started
        self._metrics.model_call_ended(self._counted, seconds, self._error)
        end_span(self.span, seconds)


def _parameter_attributes(parameters: Mapping[str, Any]) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {}
    for name, attribute in _PARAMETERS.items():
        value = parameters.get(name)
        if attribute.endswith("stop_sequences") and value:
            attributes[attribute] = [value] if isinstance(value, str) else [str(item) for item in value]
        elif isinstance(value, int | float):
            attributes[attribute] = value
    return attributes
