"""One run in a terminal: outputs on the standard output as they come, the state of nodes on the standard error."""

import asyncio
import sys
import uuid
from collections.abc import Mapping

from flowpod.engine.events import Event, NodeUpdated, RunOutput, RunTerminated
from flowpod.engine.request import RunRequest
from flowpod.jsonable import dumps
from flowpod.service import FlowService


async def run_once(service: FlowService, inputs: Mapping[str, str]) -> int:
    """Run the flow once and print what happens; return the command's exit status.

    Raises InvalidRequest for inputs that the flow does not take.
    """
    run = await service.start(RunRequest(inputs=inputs, session_id=str(uuid.uuid4()), assigned=True))
    printer = _Printer(labelled=len(service.flow.outputs) > 1)
    try:
        async for batch in run.events.batches():
            for event in batch:
                printer.show(event)
        await run.finished()
    except asyncio.CancelledError:
        run.leave()
        raise
    finally:
        await service.finish(grace_s=0)
        await service.close()
    return printer.status


class _Printer:
    """Prints events. With several outputs each has its name before it."""

    def __init__(self, labelled: bool) -> None:
        self._labelled = labelled
        self._open: str | None = None
        self.status = 1

    def show(self, event: Event) -> None:
        match event:
            case NodeUpdated():
                if sys.stdout.isatty():  # elsewhere the two streams do not meet, and the answer stays in one piece
                    self._end_line()
                duration = "" if event.status in ("Running", "Bypassed") else f" {event.duration:.3f} s"
                sys.stderr.write(f"{event.node}: {event.status}{duration}\n")
            case RunOutput():
                self._show_output(event)
            case RunTerminated():
                self._end_line()
                self.status = 0 if event.status == "Completed" else 1
                if event.error is not None:
                    sys.stderr.write(f"{event.status}: {event.error.message}\n")

    def _show_output(self, event: RunOutput) -> None:
        if self._open != event.output:
            self._end_line()
            if self._labelled:
                sys.stdout.write(f"{event.output}: ")
            self._open = event.output
        if event.has_delta:
            sys.stdout.write(event.delta if isinstance(event.delta, str) else dumps(event.delta).decode())
            sys.stdout.flush()
        if event.status == "Finished":
            self._end_line()

    def _end_line(self) -> None:
        if self._open is not None:
            sys.stdout.write("\n")
            sys.stdout.flush()
            self._open = None
