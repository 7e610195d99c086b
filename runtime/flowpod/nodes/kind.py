"""What a node kind is: one record, from which everything that depends on the kind derives."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from flowpod.errors import NodeError
from flowpod.flow.document.base import NodeOptions
from flowpod.flow.kinds import BodyOptions
from flowpod.flow.model import Connection, Node
from flowpod.flow.node_check import NodeCheck
from flowpod.models.registry import ModelRegistry
from flowpod.nodes.python.flow_modules import FlowModules
from flowpod.telemetry.tracing import SpanKind, Tracing
from flowpod.threads import Threads

Options = TypeVar("Options", bound=NodeOptions)

Streams = Literal["no", "perhaps", "yes", "unread"]
"""Whether a node's value comes in chunks.

`perhaps`: only its code can tell. `unread`: it does, but Prompt Flow's serving streams it only while no other node
reads the value (executor/flow_executor.py).
"""


async def _no_body(index: int, item: Any, variables: dict[str, Any] | None) -> Any:  # noqa: ARG001
    raise NodeError("this node has no nodes inside it", code="internal_error")


def _no_variable(name: str, value: Any = None) -> Any:  # noqa: ARG001
    raise ValueError(f"there is no variable {name}")


@dataclass(frozen=True, slots=True)
class Context:
    """What a running node may use besides its inputs.

    `streaming`: a reader takes the chunks as they come. `run_body(index, item, variables)` runs the nodes inside this
    one once and returns their result; it raises NodeError when one fails. `loop_variables` returns a loop's variables
    as it begins. `read_variable` and `write_variable` take names such as `session.count`; writing raises ValueError for
    a value of another type.
    """

    streaming: bool = False
    run_body: Callable[[int, Any, dict[str, Any] | None], Awaitable[Any]] = _no_body
    loop_variables: Callable[[], dict[str, Any]] = dict
    read_variable: Callable[[str], Any] = _no_variable
    write_variable: Callable[[str, Any], None] = _no_variable


@dataclass(frozen=True, slots=True)
class Resources:
    """What the nodes of a flow share.

    `threads` run synchronous Python code, `renderers` run templates, so that no prompt waits for a slow tool. Nodes of
    one file share its module, and so its state.
    """

    folder: Path
    models: ModelRegistry
    threads: Threads
    tracing: Tracing
    renderers: Threads
    modules: FlowModules
    connections: Mapping[str, Connection] = field(default_factory=dict)
    private_urls: bool = False


class BuiltNode(ABC):
    """A node ready to run, any number of times at once. A kind's class overrides what differs from these defaults."""

    optional: frozenset[str] = frozenset()
    """Inputs that are omitted, rather than None, when they refer to a bypassed node."""
    waits_for_nodes: bool = False
    """Whether it spends its time waiting for other nodes, and so does not count against the limit of running nodes."""
    streams: Streams | None = None
    """Whether this node streams, where it is not for its kind to say."""
    overrides: frozenset[str] = frozenset()
    """Inputs that a request may set."""
    template_variables: frozenset[str] = frozenset()
    """The names that its template uses; `flowpod check` warns about those that are not inputs."""
    connections: frozenset[str] = frozenset()
    """The connections that it uses, those that are not keys of the node included."""
    model: str = ""
    """The name of the model that it calls, if it calls one."""

    @abstractmethod
    async def run(self, inputs: Mapping[str, Any], context: Context) -> Any:
        """Return the value, a Result with it, or an async iterator of Chunks that ends with a Result.

        Raises NodeError for a failure that it can explain. Any other exception counts as the flow's own.
        """


@dataclass(frozen=True, slots=True)
class Kind(Generic[Options]):
    """A node kind.

    `name` is the value of `type` in the file.
    `options` is the model of the kind's keys; its docstring describes the kind in the schema and in the docs' index.
    `dashscope_type` is the node type that DashScope's clients see (names of spring-ai-alibaba's admin studio).
    `build` makes a node ready to run when the flow is loaded; it raises BuildError.
    `check` reports what needs the flow around the node, but none of its code, to be found.
    `streams` says whether the value comes in chunks.
    `branches` returns the branches that other nodes may come after.
    `body` returns the nodes inside the node, None for a kind that has none.
    `writes_to` returns the output to which the node adds text ("" is the chat output), None for a kind that adds none.
    `runs_inline` says whether the node may be awaited in the task of its run, which saves a task. Its code must then
    end soon after it is cancelled, never cancel its own task, and leave no context variable changed. The code of a flow
    promises none of this, so a kind that runs any has a task for each node.
    `takes_secrets`: its inputs may refer to what a caller sends for plugins.
    `span_kind` is OpenInference's kind of the node's span.
    `extra` is the optional dependency group of Flowpod that the kind needs.
    """

    name: str
    options: type[Options]
    dashscope_type: str
    build: Callable[[Node, Options, Resources], BuiltNode]
    check: Callable[[Options, NodeCheck], None] = lambda _options, _check: None
    streams: Streams = "no"
    branches: Callable[[Options], Sequence[str]] = lambda _options: ()
    body: Callable[[Options], BodyOptions] | None = None
    writes_to: Callable[[Options], str] | None = None
    runs_inline: bool = False
    takes_secrets: bool = False
    span_kind: SpanKind = "CHAIN"
    extra: str = ""
