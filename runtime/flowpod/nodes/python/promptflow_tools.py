"""promptflow's own package tools, for where the package promptflow-tools is not installed."""

import importlib.util
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

from flowpod.content.jinja import parse_template
from flowpod.errors import BuildError
from flowpod.flow.document.base import PromptFlowOptions
from flowpod.flow.model import Node
from flowpod.nodes.kind import BuiltNode, Resources
from flowpod.nodes.llm import LLMNode, PromptedCall
from flowpod.nodes.prompt import PromptNode


def built_in_tool(node: Node, options: PromptFlowOptions, resources: Resources) -> BuiltNode | None:
    """Return the node that calls one of promptflow's tools, None when it calls another tool or they are installed."""
    build = _BUILT_IN.get(options.source.tool) if options.source.type != "code" else None
    return build(node, options, resources) if build is not None and not _are_tools_installed() else None


def _are_tools_installed() -> bool:
    try:
        return importlib.util.find_spec("promptflow.tools") is not None
    except ModuleNotFoundError:
        return False


def _model_node(
    node: Node, options: PromptFlowOptions, resources: Resources, api: Literal["chat", "completion", "vision"]
) -> LLMNode:
    connection = str(node.literals.get("connection") or options.connection)
    path = "" if options.source.type == "package" else options.source.path
    return LLMNode(PromptedCall(path, node, connection, api), resources)


def _llm(node: Node, options: PromptFlowOptions, resources: Resources) -> LLMNode:
    api = str(node.literals.get("api") or "chat")
    if api not in ("chat", "completion"):
        raise BuildError("inputs.api", f"expected chat or completion, got {api!r}")
    return _model_node(node, options, resources, "chat" if api == "chat" else "completion")


class TemplateToolNode(PromptNode):
    """Renders the template among its inputs with the other inputs."""

    def __init__(self, node: Node, options: PromptFlowOptions, resources: Resources) -> None:  # noqa: ARG002
        template = node.literals.get("template")
        if not isinstance(template, str):
            raise BuildError("inputs.template", "the tool needs a template, as a literal")
        self._template = parse_template(template, f"the template of node {node.name!r}")
        self._renderers = resources.renderers


_BUILT_IN: Mapping[str, Callable[[Node, PromptFlowOptions, Resources], BuiltNode]] = {
    "promptflow.tools.aoai_gpt4v.AzureOpenAI.chat": partial(_model_node, api="vision"),
    "promptflow.tools.openai_gpt4v.OpenAI.chat": partial(_model_node, api="vision"),
    "promptflow.tools.llm.llm": _llm,
    "promptflow.tools.template_rendering.render_template_jinja2": TemplateToolNode,
}
