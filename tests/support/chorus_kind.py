"""A node kind that Flowpod does not have: one file and one entry in KINDS make it.

`python -m tests.support.chorus_kind` is the `flowpod` command of a Flowpod that has it.
"""

import sys
from collections.abc import Mapping
from typing import Any

from flowpod.cli.main import main
from flowpod.flow.document.base import ConnectionName, NodeOptions
from flowpod.flow.model import Node
from flowpod.flow.node_check import NodeCheck
from flowpod.models.ask import AskContext, ask
from flowpod.nodes import KINDS
from flowpod.nodes.kind import BuiltNode, Context, Kind, Resources


class ChorusOptions(NodeOptions):
    """Asks a model once and lets it answer in chorus."""

    connection: ConnectionName = ""
    model_name: str = "words:2"
    singer: str


class ChorusNode(BuiltNode):
    def __init__(self, node: Node, options: ChorusOptions, resources: Resources) -> None:
        if options.singer == "missing":
            import chorus_sheets  # type: ignore[import-not-found]  # noqa: F401
        self._model = resources.models.model_of(options.connection)
        self._options = options
        self._tracing = resources.tracing
        self.model = options.model_name
        self.connections = frozenset({options.connection})

    async def run(self, inputs: Mapping[str, Any], context: Context) -> Any:
        messages = [{"role": "user", "content": f"{self._options.singer}: {inputs['verse']}"}]
        parameters = {"model": self._options.model_name}
        return ask(self._model, messages, parameters, AskContext(self._tracing, context.streaming))


def _check(options: ChorusOptions, check: NodeCheck) -> None:
    check.require_input(("inputs",), "verse")
    if not options.connection:
        check.error(("connection",), "a chorus needs a connection")


CHORUS = Kind(
    "chorus",
    ChorusOptions,
    dashscope_type="Chorus",
    build=ChorusNode,
    check=_check,
    streams="unread",
    span_kind="AGENT",
    extra="music",
)

if __name__ == "__main__":
    KINDS["chorus"] = CHORUS
    sys.exit(main())
