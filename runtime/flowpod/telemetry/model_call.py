"""One call of a model: its client span, and what is counted of it."""

import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from flowpod.telemetry.content import Content
from flowpod.telemetry.messages import input_messages, output_message
from flowpod.telemetry.metrics import Metrics

CALL: ContextVar["ModelCall | None"] = ContextVar("model_call", default=None)
"""The call that this task makes, for a client that sends a request again by itself."""

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
    """A call of a model in progress. Whoever made it tells of the first chunk, of the answer, and of the end.

    Its span is not made current: a generator that is left while suspended could not put the old one back.
    """

    def __init__(self, span: Span, content: Content, metrics: Metrics, counted: dict[str, AttributeValue]) -> None:
        self.span = span
        self._content = content
        self._metrics = metrics
        self._counted = counted
        self._begun = time.perf_counter()
        self._error = "canceled"  # unless the call comes to an end

    def asked(self, prompt: str | Sequence[Mapping[str, Any]], parameters: Mapping[str, Any], *, stream: bool) -> None:
        """Put the request on the span."""
        if not self.span.is_recording():
            return
        sent = {key: value for key, value in parameters.items() if key not in _NOT_PARAMETERS}
        facts = _conventional(sent)
        if stream:
            facts["gen_ai.request.stream"] = stream
        if self._content.captured:
            facts |= self._request(prompt, parameters, sent)
        self.span.set_attributes(facts)

    def _request(
        self, prompt: str | Sequence[Mapping[str, Any]], parameters: Mapping[str, Any], sent: Mapping[str, Any]
    ) -> dict[str, AttributeValue]:
        facts: dict[str, AttributeValue] = {"llm.invocation_parameters": self._content.json(sent)[0]} if sent else {}
        if isinstance(prompt, str):
            return facts | {"input.value": self._content.text(prompt), "input.mime_type": "text/plain"}
        text, whole = self._content.json({"messages": prompt, **parameters})
        return facts | input_messages(prompt, self._content) | {"input.value": text, "input.mime_type": _mime(whole)}

    def headers(self) -> dict[str, str]:
        """Return the headers that carry the span to the model."""
        headers: dict[str, str] = {}
        _PROPAGATOR.inject(headers, context=trace.set_span_in_context(self.span, Context()))
        return headers

    def repeated(self, attempt: int) -> None:
        """Note that the request was sent again."""
        self.span.add_event("retry", {"flowpod.attempt": attempt})

    def first_chunk(self) -> None:
        """Note that a streamed answer has begun."""
        seconds = time.perf_counter() - self._begun
        self.span.set_attribute("gen_ai.response.time_to_first_chunk", seconds)
        self._metrics.model_began_to_answer(self._counted, seconds)

    def answered(self, value: Any, model: str, finish_reason: str, usage: tuple[int, int] | None) -> None:
        """Put the answer on the span, if it has one; `usage` has the tokens of the prompt and of the completion."""
        self._error = ""
        if usage is not None:
            self._metrics.tokens_used(self._counted, *usage)
        if not self.span.is_recording():
            return
        facts: dict[str, AttributeValue] = {}
        if finish_reason:
            facts["gen_ai.response.finish_reasons"] = [finish_reason]
        if model:
            facts |= {"gen_ai.response.model": model, "llm.model_name": model}
        if usage is not None:
            facts |= {
                "gen_ai.usage.input_tokens": usage[0],
                "gen_ai.usage.output_tokens": usage[1],
                "llm.token_count.prompt": usage[0],
                "llm.token_count.completion": usage[1],
                "llm.token_count.total": sum(usage),
            }
        if self._content.captured and value is not None:
            text, mime = (self._content.text(value), "text/plain") if isinstance(value, str) else self._json(value)
            facts |= output_message(value, finish_reason, self._content)
            facts |= {"output.value": text, "output.mime_type": mime}
        self.span.set_attributes(facts)  # at once: each call of it takes a lock, and time

    def failed(self, code: str) -> None:
        """Note how the call failed."""
        self._error = code

    def end(self) -> None:
        """End the span; a call that has neither answered nor failed was left by its caller."""
        if self._error == "canceled":
            self.span.set_attribute("error.type", self._error)
        self._metrics.model_ended(self._counted, time.perf_counter() - self._begun, self._error)
        self.span.end()

    def _json(self, value: Any) -> tuple[str, str]:
        text, whole = self._content.json(value)
        return text, _mime(whole)


def _mime(whole: bool) -> str:
    return "application/json" if whole else "text/plain"


def _conventional(parameters: Mapping[str, Any]) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {}
    for name, attribute in _PARAMETERS.items():
        value = parameters.get(name)
        if attribute.endswith("stop_sequences") and value:
            attributes[attribute] = [value] if isinstance(value, str) else [str(item) for item in value]
        elif isinstance(value, int | float):
            attributes[attribute] = value
    return attributes
