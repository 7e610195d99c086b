"""What the check of a node kind may ask about the node and the flow around it."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from flowpod.flow.document.located_yaml import Key, Source
from flowpod.flow.model import Flow, Node


@dataclass(slots=True)
class NodeCheck:
    """One node under check, the nodes `inside` which it stands, outermost first, and the flow.

    `failed` says whether the check has found an error: such a node is not built.
    """

    node: Node
    inside: tuple[Node, ...]
    flow: Flow
    source: Source
    failed: bool = False

    @property
    def folder(self) -> Path:
        """The flow's folder."""
        return self.flow.folder

    def error(self, key: Key, message: str) -> None:
        """Report an error at `key`, a path below the node."""
        self.failed = True
        self.source.add((*self.node.key, *key), message)

    def require_input(self, key: Key, name: str, names: Collection[str] | None = None) -> None:
        """Report an error at `key` unless the node has the input `name`, or `names`, if given, hold it."""
        known = self.node.inputs if names is None else names
        if name not in known:
            self.error(key, f"there is no input {name!r} here; there are {', '.join(known) or 'none'}")

    def variables(self, source: str) -> list[str]:
        """Return the names of the variables of `session`, or of the `loop` around the node."""
        if source == "session":
            return list(self.flow.variables)
        loop = next((node for node in reversed(self.inside) if node.body_scope == "loop"), None)
        return [variable.name for variable in loop.variables] if loop else []


def no_connection(name: str) -> str:
    """Return the message about a connection that does not exist."""
    return f"there is no connection {name!r}; define it in connections.yaml or where FLOWPOD_CONNECTIONS points"
