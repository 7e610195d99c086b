"""The prompt node: a prompt file and its inputs make a text."""

from collections.abc import Mapping
from typing import Any

from flowpod.content.jinja import ParsedTemplate, Rendered, parse_template
from flowpod.errors import BuildError
from flowpod.flow.document.base import PromptFlowOptions
from flowpod.flow.model import Node
from flowpod.nodes.kind import BuiltNode, Context, Kind, Resources
from flowpod.nodes.source import check_source


class PromptOptions(PromptFlowOptions):
    """Renders a prompt file with its inputs."""


class PromptNode(BuiltNode):
    """Renders its file with its inputs."""

    def __init__(self, node: Node, options: PromptOptions, resources: Resources) -> None:  # noqa: ARG002
        self._template = read_template(options.source.path, resources)
        self.template_variables = self._template.variables
        self._renderers = resources.renderers

    async def run(self, inputs: Mapping[str, Any], context: Context) -> Rendered:  # noqa: ARG002
        """Return the text."""
        return Rendered.of(await self._template.render_apart(self._renderers, inputs))


def read_template(path: str, resources: Resources) -> ParsedTemplate:
    """Return the template in the flow's file `path`; raises BuildError if it is not UTF-8 text or not a template."""
    try:
        source = (resources.folder / path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise BuildError("source.path", f"{path} is not UTF-8 text") from None
    return parse_template(source, path)


PROMPT = Kind(
    "prompt", PromptOptions, dashscope_type="VariableHandle", build=PromptNode, check=check_source, runs_inline=True
)
