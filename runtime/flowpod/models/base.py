"""What a model takes and gives: a request, and an answer in chunks that ends with a result."""

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal, NamedTuple, Protocol


class Chunk(NamedTuple):
    """A chunk of a streamed text. `reasoning` is the model's thinking, which is not part of the value.

    Chunks that arrived together are merged into one, which has either a text or reasoning; `lengths` are theirs.
    """

    text: str = ""
    reasoning: str = ""
    lengths: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """What the chunk counts against a limit of characters; an empty one takes memory too and counts as one."""
        return len(self.text) + len(self.reasoning) or 1

    def split(self) -> "list[Chunk]":
        """Return the chunks that were merged into this one."""
        return [Chunk(self.text[part], self.reasoning[part]) for part in slices_of(self.lengths)] or [self]


def slices_of(lengths: Sequence[int]) -> Iterator[slice]:
    """Yield the place of each chunk in their merged text."""
    start = 0
    for length in lengths:
        yield slice(start, start + length)
        start += length


def merged(chunks: Sequence[Chunk]) -> Iterator[Chunk]:
    """Yield the chunks, with consecutive ones merged that have only a text, or only reasoning."""
    for kind, group in groupby(chunks, _kind):
        found = list(group)
        if kind == "both" or len(found) == 1:
            yield from found
        elif kind == "text":
            texts = [chunk.text for chunk in found]
            yield Chunk("".join(texts), "", tuple(map(len, texts)))
        else:
            texts = [chunk.reasoning for chunk in found]
            yield Chunk("", "".join(texts), tuple(map(len, texts)))


def _kind(chunk: Chunk) -> Literal["text", "reasoning", "both"]:
    if not chunk.reasoning:
        return "text"
    return "both" if chunk.text else "reasoning"


@dataclass(frozen=True, slots=True)
class Usage:
    """The tokens of a call, as the model counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """The counts by name, as events carry them."""
        return {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens}

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
