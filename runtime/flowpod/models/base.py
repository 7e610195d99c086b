"""What a model takes and gives: a request, and an answer in chunks that ends with a result."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk of a streamed text. `reasoning` is the model's thinking, which is not part of the value."""

    text: str = ""
    reasoning: str = ""

    @property
    def size(self) -> int:
        """What the chunk counts against a limit of characters; an empty one takes memory too and counts as one."""
        return len(self.text) + len(self.reasoning) or 1


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens of a call, as the model counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens)


@dataclass(frozen=True, slots=True)
class Result:
    """The end of a stream, or a value with what belongs to it: the model's usage, and the branches that were taken."""

    value: Any
    usage: Usage | None = None
    model: str = ""
    finish_reason: str = ""
    taken: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One call of a model.

    `prompt` is a list of messages as OpenAI writes them, or a text that a plain completion continues. `parameters` are
    the rest of the request body, under the names of chat completions. `headers` go with the HTTP request.
    """

    prompt: str | Sequence[Mapping[str, Any]]
    parameters: Mapping[str, Any]
    stream: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


class Model(Protocol):
    """The model behind a connection."""

    connection_type: str
    """The type of the connection, on which the parameters of a call depend."""
    default_model: str
    """The model that is called when a node names none."""
    fixed_model: bool
    """Whether `default_model` is called even when a node names another one."""
    address: str
    """The host of the server that is called, with its port unless that is the scheme's default, or ""."""

    def answer(self, request: ModelRequest) -> AsyncGenerator[Chunk | Result, None]:
        """Yield the answer's chunks (one, when not streaming), then its Result. Raises NodeError.

        For a request that offers tools or functions, yield only a Result whose value is the whole message.
        """
        ...

    async def close(self) -> None:
        """Close the model's connections."""
        ...
