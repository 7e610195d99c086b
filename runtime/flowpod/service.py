"""Starts runs, within the process's limits, and ends them when the process does."""

import asyncio
import logging
import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from flowpod.background.queue import ASKED, QueueLimits, RunQueue
from flowpod.background.reader import run_not_found
from flowpod.content.files import Files
from flowpod.engine.package import Package
from flowpod.engine.request import RunRequest, flow_inputs, with_files
from flowpod.engine.run import Limits, Run, TurnTarget
from flowpod.engine.variables import session_values, typed_values
from flowpod.errors import TooManyRuns, Unavailable
from flowpod.flow.references import Scope
from flowpod.logs import RUN_ID, TRACE_ID
from flowpod.storage.database import Database
from flowpod.storage.schema import RecordStatus
from flowpod.storage.sessions.service import HistoryService, SessionState
from flowpod.telemetry.content import RUN_SECRETS, RunSecrets
from flowpod.telemetry.tracing import Tracing

logger = logging.getLogger(__name__)


class FlowService:
    """Serves one flow: every protocol's requests become runs here.

    `draining`: the process will end soon and new work is still taken. `closing`: no new work is taken.
    """

    def __init__(
        self,
        name: str,
        package: Package,
        history: HistoryService | None,
        tracing: Tracing,
        limits: Limits,
        files: Files,
        database: Database | None = None,
        queue_limits: QueueLimits | None = None,
    ) -> None:
        self.name = name
        self.flow = package.flow
        self.model = package.model or name
        self.streams = package.streams
        self.history = history if package.flow.is_chat else None
        self.metrics = tracing.metrics
        self.background: RunQueue | None = None
        if history is not None and database is not None:
            self.background = RunQueue(database, history.availability, self, queue_limits or QueueLimits())
        self.draining = False
        self.closing = False
        self._storage = history
        self._package = package
        self._tracing = tracing
        self._limits = limits
        self._files = files
        self._runs: set[Run] = set()
        self._starting = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def not_ready(self) -> str:
        """Why the service should get no requests now, or ""."""
        if self.draining or self.closing:
            return "the service is shutting down"
        if self.history is not None and not self.history.availability.migrated:
            return "the chat history has not been available yet; the log says why"
        return ""

    @property
    def history_lost(self) -> bool:
        """Whether there is a chat history, and it cannot be had now."""
        return self.history is not None and bool(self.history.availability.failure)

    async def open(self) -> None:
        """Reach for the history; must be called on the event loop that will run the flow."""
        if self._storage is not None:
            await self._storage.open()
        if self.background is not None:
            self.background.open()

    async def close(self) -> None:
        """Close what runs share, once there are none."""
        if self._storage is not None:
            await self._storage.close()
        await self._package.close()

    async def check(self, request: RunRequest, *, limited: bool = True) -> None:
        """Raise what `start` would, with nothing run."""
        self._check_room(limited)
        await self._inputs(request)
        await self._conversation(request)

    async def start(self, request: RunRequest, *, run_id: str | None = None, limited: bool = True) -> Run:
        """Check a request and start its run; `run_id` is its id where it has one already.

        Raises, with nothing run: InvalidRequest for its inputs, NotFound for somebody else's session, TooManyRuns
        beyond the limit if the run is `limited` by it, Unavailable when the service is closing or a stored session is
        unavailable.
        """
        self._check_room(limited)
        self._starting += 1
        try:
            inputs = await self._inputs(request)
            conversation = await self._conversation(request)
        finally:
            self._starting -= 1
        if self.closing:  # it began to while the history was read
            raise Unavailable("the service is shutting down; try again", code="shutting_down")
        run = self._run(request, inputs, conversation, run_id or str(uuid.uuid4()))
        self._runs.add(run)
        self._idle.clear()
        run.start(self._ended)
        return run

    def running(self, run_id: str) -> Run | None:
        """Return a run of this process that is performed now."""
        return next((run for run in self._runs if run.id == run_id), None)

    @property
    def busy(self) -> bool:
        """Whether this process performs runs."""
        return bool(self._runs)

    async def cancel(self, run_id: str, user: str | None) -> RecordStatus | None:
        """Cancel a run, whichever instance performs it; return how it has ended if it has, and so stays as it is.

        Raises NotFound for a run that is not there, or not the user's.
        """
        run = self.running(run_id)
        if run is not None and (user is None or run.user_id == user):
            run.cancel(ASKED)
            return None
        if run is not None or self.background is None:
            raise run_not_found(run_id)
        recorded = await self.background.reader.request_cancel(run_id, user)
        self.background.cancel(run_id)
        return None if recorded is None or recorded.active else recorded.status

    async def finish(self, grace_s: float) -> None:
        """Take no new work, give the runs `grace_s` seconds to end, then cancel them and wait for their last event."""
        self.closing = True
        if self.background is not None:
            self.background.drop_queue()
        if self._runs and grace_s:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), grace_s)
        if self._runs:
            logger.warning("cancelling %d runs that did not end within %g s", len(self._runs), grace_s)
            self.cancel_all("the service is shutting down")
            await self._idle.wait()
        if self.background is not None:
            await self.background.close()

    def note(self, name: str, headers: Mapping[str, str], facts: Mapping[str, str | bool | int | float]) -> None:
        """Put `facts` on a span called `name`, in the trace that the caller's `headers` continue."""
        self._tracing.note(name, headers, facts)

    def session_variables(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Return a session's variables, of which `stored` are those that were ever written."""
        return session_values(self.flow.variables, stored)

    def typed_variables(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return a caller's values for session variables; raises InvalidRequest that names one which is wrong."""
        return typed_values(self.flow.variables, given)

    def cancel_all(self, reason: str) -> None:
        """Cancel every run."""
        for run in list(self._runs):
            run.cancel(reason)

    def _ended(self, run: Run) -> None:
        self._runs.discard(run)
        if not self._runs:
            self._idle.set()

    def _check_room(self, limited: bool) -> None:
        if self.closing:
            raise Unavailable("the service is shutting down; try again", code="shutting_down")
        if limited and len(self._runs) + self._starting >= self._limits.max_runs:
            raise TooManyRuns(f"{self._limits.max_runs} runs are in progress, which is the limit; try again")

    async def _inputs(self, request: RunRequest) -> dict[str, Any]:
        inputs = flow_inputs(self.flow, request.inputs, private_urls=self._package.resources.private_urls)
        return await with_files(self.flow, request.inputs, inputs, self._files)

    async def _conversation(self, request: RunRequest) -> SessionState:
        """Return what is stored of the caller's session, less its turns where the caller brings them."""
        if self.history is None or request.assigned:
            return SessionState()
        brings_own, rules = self._history_given(request), self.flow.history
        rounds = rules.rounds if request.history_rounds is None else request.history_rounds
        if brings_own or self.flow.chat_history is None:
            rounds = 0
        try:
            return await self.history.read_state(request.session_id, request.user_id, rounds, rules.tokens)
        except Unavailable:
            if brings_own:
                return SessionState()
            raise

    def _history_given(self, request: RunRequest) -> bool:
        return self.flow.chat_history is not None and self.flow.chat_history in request.inputs

    def _run(self, request: RunRequest, inputs: dict[str, Any], conversation: SessionState, run_id: str) -> Run:
        name = self.flow.chat_history
        if name is not None and not self._history_given(request) and conversation.history:
            inputs[name] = list(conversation.history)
        sys: dict[str, Any] = {
            "session_id": request.session_id,
            "user_id": request.user_id or "",
            "run_id": run_id,
            "turn": conversation.last_turn + 1,
            "instructions": request.instructions,
            **request.given,
        }
        facts = {
            "session.id": request.session_id,
            "gen_ai.conversation.id": request.session_id,
            "flowpod.run.id": run_id,
            "flowpod.request.id": request.request_id,
            "flowpod.protocol": request.protocol,
        }
        if request.user_id is not None:
            facts["user.id"] = request.user_id
        span = self._tracing.start_run(self.name, request.headers, facts)
        RUN_SECRETS.set(RunSecrets.of(*self._package.secret_inputs(inputs), *request.secrets))
        RUN_ID.set(run_id)
        TRACE_ID.set(self._tracing.trace_id(span))
        kept = self.history if request.keep_assigned or not request.assigned else None
        filing = TurnTarget(request.session_id, request.assigned or request.unnamed, kept)
        session = session_values(self.flow.variables, conversation.variables)
        scope = Scope(inputs, sys, session)
        return Run(self._package, request, scope, filing, self._tracing, span, self._limits)
