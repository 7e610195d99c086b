"""An answer in one piece: the same events as a stream's, folded."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from runtime.run.events import Event, NodeUpdated, RunOutput, RunTerminated
from runtime.run.run import Run


@dataclass(slots=True)
class Outcome:
    """What a run came to: each node's last state, each output's value as far as it got, and the end."""

    nodes: dict[str, NodeUpdated] = field(default_factory=dict)
    whole: dict[str, Any] = field(default_factory=dict)
    deltas: dict[str, list[str]] = field(default_factory=dict)
    thoughts: dict[str, list[str]] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)
    end: RunTerminated | None = None

    def add(self, event: Event) -> None:
        """Take in the next event."""
        match event:
            case NodeUpdated():
                self.nodes[event.node] = event
            case RunOutput():
                self._add_output(event)
            case RunTerminated():
                self.end = event

    def _add_output(self, event: RunOutput) -> None:
        name = event.output
        if event.is_stream:
            self.deltas.setdefault(name, []).append(event.delta)
            self.thoughts.setdefault(name, []).append(event.reasoning)
            self.whole.setdefault(name, None)  # keeps the order in which outputs began
        else:
            self.whole[name] = event.delta
        if event.status == "Finished":
            self.finished.add(name)

    def outputs(self) -> dict[str, Any]:
        """Return each output's value."""
        return {
            name: "".join(self.deltas[name]) if name in self.deltas else value for name, value in self.whole.items()
        }

    def reasoning(self, output: str) -> str:
        """Return the thinking that came with an output."""
        return "".join(self.thoughts.get(output, ()))

    @property
    def terminated(self) -> RunTerminated:
        """The run's end; there is always one."""
        assert self.end is not None
        return self.end


async def fold(run: Run, request: Request) -> Outcome:
    """Read a run to its end. A client that leaves cancels the run."""
    watch = asyncio.create_task(_cancel_when_gone(run, request))
    outcome = Outcome()
    try:
        async for batch in run.events.batches():
            for event in batch:
                outcome.add(event)
    finally:
        watch.cancel()
        run.leave()
    return outcome


async def _cancel_when_gone(run: Run, request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    run.cancel("the client left")
