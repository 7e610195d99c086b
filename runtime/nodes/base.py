"""What every node kind is made of: inputs go in, a value or a stream of chunks comes out."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

from runtime.errors import NodeError
from runtime.nodes.threads import Threads
from runtime.telemetry.tracing import Tracing

TOOL_MARK = "__tool"
"""The attribute of a function that is a Python node's; promptflow's decorator sets the same one."""


Streams = Literal["yes", "no", "perhaps"]
"""Whether a node's value comes as chunks, as far as can be told before it runs."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a streamed value; `reasoning` is the model's thinking, which is not part of the value."""

    text: str = ""
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that a model counted."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens)


@dataclass(frozen=True, slots=True)
class Result:
    """The end of a stream, or a value with more to say: what the model said, and the branches that were taken."""

    value: Any
    usage: Usage | None = None
    model: str = ""
    finish_reason: str = ""
    taken: tuple[str, ...] = ()


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


class Connection(Protocol):
    """A named model service."""

    @property
    def name(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def fields(self) -> Mapping[str, Any]: ...


class ChatModel(Protocol):
    """A model that continues a conversation."""

    connection_type: str
    """The type of the connection, on which the parameters of a call depend."""
    default_model: str
    """The model that is called when a node names none."""
    fixed_model: bool
    """Whether `default_model` is used whatever the node names."""
    address: str
    """The host, and the port if it is not the scheme's, of the server that is called; "" when none is."""

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        parameters: Mapping[str, Any],
        *,
        stream: bool,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[Chunk | Result, None]:
        """Yield the answer's chunks (one, when not streaming), then its Result.

        `messages` are OpenAI's, `parameters` the rest of the request body, `headers` go with the request. When these
        offer tools or functions, the one part is a Result whose value is the whole message. Raises NodeError.
        """
        ...

    def complete(
        self,
        prompt: str,
        parameters: Mapping[str, Any],
        *,
        stream: bool,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[Chunk | Result, None]:
        """Yield the chunks of the text that continues `prompt`, then its Result; otherwise like `chat`."""
        ...

    async def close(self) -> None:
        """Close the model's connections."""
        ...


class ChatModels(Protocol):
    """The models of a flow's connections, one client each."""

    def get(self, name: str) -> ChatModel:
        """Return the model behind the connection `name`.

        Raises KeyError when there is no such connection, SpecProblem when it is of a type without a model.
        """
        ...

    async def close(self) -> None:
        """Close every model."""
        ...


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


class SpecProblem(Exception):
    """A node that cannot be built: the key under the node, and what is wrong with it."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key
        self.message = message
