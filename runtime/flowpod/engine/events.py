"""The four events of a run, and the channel that takes them to their reader."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from flowpod.errors import ErrorInfo

NodeStatus = Literal["Running", "Completed", "Failed", "Canceled", "Bypassed"]
RunStatus = Literal["Completed", "Failed", "Canceled"]
OutputStatus = Literal["Streaming", "Finished"]


def utc_now() -> datetime:
    """Return the time that an event carries."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The first event. `trace_id` is `0x` and 32 hex digits, or ""."""

    run_id: str
    trace_id: str
    timestamp: datetime = field(default_factory=utc_now)


@dataclass(frozen=True, slots=True)
class NodeUpdated:
    """A node changed its state; `duration` in seconds, `output` once it is Completed.

    `cause` is the exception behind a failure, as `(Type) text`, or "" where there was none. `models` has what each
    model of the run has counted so far, as RunTerminated has it; None before the first one has.
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
class RunOutput:
    """A piece of an output, or a whole one.

    A streamed output opens with an empty delta, closes with an empty delta and then an event that is Finished and has
    no delta at all. `run_id` is the node's: the run's, the node's name and a uuid. `reasoning` is the model's thinking
    that came with the delta. `pieces` are the lengths of the texts that were put together to this one, if it was.
    """

    run_id: str
    output: str
    delta: Any
    is_stream: bool
    status: OutputStatus
    reasoning: str = ""
    pieces: tuple[int, ...] = ()
    timestamp: datetime = field(default_factory=utc_now)

    @property
    def has_delta(self) -> bool:
        """Whether the event carries a value."""
        return not (self.is_stream and self.status == "Finished")

    def apart(self) -> "list[RunOutput]":
        """Return the events that this one was put together of; they have its time."""
        made, start = list[RunOutput](), 0
        for size in self.pieces:
            this = slice(start, start + size)
            made.append(replace(self, delta=self.delta[this], reasoning=self.reasoning[this], pieces=()))
            start += size
        return made or [self]


@dataclass(frozen=True, slots=True)
class RunTerminated:
    """The last event of every run, whatever became of it.

    `usage` has OpenAI's three counts, summed over the run's models, or is empty; `models` has the first two for each
    model by its name. `finish_reason` is that of the model behind the chat output; `history` is "deferred" when the
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

    Writing never blocks, so that a run can always say how it ended; producers of many events wait for `room`.
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
        """Add an event; once the reader is gone, or the run has ended, it is dropped."""
        if self._closed or self._ended:
            return
        self._ended = isinstance(event, RunTerminated)
        self._waiting.append(event)
        self._arrived.set()
        if len(self._waiting) >= self._limit:
            self._room.clear()

    async def room(self) -> None:
        """Wait until fewer events than the limit are waiting, or nobody reads any more."""
        if not self._room.is_set():
            await self._room.wait()

    def close(self) -> None:
        """Let go of the reader: nothing is kept for it from now on."""
        self._closed = True
        self._waiting.clear()
        self._room.set()

    def restore(self, events: Sequence[Event]) -> None:
        """Put back, in front of what waits, events that were read ahead."""
        if not self._closed:
            self._waiting[:0] = events
            self._arrived.set()

    async def batches(self) -> AsyncGenerator[list[Event], None]:
        """Yield all events that are waiting, again and again, until RunTerminated has been among them."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            batch, self._waiting = self._waiting, []
            self._room.set()
            yield batch
            if isinstance(batch[-1], RunTerminated):
                return


class Readable(Protocol):
    """A run as its one reader has it, who calls `leave` when done with the events; before the end that cancels it."""

    id: str
    session_id: str
    events: EventChannel

    def leave(self) -> None:
        """Let the reader go."""

    def cancel(self, reason: str) -> None:
        """End the run early."""
