"""The outcome of a run: its events folded into the state of its nodes and outputs."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from flowpod.engine.events import Event, NodeUpdated, Readable, RunOutput, RunTerminated


@dataclass(slots=True)
class Outcome:
    """The state of a run after the events so far.

    `nodes` has each node's latest event, `outputs` each output's value, as far as it is known. `streamed` are the
    outputs that streamed, `begun` those of them that have text or reasoning, `finished` all outputs that are final.
    The chunks of a stream are joined when the stream or the run ends, or by `settle`.
    """

    nodes: dict[str, NodeUpdated] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    reasoning: dict[str, str] = field(default_factory=dict)
    streamed: set[str] = field(default_factory=set)
    begun: set[str] = field(default_factory=set)
    finished: set[str] = field(default_factory=set)
    end: RunTerminated | None = None
    _chunks: dict[str, list[str]] = field(default_factory=dict)
    _thoughts: dict[str, list[str]] = field(default_factory=dict)

    def add_event(self, event: Event) -> None:
        """Apply the next event."""
        match event:
            case NodeUpdated():
                self.nodes[event.node] = event
            case RunOutput():
                self._add_output(event)
            case RunTerminated():
                self.end = event
                self.settle()

    def settle(self) -> None:
        """Join the chunks of streams that have not finished."""
        for name in self.streamed - self.finished:
            self._join_chunks(name)

    def _add_output(self, event: RunOutput) -> None:
        name = event.output
        if event.is_stream:
            self.streamed.add(name)
            self.outputs.setdefault(name, "")
            self._chunks.setdefault(name, []).append(event.delta)
            if event.delta or event.reasoning:
                self.begun.add(name)
            if event.reasoning:
                self._thoughts.setdefault(name, []).append(event.reasoning)
        else:
            self.outputs[name] = event.delta
        if event.status == "Finished":
            self.finished.add(name)
            if event.is_stream:
                self._join_chunks(name)

    def _join_chunks(self, name: str) -> None:
        self.outputs[name] = "".join(self._chunks[name])
        self.reasoning[name] = "".join(self._thoughts.get(name, ()))

    @property
    def terminated(self) -> RunTerminated:
        """The run's last event; the run must have ended."""
        assert self.end is not None
        return self.end


async def fold(run: Readable, request: Request) -> Outcome:
    """Read a run to its end. If the client disconnects, the run is cancelled."""
    outcome = Outcome()
    await read_to_end(run, request, outcome.add_event)
    return outcome


async def read_to_end(run: Readable, request: Request, add_event: Callable[[Event], object]) -> None:
    """Pass each event of a run to `add_event`. If the client disconnects, the run is cancelled.

    A turn that is not stored yet is noted in the request's state, for the response's headers.
    """
    try:
        async with _reading(run, request) as batches:
            async for batch in batches:
                for event in batch:
                    add_event(event)
                if isinstance(last := batch[-1], RunTerminated) and last.history:
                    request.state.history = last.history
    finally:
        run.leave()


async def look_ahead(run: Readable, request: Request, is_enough: Callable[[Outcome], bool]) -> Outcome:
    """Read a run until `is_enough`, or to its end, and put the events back for the response.

    This lets the status of a stream depend on how the run began. The events held meanwhile are bounded by the maximum
    length of a node's stream. If the client disconnects, the run is cancelled.
    """
    outcome = Outcome()
    events: list[Event] = []
    try:
        async with _reading(run, request) as batches:
            async for batch in batches:
                events += batch
                for event in batch:
                    outcome.add_event(event)
                if is_enough(outcome):
                    break
    except BaseException:
        run.leave()
        raise
    run.events.restore(events)
    return outcome


@asynccontextmanager
async def _reading(run: Readable, request: Request) -> AsyncIterator[AsyncIterator[list[Event]]]:
    watch = asyncio.create_task(_cancel_on_disconnect(run, request))
    try:
        async with aclosing(run.events.batches()) as batches:
            yield batches
    finally:
        watch.cancel()


async def _cancel_on_disconnect(run: Readable, request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    run.cancel("the client left")
