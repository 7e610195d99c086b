"""What every node kind is made of: inputs go in, a value or a stream of chunks comes out."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

from flowpod.errors import NodeError
from flowpod.flow.model import Connection
from flowpod.models.base import ChatModels
from flowpod.telemetry.tracing import Tracing
from flowpod.threads import Threads

Streams = Literal["yes", "no", "perhaps"]
"""Whether a node's value comes as chunks, as far as can be told before it runs."""


async def _no_rounds(index: int, item: Any, variables: dict[str, Any] | None) -> Any:  # noqa: ARG001
    raise NodeError("this node has no nodes inside it", code="internal_error")


def _no_variable(name: str, value: Any = None) -> Any:  # noqa: ARG001
    raise ValueError(f"there is no variable {name}")


@dataclass(frozen=True, slots=True)
class Context:
    """What a node may know and do besides its inputs.

    `streaming`: somebody reads the chunks as they come. `run_round(index, item, variables)` runs the nodes inside this
    one and returns their result; it raises NodeError when one fails. `loop_variables` gives a loop's variables as it
    begins. `read_variable` and `write_variable` take names such as `session.count`; writing raises ValueError for a
    value of another type.
    """

    streaming: bool = False
    run_round: Callable[[int, Any, dict[str, Any] | None], Awaitable[Any]] = _no_rounds
    loop_variables: Callable[[], dict[str, Any]] = dict
    read_variable: Callable[[str], Any] = _no_variable
    write_variable: Callable[[str, Any], None] = _no_variable


class Node(Protocol):
    """A node that was built and may run many times at once."""

    optional: frozenset[str]
    """Inputs that are left out, not None, when they refer to a bypassed node."""
    waits_for_nodes: bool
    """Whether it spends its time waiting for other nodes, and so does not count against the limit of those that run."""

    async def run(self, inputs: Mapping[str, Any], context: Context) -> Any:
        """Return the value, a Result with it, or an async iterator of Chunks that ends with a Result.

        Raises NodeError for a failure that it can explain; any other exception is the node's own.
        """
        ...


class NodeSpec(Protocol):
    """What a flow says of a node, as far as node kinds need it."""

    @property
    def name(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def tool(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def inputs(self) -> Mapping[str, Any]: ...
    @property
    def literals(self) -> Mapping[str, Any]: ...
    @property
    def connection(self) -> str: ...
    @property
    def options(self) -> Mapping[str, Any]: ...
    @property
    def api(self) -> str: ...
    @property
    def overrides(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True)
class Resources:
    """What nodes share, made once for a flow.

    `renderers` are the threads of templates, apart from those of Python code: no prompt waits for a slow tool.
    """

    folder: Path
    models: ChatModels
    threads: Threads
    tracing: Tracing
    renderers: Threads
    connections: Mapping[str, Connection] = field(default_factory=dict)
    private_urls: bool = False
    modules: dict[Path, ModuleType] = field(default_factory=dict)
    """The Python files that were imported: nodes of one file share its module, and so what it holds."""
