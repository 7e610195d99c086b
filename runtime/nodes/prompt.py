"""The prompt node: a template and its inputs make a text."""

from collections.abc import Mapping
from typing import Any

from runtime.nodes.base import Context, NodeSpec, Resources, SpecProblem
from runtime.nodes.templates import Rendered, parse_template, render_marked, unmarked


class PromptNode:
    """Renders its file with its inputs."""

    optional: frozenset[str] = frozenset()
    waits_for_nodes = False

    def __init__(self, spec: NodeSpec, resources: Resources) -> None:
        self._template, self.variables = read_template(spec, resources)

    async def run(self, inputs: Mapping[str, Any], context: Context) -> Rendered:  # noqa: ARG002
        """Return the text."""
        marked = render_marked(self._template, inputs)
        text = Rendered(unmarked(marked))
        text.marked = marked
        return text


def read_template(spec: NodeSpec, resources: Resources) -> tuple[Any, frozenset[str]]:
    """Return the template in the node's file and the variables that it uses.

    Raises SpecProblem when the file is not UTF-8 text or not a template.
    """
    try:
        source = (resources.folder / spec.path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise SpecProblem("source.path", f"{spec.path} is not UTF-8 text") from None
    return parse_template(source, spec.path)
