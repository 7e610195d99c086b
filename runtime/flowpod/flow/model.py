"""The parts of a flow, as the rest of the program uses them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

_Scalar = Literal["int", "double", "bool", "string", "secret", "prompt_template"]
_Other = Literal["list", "object", "file_path", "image", "assistant_definition", "File", "file"]
ValueType = Literal[_Scalar, _Other]

FILE_TYPES = ("File", "file")
"""LangStudio's name of the type, and the same in promptflow's lower case."""

Override = Literal["temperature", "top_p", "max_tokens", "max_completion_tokens", "seed"]
"""The model parameters that a node may let a request set."""

MAX_ROUNDS = 1000
"""The maximum number of past turns that a flow or a request may ask for."""

SystemVariable = Literal["session_id", "user_id", "run_id", "turn", "instructions"]
"""The names of `${sys.NAME}`: properties of the request that are not inputs."""

GivenVariable = Literal["rag_options", "plugin_params", "plugin_tokens"]
"""Further names, of mappings in DashScope's calls that `${sys.NAME.KEY}` reads; null where a request has none."""

TOKENS: GivenVariable = "plugin_tokens"
SECRET_VARIABLES: frozenset[GivenVariable] = frozenset({"plugin_params", TOKENS})
"""System variables that are secret: only Python code may get them."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A `${...}`: an input, a node's output, a variable, a batch's item or a round's index; or a property of it."""

    source: Literal["inputs", "node", "sys", "session", "loop", "item", "index"]
    name: str
    path: tuple[str | int, ...] = ()

    def __str__(self) -> str:
        tail = "".join(map(_shown, self.path))
        if self.source != "node":
            return f"${{{self.source}{f'.{self.name}' if self.name else ''}{tail}}}"
        return f"${{{self.name}.output{'.' if tail.startswith('[') else ''}{tail}}}"


def _shown(key: str | int) -> str:
    if isinstance(key, int):
        return f"[{key}]"
    return f".{key}" if re.fullmatch(r"\w+", key) else f"[{key!r}]"


@dataclass(frozen=True, slots=True)
class Input:
    """An input of the flow, a key of the request body."""

    name: str
    type: ValueType
    description: str = ""
    has_default: bool = False
    default: Any = None


@dataclass(frozen=True, slots=True)
class Output:
    """An output of the flow: a reference, a literal, or lists and mappings of them."""

    name: str
    type: ValueType
    value: Any
    description: str = ""
    evaluation_only: bool = False


@dataclass(frozen=True, slots=True)
class Activation:
    """A node's condition: it runs when the value of `when` equals `equals`."""

    when: Any
    equals: Any


@dataclass(frozen=True, slots=True)
class Edge:
    """An explicit edge: the node, or the branch of a node, that another node comes after."""

    node: str
    branch: str | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """How a failed node is retried: `max` further attempts, `interval_s` seconds before each."""

    max: int
    interval_s: float = 0.0


@dataclass(frozen=True, slots=True)
class OnError:
    """What happens after the last attempt of a node failed: a branch is taken, or it is Completed with `default`."""

    branch: str | None = None
    default: Any = None


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of the session or of a loop. The default of a loop variable may be a reference."""

    name: str
    type: ValueType
    default: Any = None


@dataclass(frozen=True, slots=True)
class HistoryRules:
    """How much history a run gets: at most the last `rounds` turns, and about `tokens` tokens."""

    rounds: int = 20
    tokens: int | None = None


BodyScope = Literal["", "item", "loop"]
"""What the nodes inside a node may refer to: nothing more than others, `${item}`, or `${loop.NAME}`."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a flow.

    `inputs` maps local names to literals or references. `options` is the model of the node's kind, `key` the node's
    place in the file, `index` its place in its list. `branches` are the branches that other nodes may come after.
    `connections` maps keys of the node to names of connections. `writes_to` is the output to which the node adds text:
    "" is the chat output, None is no output. A node with a `body` runs the nodes in it; `variables` are those of a
    loop, and `result` is the value of one round.
    """

    name: str
    type: str
    index: int
    inputs: Mapping[str, Any]
    options: Any
    key: tuple[str | int, ...] = ()
    activate: Activation | None = None
    after: tuple[Edge, ...] = ()
    retry: Retry | None = None
    timeout_s: float | None = None
    on_error: OnError | None = None
    description: str | None = None
    display_name: str | None = None
    branches: tuple[str, ...] = ()
    connections: Mapping[str, str] = field(default_factory=dict)
    writes_to: str | None = None
    takes_secrets: bool = False
    body: tuple["Node", ...] = ()
    body_scope: BodyScope = ""
    variables: tuple[Variable, ...] = ()
    result: Any = None

    @property
    def literals(self) -> dict[str, Any]:
        """The inputs that are not references."""
        return {name: value for name, value in self.inputs.items() if not isinstance(value, Reference)}

    def references(self) -> list[Reference]:
        """Return every reference in the node's inputs, loop variables and condition."""
        values = [*self.inputs.values(), *(variable.default for variable in self.variables)]
        return references_in([*values, *([self.activate.when] if self.activate else [])])

    def needs(self) -> set[str]:
        """Return the names of all nodes that this node waits for, those that its body needs included."""
        names = {reference.name for reference in self.references() if reference.source == "node"}
        names.update(edge.node for edge in self.after)
        own = {node.name for node in self.body}
        for node in self.body:
            names |= node.needs() - own
        names |= {reference.name for reference in references_in(self.result) if reference.source == "node"} - own
        return names


def references_in(value: Any) -> list[Reference]:
    """Return the references in a value, however deep in lists and mappings."""
    if isinstance(value, Reference):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [found for item in value for found in references_in(item)] if isinstance(value, list) else []


@dataclass(frozen=True, slots=True)
class Connection:
    """A named service with its address and secrets, environment variables already filled in."""

    name: str
    type: str
    fields: Mapping[str, Any] = field(repr=False)
    problems: tuple[str, ...] = field(default=(), compare=False)
    fallback: str = ""


@dataclass(frozen=True, slots=True)
class Flow:
    """A flow package as it was loaded."""

    folder: Path
    inputs: Mapping[str, Input]
    outputs: Mapping[str, Output]
    nodes: Mapping[str, Node]
    connections: Mapping[str, Connection]
    variables: Mapping[str, Variable] = field(default_factory=dict)
    display_name: str = ""
    description: str = ""
    chat_input: str | None = None
    chat_history: str | None = None
    chat_images: str | None = None
    chat_output: str | None = None
    history: HistoryRules = HistoryRules()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The environment variables that the flow declares for its code."""

    @property
    def is_chat(self) -> bool:
        """Whether the flow is a chat flow: it has a chat input and a chat output."""
        return self.chat_input is not None and self.chat_output is not None
