"""The template node: Jinja2 to text, or to JSON."""

from collections.abc import Mapping
from typing import Any

import orjson

from flowpod.content.jinja import parse_template, unmarked
from flowpod.errors import NodeError
from flowpod.nodes.kind import Context, NodeSpec, Resources


class TemplateNode:
    """Renders its template with its inputs, in the sandbox."""

    optional: frozenset[str] = frozenset()
    waits_for_nodes = False

    def __init__(self, spec: NodeSpec, resources: Resources) -> None:
        self._template = parse_template(spec.options["template"], f"the template of {spec.name!r}")
        self.variables = self._template.variables
        self._renderers = resources.renderers
        self._as_json = spec.options["format"] == "json"

    async def run(self, inputs: Mapping[str, Any], context: Context) -> Any:  # noqa: ARG002
        """Return the text, or what its JSON says."""
        text = unmarked(await self._template.render_apart(self._renderers, inputs))
        if not self._as_json:
            return text
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise NodeError(f"the template made no JSON: {error}: {text[:200]!r}", code="template_error") from error
