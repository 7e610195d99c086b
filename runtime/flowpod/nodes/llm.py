"""The LLM node: a prompt file and its inputs make a request, whose answer is the value."""

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

from flowpod.content.images import PromptImages
from flowpod.content.jinja import unmarked
from flowpod.content.prompt_messages import split_messages
from flowpod.errors import BuildError, NodeError, text_of
from flowpod.models.base import ChatModel, Chunk, Result
from flowpod.models.parameters import rules_for
from flowpod.nodes.kind import Context, NodeSpec, Resources, Streams
from flowpod.nodes.prompt import read_template
from flowpod.nodes.python.connection_objects import no_connection
from flowpod.telemetry.model_call import CALL, ModelCall

_LIMITS = {"max_tokens", "max_completion_tokens"}
_PROVIDERS = {"open_ai": "openai", "azure_open_ai": "azure.ai.openai", "serverless": "azure.ai.inference"}


class LLMNode:
    """Renders its prompt and calls the model of its connection."""

    optional: frozenset[str] = frozenset()
    waits_for_nodes = False
    streams: Streams = "yes"

    def __init__(self, spec: NodeSpec, resources: Resources) -> None:
        self._chat_model = _model_of(spec, resources)
        self.connection = spec.connection
        self._plain = spec.api == "completion"
        self._rules = rules_for(spec.api, self._chat_model.connection_type)
        # promptflow's tools for Azure and for vision print a list an item a line; its OpenAI tool prints Python's repr.
        self._lists_as_lines = spec.api == "vision" or self._chat_model.connection_type == "azure_open_ai"
        self._template = read_template(spec, resources)
        self.variables = self._template.variables
        self._renderers = resources.renderers
        if taken := sorted(self.variables & self._rules.reserved):
            text = f"{spec.path} uses {', '.join(taken)} as a variable, which is the name of a parameter; rename it"
            raise BuildError("source.path", text)
        self._check_overrides(spec)
        try:
            self._rules.parameters(spec.literals, self.variables)
        except NodeError as error:
            key, _, text = error.message.partition(": ")
            raise BuildError(key, text) from None
        self._tracing = resources.tracing
        named = [value for name in self._rules.model_names if (value := spec.inputs.get(name))]
        literal = next((value for value in named if isinstance(value, str)), "")
        self.model = self._chat_model.default_model if self._chat_model.fixed_model else literal
        self.model = self.model or self._chat_model.default_model
        if not (self.model or named):
            raise BuildError(
                f"inputs.{self._rules.model_names[0]}", "neither the node nor its connection names a model"
            )

    def _check_overrides(self, spec: NodeSpec) -> None:
        for name in spec.overrides:
            if not self._rules.takes(name, self.variables):
                raise BuildError("overrides", f"{name} is no parameter of this node's call")
        if spec.overrides and {*spec.inputs, *spec.overrides} >= _LIMITS:
            raise BuildError("overrides", f"a call has one of {' and '.join(sorted(_LIMITS))}, not both")

    async def run(self, inputs: Mapping[str, Any], context: Context) -> Any:
        """Return the answer as a stream; it is one chunk when nobody reads it as it comes.

        A node that offers tools or functions returns the whole message instead.
        """
        parameters = {"model": self.model, **self._rules.parameters(inputs, self.variables)}
        if self._plain:
            text = unmarked(await self._template.render_apart(self._renderers, inputs))
            return self._answer(text, parameters, context.streaming)
        images = PromptImages(parameters.pop("detail", "auto"))
        values = images.printed(inputs, lists_as_lines=self._lists_as_lines)
        marked = await self._template.render_apart(self._renderers, values)
        answer = self._answer(split_messages(marked, images.parts), parameters, context.streaming)
        if parameters.get("tools") or parameters.get("functions"):
            return [part async for part in answer][-1]
        return answer

    async def _answer(
        self, prompt: str | list[dict[str, Any]], parameters: dict[str, Any], streaming: bool
    ) -> AsyncIterator[Chunk | Result]:
        model, plain = self._chat_model, isinstance(prompt, str)
        provider = _PROVIDERS.get(model.connection_type, model.connection_type)
        call = self._tracing.start_model_call(
            str(parameters["model"]), provider, model.address, "text_completion" if plain else "chat"
        )
        CALL.set(call)
        call.asked(prompt, parameters, stream=streaming)
        try:
            if isinstance(prompt, str):
                answer = model.complete(prompt, parameters, stream=streaming, headers=call.headers())
            else:
                answer = model.chat(prompt, parameters, stream=streaming, headers=call.headers())
            async with aclosing(answer) as parts:
                async for part in parts:  # the first, whose time counts
                    if isinstance(part, Result):
                        _answered(call, part)
                    elif streaming:
                        call.first_chunk()
                    yield part
                    break
                async for part in parts:
                    if isinstance(part, Result):
                        _answered(call, part)
                    yield part
        except Exception as error:
            code = error.code if isinstance(error, NodeError) else type(error).__name__
            call.failed(code)
            self._tracing.fail(call.span, text_of(error), code, error)
            raise
        finally:
            call.end()


def _model_of(spec: NodeSpec, resources: Resources) -> ChatModel:
    if not spec.connection:
        raise BuildError("connection", "an llm node needs a connection; define it in connections.yaml")
    try:
        return resources.models.get(spec.connection)
    except KeyError:
        raise BuildError("connection", no_connection(spec.connection)) from None


def _answered(call: ModelCall, result: Result) -> None:
    usage = result.usage
    counts = None if usage is None else (usage.prompt_tokens, usage.completion_tokens)
    call.answered(result.value, result.model, result.finish_reason, counts)
