"""Starts runs, within the limits of the process, and ends them when the process ends."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, overload

from flowpod.background.queue import CANCEL_REQUESTED, RunQueue
from flowpod.background.queued_run import RecordedStream
from flowpod.background.reader import run_not_found
from flowpod.background.recording import AttachedRecording, BackgroundRecording, Recording
from flowpod.content.files import Files
from flowpod.engine.package import Package
from flowpod.engine.request import RunRequest, flow_inputs, with_files
from flowpod.engine.run import Run, TurnTarget
from flowpod.engine.variables import session_values
from flowpod.errors import InvalidRequest, TooManyRuns, Unavailable
from flowpod.flow.references import Scope
from flowpod.ids import new_uuid
from flowpod.logs import RUN_ID, TRACE_ID
from flowpod.settings import Settings
from flowpod.storage.availability import is_set_within
from flowpod.storage.database import Database
from flowpod.storage.runs.records import RecordedRun
from flowpod.storage.schema import RecordStatus
from flowpod.storage.sessions.reader import StoredSession
from flowpod.storage.sessions.service import HistoryService
from flowpod.telemetry.redaction import RUN_SECRETS, RunSecrets
from flowpod.telemetry.tracing import Tracing

logger = logging.getLogger(__name__)

HISTORY_OFF = "FLOWPOD_HISTORY is off, and its database is where recorded runs are kept"


class FlowService:
    """Serves one flow: turns the requests of every protocol into runs.

    `runs` are the runs that this process executes now, by their ids. `draining`: the process will end soon, and new
    runs are still accepted. `closing`: no new runs are accepted.
    """

    def __init__(
        self,
        name: str,
        package: Package,
        history: HistoryService | None,
        tracing: Tracing,
        settings: Settings,
        files: Files,
        database: Database | None = None,
    ) -> None:
        self.name = name
        self.flow = package.flow
        self.model = package.model or name
        self.streams = package.streams
        self.history = history if package.flow.is_chat else None
        self.tracing = tracing
        self.metrics = tracing.metrics
        self.runs: dict[str, Run] = {}
        self.run_queue: RunQueue | None = None
        if history is not None and database is not None:
            self.run_queue = RunQueue(database, history.availability, self.runs, settings)
        self.draining = False
        self.closing = False
        self._storage = history
        self._package = package
        self._settings = settings
        self._files = files
        self._starting = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def not_ready(self) -> str:
        """Why the service should receive no requests now, or ""."""
        if self.draining or self.closing:
            return "the service is shutting down"
        if self.threads_exhausted_at is not None:
            return "all threads run code that does not return (FLOWPOD_THREADS)"
        if self.history is not None and not self.history.availability.migrated:
            return "the chat history has not been available yet; the log says why"
        return ""

    @property
    def threads_exhausted_at(self) -> float | None:
        """Since when Python nodes, or templates, have no thread left, on the monotonic clock."""
        resources = self._package.resources
        times = (resources.threads.exhausted_at, resources.renderers.exhausted_at)
        return min((time for time in times if time is not None), default=None)

    async def open(self) -> None:
        """Open the history and the run queue; must be called on the event loop that will run the flow."""
        if self._storage is not None:
            await self._storage.open()
        if self.run_queue is not None:
            self.run_queue.open()

    async def close(self) -> None:
        """Close what the runs share, after all have ended."""
        if self._storage is not None:
            await self._storage.close()
        await self._package.close()

    @overload
    async def start(self, request: RunRequest, recording: None = None) -> Run: ...
    @overload
    async def start(self, request: RunRequest, recording: AttachedRecording) -> RecordedStream: ...
    @overload
    async def start(self, request: RunRequest, recording: BackgroundRecording) -> RecordedRun: ...
    async def start(
        self, request: RunRequest, recording: Recording | None = None
    ) -> Run | RecordedStream | RecordedRun:
        """Check a request and start its run; the only way to start one.

        Without a recording the caller reads the run's events. With an AttachedRecording the run is recorded too, and
        the caller reads its events from the returned stream. With a BackgroundRecording the run is recorded and queued,
        and the record is returned: that of an earlier run if the idempotency key belongs to one.

        Raises, before anything is recorded or run: InvalidRequest for its inputs, its idempotency key or its
        continuation; NotFound for another user's session or continuation; TooManyRuns beyond the limits; Unavailable
        when the service is closing or the database that it needs is unavailable.
        """
        if isinstance(recording, BackgroundRecording):
            return await self._submit(request, recording)
        with self._reserved_slot():
            inputs, run_id = await self._checked_inputs(request), new_uuid()
            if recording is None:
                return await self._start_run(request, inputs, run_id)
            await self._claim_session(request)
            queue = self._require_queue()
            request = _continued(request, recording, await queue.record(run_id, request, recording))
            return await queue.execute_attached(run_id, partial(self._start_run, request, inputs, run_id))

    async def _submit(self, request: RunRequest, recording: BackgroundRecording) -> RecordedRun:
        queue, run_id, size = self._require_queue(), new_uuid(), len(recording.content)
        if (known := await queue.find_by_key(request.user_id, recording)) is not None:
            return known
        with queue.reserved_place(size):
            self._require_open()
            inputs = await self._checked_inputs(request)
            await self._claim_session(request)
            recorded = await queue.record(run_id, request, recording)
        if recorded.run_id == run_id:  # otherwise a request with the same key was faster
            request = _continued(request, recording, recorded)
            queue.enqueue(run_id, partial(self._start_run, request, inputs, run_id), size)
        return recorded

    async def _start_run(self, request: RunRequest, inputs: dict[str, Any], run_id: str) -> Run:
        """Read the session's history and start a run, whose inputs are checked.

        Raises, with nothing run: NotFound for another user's session, Unavailable when the service is closing or a
        stored session is unavailable.
        """
        session = await self._read_session(request)
        self._require_open()
        run = self.runs[run_id] = self._create_run(request, inputs, session, run_id)
        self._idle.clear()
        run.start(self._ended)
        return run

    async def cancel_run(self, run_id: str, user_id: str | None) -> RecordStatus | None:
        """Cancel a run on whichever instance executes it; return its status if it has ended before.

        Raises NotFound for a run that does not exist or belongs to another user.
        """
        run = self.runs.get(run_id)
        if run is not None and (user_id is None or run.user_id == user_id):
            run.cancel(CANCEL_REQUESTED)
            return None
        if run is not None or self.run_queue is None:
            raise run_not_found(run_id)
        recorded = await self.run_queue.reader.request_cancel(run_id, user_id)
        self.run_queue.cancel_run(run_id)
        return None if recorded is None or recorded.active else recorded.status

    async def finish(self, grace_s: float) -> None:
        """Accept no new runs, give the others `grace_s` seconds to end, then cancel them and wait for their ends."""
        self.closing = True
        if self.run_queue is not None:
            self.run_queue.stop()
        if self.runs and grace_s:
            await is_set_within(self._idle, grace_s)
        if self.runs:
            logger.warning("cancelling %d runs that did not end within %g s", len(self.runs), grace_s)
            self.cancel_all("the service is shutting down")
            await self._idle.wait()
        if self.run_queue is not None:
            await self.run_queue.close()

    def cancel_all(self, reason: str) -> None:
        """Cancel every run."""
        for run in list(self.runs.values()):
            run.cancel(reason)

    def _ended(self, run: Run) -> None:
        del self.runs[run.id]
        if not self.runs:
            self._idle.set()

    @contextmanager
    def _reserved_slot(self) -> Iterator[None]:
        """Count a run that starts during the block as one of the process's runs."""
        self._require_open()
        if len(self.runs) + self._starting >= self._settings.max_runs:
            raise TooManyRuns(f"{self._settings.max_runs} runs are in progress, which is the limit; try again")
        self._starting += 1
        try:
            yield
        finally:
            self._starting -= 1

    def _require_open(self) -> None:
        if self.closing:
            raise Unavailable("the service is shutting down; try again", code="shutting_down")

    def _require_queue(self) -> RunQueue:
        if self.run_queue is None:
            message = f"background: this service has no background runs: {HISTORY_OFF}"
            raise InvalidRequest(message, param="background", code="no_recorded_runs")
        return self.run_queue

    async def _claim_session(self, request: RunRequest) -> None:
        """Make the session the user's before the run is recorded; its history is read when the run starts."""
        if self.history is not None and request.user_id is not None and not request.assigned:
            await self.history.claim_session(request.session_id, request.user_id)

    async def _checked_inputs(self, request: RunRequest) -> dict[str, Any]:
        inputs = flow_inputs(self.flow, request.inputs, private_urls=self._package.resources.private_urls)
        return await with_files(self.flow, request.inputs, inputs, self._files)

    async def _read_session(self, request: RunRequest) -> StoredSession:
        """Return what is stored of the caller's session, without its turns if the caller sends its own history."""
        if self.history is None or request.assigned:
            return StoredSession()
        sends_history, rules = self._sends_history(request), self.flow.history
        rounds = rules.rounds if request.history_rounds is None else request.history_rounds
        if sends_history or self.flow.chat_history is None:
            rounds = 0
        try:
            return await self.history.read_state(request.session_id, request.user_id, rounds, rules.tokens)
        except Unavailable:
            if sends_history:
                return StoredSession()
            raise

    def _sends_history(self, request: RunRequest) -> bool:
        return self.flow.chat_history is not None and self.flow.chat_history in request.inputs

    def _create_run(self, request: RunRequest, inputs: dict[str, Any], stored: StoredSession, run_id: str) -> Run:
        name = self.flow.chat_history
        if name is not None and not self._sends_history(request) and stored.history:
            inputs[name] = list(stored.history)
        sys: dict[str, Any] = {
            "session_id": request.session_id,
            "user_id": request.user_id or "",
            "run_id": run_id,
            "turn": stored.last_turn + 1,
            "instructions": request.instructions,
            **request.given,
        }
        attributes = {
            "session.id": request.session_id,
            "gen_ai.conversation.id": request.session_id,
            "flowpod.run.id": run_id,
            "flowpod.request.id": request.request_id,
            "flowpod.protocol": request.protocol,
        }
        if request.user_id is not None:
            attributes["user.id"] = request.user_id
        span = self.tracing.start_run(self.name, request.headers, attributes)
        RUN_SECRETS.set(RunSecrets.of(*self._package.secret_inputs(inputs), *request.secrets))
        RUN_ID.set(run_id)
        TRACE_ID.set(self.tracing.trace_id(span))
        history = self.history if request.keep_assigned or not request.assigned else None
        target = TurnTarget(request.session_id, request.assigned or request.unnamed, history)
        session = session_values(self.flow.variables, stored.variables)
        scope = Scope(inputs, sys, session)
        return Run(self._package, request, scope, target, self.tracing, span, self._settings)


def _continued(request: RunRequest, recording: Recording, recorded: RecordedRun) -> RunRequest:
    """Return the request of a recorded run, in the stored session where its continuation belongs."""
    if recording.continuation is None:
        return request
    return replace(request, session_id=recorded.session_id, assigned=False, unnamed=True)
