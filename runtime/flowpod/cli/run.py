"""One run in a terminal: streams outputs to standard output and prints the state of nodes to standard error."""

import asyncio
import sys
from collections.abc import Mapping

from flowpod.engine.events import Event, NodeUpdated, RunOutput, RunTerminated
from flowpod.engine.request import RunRequest
from flowpod.ids import new_uuid
from flowpod.jsonable import dumps
from flowpod.service import FlowService


async def run_once(service: FlowService, inputs: Mapping[str, str]) -> int:
    """Run the flow once, print its events, and return the exit status of the command.

    Raises InvalidRequest for invalid or unknown inputs.
    """
    run = await service.start(RunRequest(inputs=inputs, session_id=new_uuid(), assigned=True))
    printer = _Printer(labelled=len(service.flow.outputs) > 1)
    try:
        async for batch in run.events.batches():
            for event in batch:
                printer.print_event(event)
        await run.finished()
    except asyncio.CancelledError:
        run.leave()
        raise
    finally:
        await service.finish(grace_s=0)
        await service.close()
    return printer.status


class _Printer:
    """Prints events. If the flow has several outputs, each is printed with its name."""

    def __init__(self, labelled: bool) -> None:
        self._labelled = labelled
        self._open_output: str | None = None
        self.status = 1

    def print_event(self, event: Event) -> None:
        match event:
            case NodeUpdated():
                if sys.stdout.isatty():  # the node line would otherwise continue the output's line
                    self._end_line()
                duration = "" if event.status in ("Running", "Bypassed") else f" {event.duration:.3f} s"
                sys.stderr.write(f"{event.node}: {event.status}{duration}\n")
            case RunOutput():
                self._print_output(event)
            case RunTerminated():
                self._end_line()
                self.status = 0 if event.status == "Completed" else 1
                if event.error is not None:
                    sys.stderr.write(f"{event.status}: {event.error.message}\n")

    def _print_output(self, event: RunOutput) -> None:
        if self._open_output != event.output:
            self._end_line()
            if self._labelled:
                sys.stdout.write(f"{event.output}: ")
            self._open_output = event.output
        if event.has_delta:
            sys.stdout.write(event.delta if isinstance(event.delta, str) else dumps(event.delta).decode())
            sys.stdout.flush()
        if event.status == "Finished":
            self._end_line()

    def _end_line(self) -> None:
        if self._open_output is not None:
            sys.stdout.write("\n")
            sys.stdout.flush()
            self._open_output = None
