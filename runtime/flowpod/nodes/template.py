"""The template node: renders Jinja2 to text, or to JSON."""

from collections.abc import Mapping
from typing import Any, Literal

import orjson

from flowpod.content.jinja import parse_template, unmarked
from flowpod.errors import NodeError
from flowpod.flow.document.base import NodeOptions
from flowpod.flow.model import Node
from flowpod.nodes.kind import BuiltNode, Context, Kind, Resources


class TemplateOptions(NodeOptions):
    """Renders a Jinja2 template to text, or to JSON that is parsed."""

    template: str
    format: Literal["text", "json"] = "text"


class TemplateNode(BuiltNode):
    """Renders its template with its inputs, in the sandbox."""

    def __init__(self, node: Node, options: TemplateOptions, resources: Resources) -> None:
        self._template = parse_template(options.template, f"the template of {node.name!r}")
        self.template_variables = self._template.variables
        self._renderers = resources.renderers
        self._as_json = options.format == "json"

    async def run(self, inputs: Mapping[str, Any], context: Context) -> Any:  # noqa: ARG002
        """Return the text, or the value of its JSON."""
        text = unmarked(await self._template.render_apart(self._renderers, inputs))
        if not self._as_json:
            return text
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError as error:
            text = f"the template did not make JSON: {error}: {text[:200]!r}"
            raise NodeError(text, code="template_error") from error


TEMPLATE = Kind("template", TemplateOptions, dashscope_type="VariableHandle", build=TemplateNode, runs_inline=True)
