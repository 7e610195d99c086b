"""The queue of background runs, and how recorded runs are executed: their events are stored as they come."""

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from flowpod.background.event_buffer import EventBuffer
from flowpod.background.journal import Journal
from flowpod.background.queued_run import QueuedRun, RecordedStream, StartRun
from flowpod.background.reader import RunReader
from flowpod.background.recording import BackgroundRecording, Recording
from flowpod.engine.events import Event, EventChannel, RunTerminated
from flowpod.engine.request import RunRequest
from flowpod.engine.run import Run
from flowpod.errors import FlowpodError, InvalidRequest, RunError, TooManyRuns
from flowpod.settings import Settings
from flowpod.storage.availability import FAILURES, Availability, is_set_within, reason_of
from flowpod.storage.database import Database
from flowpod.storage.runs.cancel_requests import CancelRequests
from flowpod.storage.runs.records import NewRun, RecordedRun
from flowpod.storage.runs.store import RunStore

logger = logging.getLogger(__name__)

CANCEL_REQUESTED = "a client requested it"
_SHUTDOWN = "the service is shutting down, and the run had not started"
_MAX_WAITING_BYTES = 256 * 1024 * 1024  # of the waiting requests
_CANCEL_POLL_S = 1.0
_CLOSE_TIMEOUT_S = 5.0
_CLEANUP_RETRY_S = 5.0


class RunQueue:
    """Records runs, and executes them now or when their turn comes; `reader` reads the runs of all instances.

    `runs` are the runs that this process executes now, recorded or not, by their ids.
    """

    def __init__(
        self, database: Database, availability: Availability, runs: Mapping[str, Run], settings: Settings
    ) -> None:
        self._store = RunStore(database)
        self._journal = Journal(self._store, availability, settings.lease_s)
        self.reader = RunReader(database, availability, settings.run_days)
        self._cancel_requests = CancelRequests(database)
        self._availability = availability
        self._runs = runs
        self._settings = settings
        self._recorded: dict[str, QueuedRun] = {}
        self._waiting: deque[QueuedRun] = deque()
        self._executing = 0
        self._reserved_sizes: list[int] = []
        self._stopped = False
        self._closing = asyncio.Event()
        self._executions: set[asyncio.Task[None]] = set()
        self._upkeep: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Start to write events, to poll for cancel requests and to delete expired runs."""
        self._journal.open()
        self._upkeep = {asyncio.create_task(self._poll_cancel_requests()), asyncio.create_task(self._delete_expired())}

    def stop(self) -> None:
        """Cancel the waiting runs and start no more. Runs that execute go on, and can still be cancelled."""
        self._stopped = True
        while self._waiting:
            self._cancel_unstarted(self._waiting.popleft(), _SHUTDOWN)

    async def close(self) -> None:
        """Write the last events, after all runs have ended, and disconnect the followers."""
        self._closing.set()
        if tasks := self._executions | self._upkeep:
            await asyncio.wait(tasks, timeout=_CLOSE_TIMEOUT_S)
        await self._journal.close()
        await self.reader.close()
        for task in (*self._upkeep, *self._executions):
            task.cancel()
        await asyncio.gather(*self._upkeep, *self._executions, return_exceptions=True)
        self._upkeep = set()

    async def find_by_key(self, user_id: str | None, recording: BackgroundRecording) -> RecordedRun | None:
        """Return the run that the user's idempotency key started, or None.

        Raises InvalidRequest for a key of another request, Unavailable when the database is unavailable.
        """
        key = recording.key_digest(user_id)
        if key is None:
            return None
        with self._availability.required():
            run = await self._store.find_run_by_key(key)
        return None if run is None else _with_same_content(run, recording)

    @contextmanager
    def reserved_place(self, size: int) -> Iterator[None]:
        """Reserve a place for a request of `size` bytes during the block; raises TooManyRuns when the queue is full."""
        sizes = [size, *self._reserved_sizes, *(queued.size for queued in self._waiting)]
        if len(sizes) > 1 and sum(sizes) > _MAX_WAITING_BYTES:
            megabytes = _MAX_WAITING_BYTES // 1024**2
            raise TooManyRuns(f"the waiting background runs have reached the limit of {megabytes} MB; try again")
        max_runs, max_waiting = self._settings.max_background_runs, self._settings.background_queue
        if self._executing + len(sizes) > max_runs + max_waiting:
            text = f"{max_runs} background runs at once and {max_waiting} waiting ones are the limit; try again"
            raise TooManyRuns(text)
        self._reserved_sizes.append(size)
        try:
            yield
        finally:
            self._reserved_sizes.remove(size)

    async def record(self, run_id: str, request: RunRequest, recording: Recording) -> RecordedRun:
        """Store a new run, in the session that its continuation belongs to.

        Returns another run when a request with the same idempotency key was recorded first. Raises NotFound or
        InvalidRequest for a continuation of a run that cannot be continued, InvalidRequest for a key of another
        request, Unavailable when the database is unavailable.
        """
        key, fingerprint = None, ""
        if isinstance(recording, BackgroundRecording):
            key, fingerprint = recording.key_digest(request.user_id), recording.fingerprint
        new = NewRun(
            run_id, request.session_id, request.user_id, recording.details, key, fingerprint, recording.continuation
        )
        with self._availability.required():
            run = await self._store.add_run(new, self._journal.owner, self._journal.lease_until)
        if run.run_id != run_id and isinstance(recording, BackgroundRecording):
            return _with_same_content(run, recording)
        return run

    async def execute_attached(self, run_id: str, start_run: StartRun) -> RecordedStream:
        """Execute a recorded run for a reader, who gets its end once that is stored. Raises what `start_run` raises."""
        queued = self._register(run_id, start_run)
        run = await self._start(queued)
        stream = RecordedStream(run)
        self._create_task(self._store_events(queued, run, stream.events))
        return stream

    def enqueue(self, run_id: str, start_run: StartRun, size: int) -> None:
        """Execute a recorded run in the background, now or when its turn comes."""
        queued = self._register(run_id, start_run, size)
        if self._stopped:
            self._cancel_unstarted(queued, _SHUTDOWN)
        else:
            self._waiting.append(queued)
            self._start_waiting()

    def cancel_run(self, run_id: str) -> None:
        """Cancel a run that this process has recorded; do nothing about any other."""
        queued = self._recorded.get(run_id)
        if queued is not None and queued in self._waiting:
            self._waiting.remove(queued)
            self._cancel_unstarted(queued, CANCEL_REQUESTED)
        elif queued is not None:
            queued.cancel(CANCEL_REQUESTED)

    def _register(self, run_id: str, start_run: StartRun, size: int = 0) -> QueuedRun:
        queued = self._recorded[run_id] = QueuedRun(run_id, start_run, self._journal.open_buffer, size)
        return queued

    def _start_waiting(self) -> None:
        while self._waiting and self._executing < self._settings.max_background_runs:
            self._executing += 1
            self._create_task(self._execute_queued(self._waiting.popleft()))

    def _create_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._executions.add(task)
        task.add_done_callback(self._executions.discard)

    async def _execute_queued(self, queued: QueuedRun) -> None:
        try:
            await self._store_events(queued, await self._start(queued))
        except FlowpodError:
            pass  # it is stored as the run's end
        except Exception:
            logger.exception("run %s: a bug in Flowpod", queued.id)
        finally:
            self._executing -= 1
            self._start_waiting()

    async def _start(self, queued: QueuedRun) -> Run:
        try:
            return await queued.start_execution()
        except FlowpodError as error:
            self._end_unstarted(queued, error)
            raise
        except BaseException:  # a cancelled request too
            self._end_unstarted(queued, RunError("internal error: the run could not be started", code="internal_error"))
            raise

    def _end_unstarted(self, queued: QueuedRun, error: FlowpodError) -> None:
        queued.end_unstarted(error.info, "Canceled" if self._stopped else "Failed")
        del self._recorded[queued.id]

    def _cancel_unstarted(self, queued: QueuedRun, reason: str) -> None:
        queued.end_unstarted(RunError(f"the run was cancelled: {reason}", code="canceled").info, "Canceled")
        del self._recorded[queued.id]

    async def _store_events(self, queued: QueuedRun, run: Run, reader: EventChannel | None = None) -> None:
        async for batch in run.events.batches():
            queued.buffer.add_events(batch)
            if reader is not None:
                await self._pass_on(batch, queued.buffer, reader)
            await queued.buffer.room()
        del self._recorded[queued.id]

    async def _pass_on(self, batch: Sequence[Event], buffer: EventBuffer, reader: EventChannel) -> None:
        for event in batch:
            if isinstance(event, RunTerminated):
                await is_set_within(buffer.closed, self._settings.history_write_timeout_s)
                if buffer.failure is not None:
                    event = replace(event, status="Failed", error=buffer.failure)
            reader.put(event)
            await reader.room()

    async def _poll_cancel_requests(self) -> None:
        while not await is_set_within(self._closing, _CANCEL_POLL_S):
            if self._availability.failure:
                continue
            try:
                if self._recorded:
                    for run_id in await self._store.list_cancel_requested(self._journal.owner):
                        self.cancel_run(run_id)
                if self._runs:
                    await self._accept_cancel_requests()
            except FAILURES as error:
                self._availability.mark_unavailable(error)
            except Exception:
                logger.exception("a bug in Flowpod while polling for cancel requests")

    async def _accept_cancel_requests(self) -> None:
        accepted = []
        for request in await self._cancel_requests.pending_cancel_requests():
            run = self._runs.get(request.run_id)
            if run is not None and request.user_id in (None, run.user_id):
                run.cancel(CANCEL_REQUESTED)
                accepted.append(request.id)
        if accepted:
            await self._cancel_requests.accept_cancel_requests(accepted)

    async def _delete_expired(self) -> None:
        pause_s = _CLEANUP_RETRY_S
        while not await is_set_within(self._closing, pause_s):
            pause_s = _CLEANUP_RETRY_S
            if self._availability.failure:
                continue
            try:
                pause_s = await self.reader.delete_expired()
            except FAILURES as error:
                logger.warning("deleting expired runs failed, trying again: %s", reason_of(error))
            except Exception:
                logger.exception("a bug in Flowpod while deleting expired runs")


def _with_same_content(run: RecordedRun, recording: BackgroundRecording) -> RecordedRun:
    if run.fingerprint != recording.fingerprint:
        message = "this Idempotency-Key was used with another request; send a new key with a new request"
        raise InvalidRequest(message, param="Idempotency-Key", code="idempotency_key_reused")
    return run
