"""The output node: text for the caller in the middle of a run."""

import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

from flowpod.errors import BuildError
from flowpod.jsonable import as_text
from flowpod.models.base import Chunk, Result
from flowpod.nodes.kind import Context, NodeSpec, Resources

_PLACE = re.compile(r"\{\{\s*(\w+)\s*\}\}")


class OutputNode:
    """Streams its text; a `{{ name }}` in it is an input, which streams where its node does."""

    optional: frozenset[str] = frozenset()
    waits_for_nodes = True

    def __init__(self, spec: NodeSpec, resources: Resources) -> None:  # noqa: ARG002
        # Texts and names in turn, beginning and ending with a text.
        self._parts = _PLACE.split(spec.options["text"])
        for name in self._parts[1::2]:
            if name not in spec.inputs:
                known = ", ".join(spec.inputs) or "none"
                raise BuildError("text", f"{{{{ {name} }}}} is no input of the node; its inputs: {known}")

    async def run(self, inputs: Mapping[str, Any], context: Context) -> AsyncIterator[Chunk | Result]:  # noqa: ARG002
        """Return the text as a stream."""
        return self._stream(inputs)

    async def _stream(self, inputs: Mapping[str, Any]) -> AsyncIterator[Chunk | Result]:
        texts: list[str] = []
        for place, part in enumerate(self._parts):
            if place % 2 == 0:
                if part:
                    texts.append(part)
                    yield Chunk(part)
                continue
            value = inputs.get(part)
            if not isinstance(value, AsyncIterator):
                texts.append(as_text(value))
                yield Chunk(texts[-1])
                continue
            async for chunk in value:
                texts.append(chunk.text)
                yield chunk
        yield Result("".join(texts))
