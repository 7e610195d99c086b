"""The prompt node: a template and its inputs make a text."""

from collections.abc import Mapping
from typing import Any

from flowpod.content.jinja import ParsedTemplate, Rendered, parse_template
from flowpod.errors import BuildError
from flowpod.nodes.kind import Context, NodeSpec, Resources


class PromptNode:
    """Renders its file with its inputs."""

    optional: frozenset[str] = frozenset()
    waits_for_nodes = False

    def __init__(self, spec: NodeSpec, resources: Resources) -> None:
        self._template = read_template(spec, resources)
        self.variables = self._template.variables
        self._renderers = resources.renderers

    async def run(self, inputs: Mapping[str, Any], context: Context) -> Rendered:  # noqa: ARG002
        """Return the text."""
        return Rendered.of(await self._template.render_apart(self._renderers, inputs))


def read_template(spec: NodeSpec, resources: Resources) -> ParsedTemplate:
    """Return the template in the node's file.

    Raises BuildError when the file is not UTF-8 text or not a template.
    """
    try:
        source = (resources.folder / spec.path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise BuildError("source.path", f"{spec.path} is not UTF-8 text") from None
    return parse_template(source, spec.path)
