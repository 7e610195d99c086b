"""What a model takes and gives: a conversation or a prompt, and an answer in chunks that ends with a result."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


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

        Raises KeyError when there is no such connection, BuildError when it is of a type without a model.
        """
        ...

    async def close(self) -> None:
        """Close every model."""
        ...
