"""An answer in one piece: the same events as a stream's, folded."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from flowpod.engine.events import Event, NodeUpdated, Readable, RunOutput, RunTerminated


@dataclass(slots=True)
class Outcome:
    """What a run came to: each node's last state, each output's value as far as it got, and the end.

    `streamed` are the outputs that came as streams, `begun` those of them that have text or thoughts already. The
    value of a stream is put together when it is finished, when the run is, and by `settle`.
    """

    nodes: dict[str, NodeUpdated] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    reasoning: dict[str, str] = field(default_factory=dict)
    streamed: set[str] = field(default_factory=set)
    begun: set[str] = field(default_factory=set)
    finished: set[str] = field(default_factory=set)
    end: RunTerminated | None = None
    _deltas: dict[str, list[str]] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        """Take in the next event."""
        match event:
            case NodeUpdated():
                self.nodes[event.node] = event
            case RunOutput():
                self._add_output(event)
            case RunTerminated():
                self.end = event
                self.settle()

    def settle(self) -> None:
        """Put together what has come of the streams that are not finished."""
        for name in self.streamed - self.finished:
            self._put_together(name)

    def _add_output(self, event: RunOutput) -> None:
        name = event.output
        if event.is_stream:
            self.streamed.add(name)
            self.outputs.setdefault(name, "")
            self._deltas.setdefault(name, []).append(event.delta)
            if event.delta or event.reasoning:
                self.begun.add(name)
            self.reasoning[name] = self.reasoning.get(name, "") + event.reasoning
        else:
            self.outputs[name] = event.delta
        if event.status == "Finished":
            self.finished.add(name)
            if event.is_stream:
                self._put_together(name)

    def _put_together(self, name: str) -> None:
        self.outputs[name] = "".join(self._deltas[name])

    @property
    def terminated(self) -> RunTerminated:
        """The run's end; there is always one."""
        assert self.end is not None
        return self.end


async def fold(run: Readable, request: Request) -> Outcome:
    """Read a run to its end. A client that leaves cancels the run."""
    outcome = Outcome()
    await read(run, request, outcome.add)
    return outcome


async def read(run: Readable, request: Request, add: Callable[[Event], object]) -> None:
    """Give each of a run's events to `add`. A client that leaves cancels the run."""
    try:
        async with _reading(run, request) as batches:
            async for batch in batches:
                for event in batch:
                    add(event)
    finally:
        run.leave()


async def look_ahead(run: Readable, request: Request, seen: Callable[[Outcome], bool]) -> Outcome:
    """Read a run until `seen` holds, or to its end, and put back what was read, for whoever answers.

    This lets the status of a stream depend on how its run began; what is held meanwhile is bounded by how long a node's
    stream may get. A client that leaves cancels the run.
    """
    outcome = Outcome()
    events: list[Event] = []
    try:
        async with _reading(run, request) as batches:
            async for batch in batches:
                events += batch
                for event in batch:
                    outcome.add(event)
                if seen(outcome):
                    break
    except BaseException:
        run.leave()
        raise
    run.events.restore(events)
    return outcome


@asynccontextmanager
async def _reading(run: Readable, request: Request) -> AsyncIterator[AsyncIterator[list[Event]]]:
    watch = asyncio.create_task(_cancel_when_gone(run, request))
    try:
        async with aclosing(run.events.batches()) as batches:
            yield batches
    finally:
        watch.cancel()


async def _cancel_when_gone(run: Readable, request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    run.cancel("the client left")
