"""The events of one run that are not stored yet."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime

from orjson import Fragment

from flowpod.background.event_json import event_to_json, merge_chunks
from flowpod.engine.events import Event, RunStarted, RunStatus, RunTerminated
from flowpod.errors import ErrorInfo, RunError
from flowpod.jsonable import dumps
from flowpod.storage.runs.records import EventBatch
from flowpod.storage.schema import ACTIVE, RecordStatus

_MAX_UNWRITTEN = 2000
_MAX_BATCH_BYTES = 512 * 1024  # of several events: every database accepts statements of some megabytes


class EventBuffer:
    """Holds a run's events until the journal has stored them.

    `cancel` ends the run when its events cannot be stored; `flush` is set to have the journal write at once.
    """

    def __init__(self, run_id: str, cancel: Callable[[str], None], flush: asyncio.Event) -> None:
        self.run_id = run_id
        self.closed = asyncio.Event()
        """Set when nothing more will be written: the run's end is stored, or another instance owns the run."""
        self.failure: ErrorInfo | None = None
        """Why the events could not be stored. If set, the run counts as failed, even if its last event disagrees."""
        self._cancel = cancel
        self._flush = flush
        self._unwritten: list[Event] = []
        self._last_number = 0
        self._stored_number = 0
        self._status: RecordStatus = "Queued"
        self._started_at: datetime | None = None
        self._finished_at: datetime | None = None
        self._room = asyncio.Event()
        self._room.set()

    def add_events(self, events: Sequence[Event]) -> None:
        """Add events; those after the run's last one are ignored."""
        for event in events:
            if self._status not in ACTIVE:
                return
            self._unwritten.append(event)
            if isinstance(event, RunStarted):
                self._status, self._started_at = "Running", event.timestamp
            elif isinstance(event, RunTerminated):
                self._status, self._finished_at = event.status, event.timestamp
                self._flush.set()
        if len(self._unwritten) >= _MAX_UNWRITTEN:
            self._room.clear()
            self._flush.set()

    async def room(self) -> None:
        """Wait until the number of unwritten events is below the limit."""
        await self._room.wait()

    @property
    def has_unwritten(self) -> bool:
        """Whether events have still to be written."""
        return bool(self._unwritten)

    def next_batch(self) -> EventBatch:
        """Return the next events to write, numbered; the batch before counts as stored."""
        self._stored_number = self._last_number
        events, texts, size = merge_chunks(self._unwritten), list[Fragment](), 0
        for event in events:
            text = dumps(event_to_json(event))
            size += len(text)
            if texts and size > _MAX_BATCH_BYTES:
                break
            texts.append(Fragment(text))
        self._last_number += len(texts)
        self._unwritten = events[len(texts) :]
        if self._unwritten:
            self._flush.set()
            return EventBatch(self.run_id, texts, self._last_number, "Running", self._started_at, None)
        self._room.set()
        return EventBatch(self.run_id, texts, self._last_number, self._status, self._started_at, self._finished_at)

    def mark_lost(self, failure: ErrorInfo) -> None:
        """Cancel the run, whose record is deleted or belongs to another instance."""
        self.failure = failure
        self._cancel(failure.message)
        self.discard_events()

    def discard_events(self) -> None:
        """Drop the unwritten events and ignore those to come."""
        if self._status in ACTIVE:
            self._status = "Failed"
        self._unwritten = []
        self._room.set()
        self.closed.set()

    def fail_run(self) -> None:
        """Fail the run: its failure replaces the last batch, which could not be stored, and the unwritten events."""
        error = self.failure = RunError(
            "the run's events cannot be stored; the log has the reason", code="events_not_stored"
        ).info
        self._last_number = self._stored_number
        self._status = "Running"
        self._unwritten = []
        self.add_events(termination_events(self.run_id, error, "Failed", started=self._stored_number > 0))
        self._cancel("its events cannot be stored")


def termination_events(run_id: str, error: ErrorInfo, status: RunStatus, *, started: bool = False) -> list[Event]:
    """Return the events that end a run which no instance executes; `started`: its RunStarted is stored already."""
    end = RunTerminated(run_id, status, "", error)
    return [end] if started else [RunStarted(run_id, ""), end]
