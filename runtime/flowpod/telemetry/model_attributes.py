"""What a model was sent and answered, as the attributes of OpenTelemetry's GenAI conventions and OpenInference's."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from opentelemetry.util.types import AttributeValue

from flowpod.telemetry.content import Content
from flowpod.telemetry.messages import input_messages, output_message

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


class Exchange(NamedTuple):
    """A request to a model and its answer, as they are stored: their attributes, which repeat them, are made from it.

    `prompt` and `value` are None where spans hold no content, and before there is an answer. `usage` is the tokens of
    the prompt and of the completion.
    """

    prompt: str | Sequence[Mapping[str, Any]] | None
    parameters: Mapping[str, Any]
    stream: bool
    value: Any = None
    model: str = ""
    finish_reason: str = ""
    usage: Sequence[int] | None = None


def without_content(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that are no content: numbers and stop sequences."""
    return {name: value for name, value in parameters.items() if name in _PARAMETERS}


def model_attributes(exchange: Exchange, content: Content) -> dict[str, AttributeValue]:
    """Return the attributes of a model call."""
    return _request_attributes(exchange, content) | _response_attributes(exchange, content)


def _request_attributes(exchange: Exchange, content: Content) -> dict[str, AttributeValue]:
    prompt, parameters = exchange.prompt, exchange.parameters
    sent = {key: value for key, value in parameters.items() if key not in _NOT_PARAMETERS}
    attributes = _parameter_attributes(sent)
    if exchange.stream:
        attributes["gen_ai.request.stream"] = True
    if prompt is None:
        return attributes
    if sent:
        attributes["llm.invocation_parameters"] = content.json(sent)[0]
    if isinstance(prompt, str):
        return attributes | content.attributes("input", prompt)
    value = {"messages": prompt, **parameters}
    return attributes | input_messages(prompt, content) | content.attributes("input", value)


def _response_attributes(exchange: Exchange, content: Content) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {}
    if exchange.finish_reason:
        attributes["gen_ai.response.finish_reasons"] = (exchange.finish_reason,)
    if exchange.model:
        attributes |= {"gen_ai.response.model": exchange.model, "llm.model_name": exchange.model}
    if exchange.usage is not None:
        prompt, completion = exchange.usage
        attributes |= {
            "gen_ai.usage.input_tokens": prompt,
            "gen_ai.usage.output_tokens": completion,
            "llm.token_count.prompt": prompt,
            "llm.token_count.completion": completion,
            "llm.token_count.total": prompt + completion,
        }
    if exchange.value is not None:
        attributes |= output_message(exchange.value, exchange.finish_reason, content)
        attributes |= content.attributes("output", exchange.value)
    return attributes


def _parameter_attributes(parameters: Mapping[str, Any]) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {}
    for name, attribute in _PARAMETERS.items():
        value = parameters.get(name)
        if attribute.endswith("stop_sequences") and value:
            attributes[attribute] = (value,) if isinstance(value, str) else tuple(map(str, value))
        elif isinstance(value, int | float):
            attributes[attribute] = value
    return attributes
