"""promptflow's own package tools, for where the package promptflow-tools is not installed."""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flowpod.content.jinja import Rendered, parse_template
from flowpod.errors import BuildError
from flowpod.nodes.kind import Context, Node, NodeSpec, Resources
from flowpod.nodes.llm import LLMNode
from flowpod.nodes.python.node import PythonNode


def tool_node(spec: NodeSpec, resources: Resources) -> Node:
    """Return the node that calls a tool: of a file, of an installed package, or one that is built in."""
    if spec.type == "custom_llm" and spec.source != "package_with_prompt":
        raise BuildError("source.type", "a custom_llm node has the source type package_with_prompt")
    if spec.source != "code" and spec.tool in _BUILT_IN and not _is_installed("promptflow.tools"):
        return _BUILT_IN[spec.tool](spec, resources)
    return PythonNode(spec, resources)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@dataclass(frozen=True, slots=True)
class _ModelSpec:
    """A package tool's node as an llm node says the same."""

    name: str
    path: str
    inputs: Mapping[str, Any]
    literals: Mapping[str, Any]
    connection: str
    api: str
    type: str = "llm"
    source: str = "code"
    tool: str = ""
    overrides: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


def _vision(spec: NodeSpec, resources: Resources) -> Node:
    return LLMNode(_model_spec(spec, "vision"), resources)


def _llm(spec: NodeSpec, resources: Resources) -> Node:
    return LLMNode(_model_spec(spec, str(spec.literals.get("api") or "chat")), resources)


def _model_spec(spec: NodeSpec, api: str) -> _ModelSpec:
    connection = spec.literals.get("connection") or spec.connection
    return _ModelSpec(spec.name, spec.path, spec.inputs, spec.literals, str(connection), api)


class TemplateToolNode:
    """Renders the template among its inputs with the others."""

    optional: frozenset[str] = frozenset()
    waits_for_nodes = False

    def __init__(self, spec: NodeSpec, resources: Resources) -> None:
        template = spec.literals.get("template")
        if not isinstance(template, str):
            raise BuildError("inputs.template", "the tool needs a template, as a literal")
        self._template = parse_template(template, f"the template of node {spec.name!r}")
        self._renderers = resources.renderers

    async def run(self, inputs: Mapping[str, Any], context: Context) -> Rendered:  # noqa: ARG002
        """Return the text."""
        return Rendered.of(await self._template.render_apart(self._renderers, inputs))


_BUILT_IN: Mapping[str, Callable[[NodeSpec, Resources], Node]] = {
    "promptflow.tools.aoai_gpt4v.AzureOpenAI.chat": _vision,
    "promptflow.tools.openai_gpt4v.OpenAI.chat": _vision,
    "promptflow.tools.llm.llm": _llm,
    "promptflow.tools.template_rendering.render_template_jinja2": TemplateToolNode,
}
