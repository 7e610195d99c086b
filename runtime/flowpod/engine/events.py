"""The four events of a run, and the channel that carries them to its reader."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from flowpod.errors import ErrorInfo
from flowpod.ids import new_uuid
from flowpod.models.base import slices_of

NodeStatus = Literal["Running", "Completed", "Failed", "Canceled", "Bypassed"]
RunStatus = Literal["Completed", "Failed", "Canceled"]
OutputStatus = Literal["Streaming", "Finished"]


def utc_now() -> datetime:
    """Return the current time, as events carry it."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The first event. `trace_id` is `0x` and 32 hex digits, or ""."""

    run_id: str
    trace_id: str
    timestamp: datetime = field(default_factory=utc_now)


@dataclass(frozen=True, slots=True)
class NodeUpdated:
    """A node changed its status. `duration` is in seconds; `output` is set when the node is Completed.

    `cause` is the exception behind a failure, as `(Type) text`, or "". `models` are the token counts of the run's
    models so far, as in RunTerminated; None before the first count.
    """

    run_id: str
    node: str
    status: NodeStatus
    duration: float = 0.0
    error: ErrorInfo | None = None
    output: Any = None
    description: str | None = None
    display_name: str | None = None
    cause: str = ""
    models: Mapping[str, Mapping[str, int]] | None = None
    timestamp: datetime = field(default_factory=utc_now)


@dataclass(frozen=True, slots=True)
class NodeRun:
    """One execution of a node: the node's path and the id of the execution, a uuid."""

    node: str
    id: str = field(default_factory=new_uuid)


@dataclass(frozen=True, slots=True)
class RunOutput:
    """A chunk of an output, or a whole output.

    A streamed output starts with an empty delta and ends with an empty delta, followed by an event that is Finished and
    has no delta. `node` and `node_run_id` identify the execution that made the value; if no node made it, `node` is
    the output's name. `reasoning` is the model's reasoning that came with the delta. `chunk_lengths` are the lengths of
    the chunks that were merged into this one, if any.
    """

    run_id: str
    node: str
    node_run_id: str
    output: str
    delta: Any
    is_stream: bool
    status: OutputStatus
    reasoning: str = ""
    chunk_lengths: tuple[int, ...] = ()
    timestamp: datetime = field(default_factory=utc_now)

    @property
    def has_delta(self) -> bool:
        """Whether the event carries a value."""
        return not (self.is_stream and self.status == "Finished")

    def split_chunks(self) -> "list[RunOutput]":
        """Return the events that were merged into this one, with its timestamp."""
        return [
            replace(self, delta=self.delta[part], reasoning=self.reasoning[part], chunk_lengths=())
            for part in slices_of(self.chunk_lengths)
        ] or [self]


@dataclass(frozen=True, slots=True)
class RunTerminated:
    """The last event of every run, however the run ended.

    `usage` has OpenAI's three token counts, summed over the run's models, or is empty; `models` has the first two for
    each model by name. `finish_reason` is that of the model behind the chat output; `history` is "deferred" when the
    turn could not be stored in time.
    """

    run_id: str
    status: RunStatus
    trace_id: str
    error: ErrorInfo | None = None
    usage: Mapping[str, int] = field(default_factory=dict)
    finish_reason: str = "stop"
    history: Literal["", "deferred"] = ""
    models: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    timestamp: datetime = field(default_factory=utc_now)


Event = RunStarted | NodeUpdated | RunOutput | RunTerminated


class EventChannel:
    """Carries events from a run to its one reader; a slow reader slows the run.

    `put` never blocks, so that a run can always report its end; producers of many events wait for `room`.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: list[Event] = []
        self._closed = False
        self._ended = False
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    def put(self, event: Event) -> None:
        """Add an event; it is dropped when the reader has left or the run has ended."""
        if self._closed or self._ended:
            return
        self._ended = isinstance(event, RunTerminated)
        self._waiting.append(event)
        self._arrived.set()
        if len(self._waiting) >= self._limit:
            self._room.clear()

    async def room(self) -> None:
        """Wait until fewer events than the limit are waiting, or the reader has left."""
        await self._room.wait()

    def close(self) -> None:
        """Drop the waiting events and those to come: the reader has left."""
        self._closed = True
        self._waiting.clear()
        self._room.set()

    def restore(self, events: Sequence[Event]) -> None:
        """Put events that were read ahead back, in front of the waiting ones."""
        if not self._closed:
            self._waiting[:0] = events
            self._arrived.set()

    async def batches(self) -> AsyncGenerator[list[Event], None]:
        """Yield the waiting events again and again, up to and including RunTerminated."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            batch, self._waiting = self._waiting, []
            self._room.set()
            yield batch
            if isinstance(batch[-1], RunTerminated):
                return


class Readable(Protocol):
    """A run as its one reader sees it. The reader calls `leave` when it stops reading; before the end that cancels."""

    id: str
    session_id: str
    events: EventChannel

    def leave(self) -> None:
        """Stop reading, which cancels a run that has not ended."""

    def cancel(self, reason: str) -> None:
        """End the run early."""
