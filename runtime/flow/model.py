"""The parts of a flow, as the rest of the program sees them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

ValueType = Literal[
    "int",
    "double",
    "bool",
    "string",
    "secret",
    "prompt_template",
    "list",
    "object",
    "file_path",
    "image",
    "assistant_definition",
]

SystemVariable = Literal["session_id", "user_id", "run_id", "turn", "instructions"]
"""What `${sys.NAME}` gives: facts of the request that no input carries."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A `${...}`: an input, a node's output or a part of it, or a system variable."""

    source: Literal["inputs", "node", "sys"]
    name: str
    path: tuple[str | int, ...] = ()

    def __str__(self) -> str:
        if self.source != "node":
            return f"${{{self.source}.{self.name}}}"
        tail = "".join(map(_shown, self.path))
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
    """An output of the flow: a reference or a literal."""

    name: str
    type: ValueType
    value: Any
    description: str = ""


@dataclass(frozen=True, slots=True)
class Activation:
    """A node's condition: it runs when the value of `when` equals `equals`."""

    when: Any
    equals: Any


@dataclass(frozen=True, slots=True)
class Node:
    """One node. `inputs` maps local names to literals or references; `index` is its place in the file."""

    name: str
    type: str
    index: int
    path: str
    inputs: Mapping[str, Any]
    connection: str = ""
    activate: Activation | None = None
    description: str | None = None
    display_name: str | None = None
    api: str = "chat"
    source: str = "code"
    tool: str = ""

    @property
    def literals(self) -> dict[str, Any]:
        """The inputs that are no references."""
        return {name: value for name, value in self.inputs.items() if not isinstance(value, Reference)}

    def references(self) -> list[Reference]:
        """Return every reference in the node's inputs and condition."""
        values = [*self.inputs.values(), *([self.activate.when] if self.activate else [])]
        return [value for value in values if isinstance(value, Reference)]


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
    """A flow package as it was read."""

    folder: Path
    inputs: Mapping[str, Input]
    outputs: Mapping[str, Output]
    nodes: Mapping[str, Node]
    connections: Mapping[str, Connection]
    display_name: str = ""
    description: str = ""
    chat_input: str | None = None
    chat_history: str | None = None
    chat_output: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The variables that the flow's code finds in the process's environment."""

    @property
    def is_chat(self) -> bool:
        """Whether the flow holds conversations: it has a chat input and a chat output."""
        return self.chat_input is not None and self.chat_output is not None
