"""The llm node: a prompt file and its inputs make a request, and the model's answer is the value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from flowpod.content.images import PromptImages
from flowpod.content.jinja import unmarked
from flowpod.content.prompt_messages import split_messages
from flowpod.errors import BuildError, NodeError
from flowpod.flow.document.base import ConnectionName, PromptFlowOptions
from flowpod.flow.model import Node
from flowpod.flow.node_check import NodeCheck, no_connection
from flowpod.models.ask import AskContext, ask, whole_answer
from flowpod.models.base import Model
from flowpod.models.parameters import rules_for
from flowpod.nodes.kind import BuiltNode, Context, Kind, Resources
from flowpod.nodes.prompt import read_template
from flowpod.nodes.source import check_source

_LIMITS = {"max_tokens", "max_completion_tokens"}


class LLMOptions(PromptFlowOptions):
    """Calls a model with a prompt file and its inputs."""

    connection: ConnectionName = Field("", description="The name of a connection.")


@dataclass(frozen=True, slots=True)
class PromptedCall:
    """A call of a model with a prompt file: what an `llm` node or one of promptflow's model tools declares."""

    path: str
    node: Node
    connection: str
    api: Literal["chat", "completion", "vision"]
    overrides: Sequence[str] = ()


class LLMNode(BuiltNode):
    """Renders its prompt and calls the model of its connection."""

    streams = "unread"

    def __init__(self, call: PromptedCall, resources: Resources) -> None:
        node = call.node
        self._model = _model_of(call.connection, resources)
        self._plain = call.api == "completion"
        self._rules = rules_for(call.api, self._model.connection_type)
        # promptflow's tools for Azure and for vision print a list one item a line; its OpenAI tool prints Python's
        # repr.
        self._lists_as_lines = call.api == "vision" or self._model.connection_type == "azure_open_ai"
        self._template = read_template(call.path, resources)
        self._renderers = resources.renderers
        self._tracing = resources.tracing
        self.connections = frozenset({call.connection})
        self.overrides = frozenset(call.overrides)
        variables = self.template_variables = self._template.variables
        if reserved := sorted(variables & self._rules.reserved):
            text = f"{call.path} uses {', '.join(reserved)} as a variable, which is the name of a parameter; rename it"
            raise BuildError("source.path", text)
        self._check_overrides(call)
        try:
            self._rules.parameters(node.literals, variables)
        except NodeError as error:
            key, _, text = error.message.partition(": ")
            raise BuildError(key, text) from None
        self.model = self._model_name(node)

    def _check_overrides(self, call: PromptedCall) -> None:
        for name in call.overrides:
            if not self._rules.takes(name, self.template_variables):
                raise BuildError("overrides", f"{name} is not a parameter of this node's call")
        if call.overrides and {*call.node.inputs, *call.overrides} >= _LIMITS:
            raise BuildError("overrides", f"a call has one of {' and '.join(sorted(_LIMITS))}, not both")

    def _model_name(self, node: Node) -> str:
        """Return the name of the model, as far as it is known before a run."""
        named = [value for name in self._rules.model_names if (value := node.inputs.get(name))]
        literal = next((value for value in named if isinstance(value, str)), "")
        default = self._model.default_model
        model = default if self._model.fixed_model else literal or default
        if not (model or named):
            key = f"inputs.{self._rules.model_names[0]}"
            raise BuildError(key, "neither the node nor its connection names a model")
        return model

    async def run(self, inputs: Mapping[str, Any], context: Context) -> Any:
        """Return the answer as a stream, which has one chunk when nobody reads it as it comes.

        A node that offers tools or functions returns the whole message instead.
        """
        parameters = {"model": self.model, **self._rules.parameters(inputs, self.template_variables)}
        ask_context = AskContext(self._tracing, context.streaming)
        if self._plain:
            text = unmarked(await self._template.render_apart(self._renderers, inputs))
            return ask(self._model, text, parameters, ask_context)
        images = PromptImages(parameters.pop("detail", "auto"))
        values = images.printed(inputs, lists_as_lines=self._lists_as_lines)
        marked = await self._template.render_apart(self._renderers, values)
        answer = ask(self._model, split_messages(marked, images.parts), parameters, ask_context)
        if parameters.get("tools") or parameters.get("functions"):
            return await whole_answer(answer)
        return answer


def _model_of(connection: str, resources: Resources) -> Model:
    if not connection:
        raise BuildError("connection", "an llm node needs a connection; define it in connections.yaml")
    try:
        return resources.models.model_of(connection)
    except KeyError:
        raise BuildError("connection", no_connection(connection)) from None


def _build(node: Node, options: LLMOptions, resources: Resources) -> LLMNode:
    call = PromptedCall(options.source.path, node, options.connection, options.api, options.overrides)
    return LLMNode(call, resources)


def _check(options: LLMOptions, check: NodeCheck) -> None:
    check_source(options, check, takes_overrides=True)


LLM = Kind("llm", LLMOptions, dashscope_type="LLM", build=_build, check=_check, streams="unread", runs_inline=True)
