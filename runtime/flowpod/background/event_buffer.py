"""One recorded run in the process that performs it."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime

from orjson import Fragment

from flowpod.background.event_json import merge_chunks, to_json
from flowpod.engine.events import Event, EventChannel, RunStarted, RunStatus, RunTerminated
from flowpod.engine.request import RunRequest
from flowpod.engine.run import Run
from flowpod.errors import ErrorInfo, RunError
from flowpod.jsonable import dumps
from flowpod.storage.runs.records import EventBatch
from flowpod.storage.schema import ACTIVE, RecordStatus

_MAX_WAITING = 2000
_MOST_BYTES = 512 * 1024  # of a batch with several events: a database takes statements of some megabytes at least
_READER_LIMIT = 256


class EventBuffer:
    """A run in the journal. `cancel` ends the run when the journal cannot go on with it."""

    def __init__(self, run_id: str, cancel: Callable[[str], None], hurry: asyncio.Event) -> None:
        self.run_id = run_id
        self.cancel = cancel
        self.ended = asyncio.Event()
        """Set when nothing more will be written: the run's end is stored, or the run is not ours any more."""
        self.failure: ErrorInfo | None = None
        """Why the journal could not go on with the run: then that has failed, whatever its last event says."""
        self._hurry = hurry
        self._waiting: list[Event] = []
        self._number = 0
        self._stored = 0
        self._status: RecordStatus = "Queued"
        self._started_at: datetime | None = None
        self._finished_at: datetime | None = None
        self._room = asyncio.Event()
        self._room.set()

    def add(self, events: Sequence[Event]) -> None:
        """Take in what the run has told; after its last event nothing more."""
        for event in events:
            if self._status not in ACTIVE:
                return
            self._waiting.append(event)
            if isinstance(event, RunStarted):
                self._status, self._started_at = "Running", event.timestamp
            elif isinstance(event, RunTerminated):
                self._status, self._finished_at = event.status, event.timestamp
                self._hurry.set()
        if len(self._waiting) >= _MAX_WAITING:
            self._room.clear()
            self._hurry.set()

    async def room(self) -> None:
        """Wait until not too much waits to be written."""
        if not self._room.is_set():
            await self._room.wait()

    @property
    def is_due(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._waiting)

    @property
    def is_over(self) -> bool:
        """Whether the run's last event is among those that were taken."""
        return self._status not in ACTIVE

    def take(self) -> EventBatch:
        """Return what waits, numbered, to be written; of very much only the beginning."""
        self._stored = self._number
        events, texts, size = merge_chunks(self._waiting), list[Fragment](), 0
        for event in events:
            text = dumps(to_json(event))
            size += len(text)
            if texts and size > _MOST_BYTES:
                break
            texts.append(Fragment(text))
        self._number += len(texts)
        self._waiting = events[len(texts) :]
        if self._waiting:
            self._hurry.set()
            return EventBatch(self.run_id, texts, self._number, "Running", self._started_at, None)
        self._room.set()
        return EventBatch(self.run_id, texts, self._number, self._status, self._started_at, self._finished_at)

    def lose(self, failure: ErrorInfo) -> None:
        """End the run, which is not ours any more."""
        self.failure = failure
        self.cancel(failure.message)
        self.let_go()

    def let_go(self) -> None:
        """Take nothing in any more, nor wait for anything."""
        if not self.is_over:
            self._status = "Failed"
        self._waiting = []
        self._room.set()
        self.ended.set()

    def refuse(self, reason: str) -> None:
        """End the run as failed, in place of the batch that was taken last and is not stored, and of what waits."""
        error = self.failure = RunError(f"the run's events cannot be stored: {reason}", code="events_not_stored").info
        self._number = self._stored
        self._status = "Running"
        self._waiting = []
        self.add(termination_events(self.run_id, error, "Failed", begun=self._stored > 0))
        self.cancel("its events cannot be stored")


class QueuedRun:
    """A run that this process has recorded and not ended yet; its request came in `size` bytes."""

    def __init__(
        self, request: RunRequest, run_id: str, record: Callable[[str, Callable[[str], None]], EventBuffer], size: int
    ) -> None:
        self.request = request
        self.size = size
        self.run: Run | None = None
        self.cancelled = ""
        self.recording = record(run_id, self.cancel)

    def cancel(self, reason: str) -> None:
        """End the run early, or see to it that it ends as soon as it begins."""
        self.cancelled = self.cancelled or reason
        if self.run is not None:
            self.run.cancel(reason)

    def end(self, error: ErrorInfo, status: RunStatus) -> None:
        """End a run that is not begun."""
        self.recording.add(termination_events(self.recording.run_id, error, status))


class RecordedStream:
    """A recorded run with a reader in this process, who leaves as the reader of any run does: that cancels it."""

    def __init__(self, run: Run) -> None:
        self.id = run.id
        self.session_id = run.session_id
        self.events = EventChannel(_READER_LIMIT)
        self._run = run

    def leave(self) -> None:
        """Let the reader go."""
        self.events.close()
        self._run.cancel("the client left")

    def cancel(self, reason: str) -> None:
        """End the run early."""
        self._run.cancel(reason)


def termination_events(run_id: str, error: ErrorInfo, status: RunStatus, *, begun: bool = False) -> list[Event]:
    """Return the events that end a run which is not performed any more, or never was."""
    end = RunTerminated(run_id, status, "", error)
    return [end] if begun else [RunStarted(run_id, ""), end]
