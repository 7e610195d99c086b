"""The LLM node: a prompt file and its inputs make a chat request, whose answer is the value."""

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

from opentelemetry.trace import Span

from runtime.errors import NodeError
from runtime.nodes.base import Chunk, Context, NodeSpec, Resources, Result, SpecProblem, Streams
from runtime.nodes.messages import split_messages
from runtime.nodes.prompt import read_template
from runtime.nodes.templates import render_marked
from runtime.telemetry.tracing import fail, outgoing_headers, record

# The names of chat parameters among a node's inputs, with the type that a string is read as; every other input is a
# variable of the prompt (promptflow, tools/openai.py and aoai.py).
_PARAMETERS: dict[str, type | None] = {
    "model": str,
    "deployment_name": str,
    "temperature": float,
    "top_p": float,
    "max_tokens": int,
    "max_completion_tokens": int,
    "n": int,
    "seed": int,
    "presence_penalty": float,
    "frequency_penalty": float,
    "top_logprobs": int,
    "logprobs": None,
    "stop": None,
    "logit_bias": None,
    "user": None,
    "response_format": None,
    "tools": None,
    "tool_choice": None,
    "functions": None,
    "function_call": None,
    "reasoning_effort": None,
    "extra_body": None,
}


class LLMNode:
    """Renders its prompt and calls the model of its connection."""

    optional: frozenset[str] = frozenset()
    waits_for_nodes = False
    streams: Streams = "yes"

    def __init__(self, spec: NodeSpec, resources: Resources) -> None:
        if not spec.connection:
            raise SpecProblem("connection", "an llm node needs a connection; define it in connections.yaml")
        try:
            self._chat_model = resources.models.get(spec.connection)
        except KeyError:
            text = f"there is no connection {spec.connection!r}; define it in connections.yaml"
            raise SpecProblem("connection", text) from None
        self._template, self.variables = read_template(spec, resources)
        self._tracing = resources.tracing
        named = spec.inputs.get("model") or spec.inputs.get("deployment_name")
        literal = named if isinstance(named, str) else ""
        self.model = self._chat_model.default_model if self._chat_model.fixed_model else literal
        self.model = self.model or self._chat_model.default_model
        if not (self.model or named):
            raise SpecProblem("inputs.model", "neither the node nor its connection names a model")

    async def run(self, inputs: Mapping[str, Any], context: Context) -> AsyncIterator[Chunk | Result]:
        """Return the answer as a stream; it is one chunk when nobody reads it as it comes."""
        messages = split_messages(render_marked(self._template, inputs))
        return self._answer(messages, self._parameters(inputs), context.streaming)

    def _parameters(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        parameters: dict[str, Any] = {}
        for name, kind in _PARAMETERS.items():
            value = inputs.get(name)
            if value is None or value == "" or (name in ("stop", "logit_bias") and not value):
                continue
            try:
                parameters[name] = kind(value) if kind and isinstance(value, str) else value
            except ValueError:
                text = f"inputs.{name}: expected {'an integer' if kind is int else 'a number'}, got {value!r}"
                raise NodeError(text, code="invalid_parameter") from None
        deployment = parameters.pop("deployment_name", None)
        parameters.setdefault("model", deployment or self.model)
        parameters.update(parameters.pop("extra_body", None) or {})
        return parameters

    async def _answer(
        self, messages: list[dict[str, str]], parameters: dict[str, Any], streaming: bool
    ) -> AsyncIterator[Chunk | Result]:
        # The span is not made current: a generator that is left while suspended could not put the old one back.
        span = self._tracing.start_model_call(str(parameters["model"]), {"gen_ai.provider.name": "openai"})
        record(span, "input", {"messages": messages, **parameters})
        try:
            answer = self._chat_model.chat(messages, parameters, stream=streaming, headers=outgoing_headers(span))
            async with aclosing(answer) as parts:
                async for part in parts:
                    if isinstance(part, Result):
                        _describe(span, part)
                    yield part
        except NodeError as error:
            fail(span, error.message, error.code, error)
            raise
        finally:
            span.end()


def _describe(span: Span, result: Result) -> None:
    record(span, "output", result.value)
    span.set_attribute("gen_ai.response.model", result.model)
    span.set_attribute("gen_ai.response.finish_reasons", [result.finish_reason])
    if result.usage is not None:
        span.set_attribute("gen_ai.usage.input_tokens", result.usage.prompt_tokens)
        span.set_attribute("gen_ai.usage.output_tokens", result.usage.completion_tokens)
