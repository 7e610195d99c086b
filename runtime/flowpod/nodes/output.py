"""The output node: text for the caller in the middle of a run."""

import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

from pydantic import Field

from flowpod.errors import BuildError
from flowpod.flow.document.base import NodeOptions, Text
from flowpod.flow.model import Node
from flowpod.flow.node_check import NodeCheck
from flowpod.jsonable import as_text
from flowpod.models.base import Chunk, Result
from flowpod.nodes.kind import BuiltNode, Context, Kind, Resources

_PLACE = re.compile(r"\{\{\s*(\w+)\s*\}\}")


class OutputNodeOptions(NodeOptions):
    """Adds text to an output of the flow in the middle of a run, as it comes."""

    text: str = Field(description="The text; {{ name }} stands for an input, which streams where its node does.")
    to: Text = Field("", description="The output to which the text is added; the chat output by default.")


class OutputNode(BuiltNode):
    """Streams its text. A `{{ name }}` in it is an input, which streams where its node does."""

    waits_for_nodes = True

    def __init__(self, node: Node, options: OutputNodeOptions, resources: Resources) -> None:  # noqa: ARG002
        # Literal texts and names of inputs alternate, and a text is first and last.
        self._segments = _PLACE.split(options.text)
        for name in self._segments[1::2]:
            if name not in node.inputs:
                known = ", ".join(node.inputs) or "none"
                raise BuildError("text", f"{{{{ {name} }}}} is not an input of the node; its inputs: {known}")

    async def run(self, inputs: Mapping[str, Any], context: Context) -> AsyncIterator[Chunk | Result]:  # noqa: ARG002
        """Return the text as a stream."""
        return self._stream(inputs)

    async def _stream(self, inputs: Mapping[str, Any]) -> AsyncIterator[Chunk | Result]:
        texts: list[str] = []
        for place, segment in enumerate(self._segments):
            if place % 2 == 0:
                if segment:
                    texts.append(segment)
                    yield Chunk(segment)
                continue
            value = inputs.get(segment)
            if not isinstance(value, AsyncIterator):
                texts.append(as_text(value))
                yield Chunk(texts[-1])
                continue
            async for chunk in value:
                texts.append(chunk.text)
                yield chunk
        yield Result("".join(texts))


def _check(options: OutputNodeOptions, check: NodeCheck) -> None:
    if check.inside:
        place = f"the output node {check.node.name!r} stands inside {check.inside[-1].name!r}"
        check.error((), f"{place}; only the flow itself has outputs")
        return
    flow = check.flow
    to = options.to or flow.chat_output
    if to is None:
        check.error(("to",), "the flow has no chat output, so `to` must name an output")
    elif to not in flow.outputs:
        check.error(("to",), f"there is no output {to!r}; there are {', '.join(flow.outputs) or 'none'}")
    elif flow.outputs[to].value is not None:
        check.error(("to",), f"the output {to!r} has a reference of its own; remove one of the two")


OUTPUT = Kind(
    "output",
    OutputNodeOptions,
    dashscope_type="Output",
    build=OutputNode,
    check=_check,
    streams="yes",
    writes_to=lambda options: options.to,
    runs_inline=True,
)
