"""A recorded run in the process that executes it, and its stream for an attached reader."""

from collections.abc import Awaitable, Callable

from flowpod.background.event_buffer import EventBuffer, termination_events
from flowpod.engine.events import EventChannel, RunStatus
from flowpod.engine.run import Run
from flowpod.errors import ErrorInfo

OpenBuffer = Callable[[str, Callable[[str], None]], EventBuffer]
StartRun = Callable[[], Awaitable[Run]]

_READER_LIMIT = 256


class QueuedRun:
    """A run that this process has recorded and that has not ended.

    `start_run` starts it, `open_buffer` opens its buffer in the journal, `size` is the size of its request in bytes.
    """

    def __init__(self, run_id: str, start_run: StartRun, open_buffer: OpenBuffer, size: int = 0) -> None:
        self.id = run_id
        self.size = size
        self.run: Run | None = None
        self.buffer = open_buffer(run_id, self.cancel)
        self._start_run = start_run
        self._cancel_reason = ""

    async def start_execution(self) -> Run:
        """Start the run, and cancel it at once if that was requested before. Raises what `start_run` raises."""
        self.run = run = await self._start_run()
        if self._cancel_reason:
            run.cancel(self._cancel_reason)
        return run

    def cancel(self, reason: str) -> None:
        """End the run early; a run that has not started ends as soon as it starts."""
        self._cancel_reason = self._cancel_reason or reason
        if self.run is not None:
            self.run.cancel(reason)

    def end_unstarted(self, error: ErrorInfo, status: RunStatus) -> None:
        """End a run that never started."""
        self.buffer.add_events(termination_events(self.id, error, status))


class RecordedStream:
    """A recorded run as its reader in this process sees it. When the reader leaves, the run is cancelled."""

    def __init__(self, run: Run) -> None:
        self.id = run.id
        self.session_id = run.session_id
        self.events = EventChannel(_READER_LIMIT)
        self._run = run

    def leave(self) -> None:
        """Stop reading, which cancels a run that has not ended."""
        self.events.close()
        self._run.cancel("the client left")

    def cancel(self, reason: str) -> None:
        """End the run early."""
        self._run.cancel(reason)
