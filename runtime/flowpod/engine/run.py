"""One execution of a flow: a task that runs the plan and reports it in events."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from opentelemetry.trace import Span

from flowpod.content.image_fetch import with_fetched_images
from flowpod.engine.events import EventChannel, RunStarted, RunStatus, RunTerminated
from flowpod.engine.failures import Failure, Failures
from flowpod.engine.node import Level, NodeRunner
from flowpod.engine.outputs import Outputs
from flowpod.engine.package import Package
from flowpod.engine.request import RunRequest
from flowpod.engine.variables import Variables
from flowpod.errors import ErrorInfo, FlowpodError, InvalidRequest, NodeError, RunError
from flowpod.flow.model import TOKENS
from flowpod.flow.references import Scope
from flowpod.jsonable import as_text
from flowpod.models.base import Usage
from flowpod.settings import Settings
from flowpod.storage.sessions.service import HistoryService
from flowpod.storage.sessions.turns import Turn
from flowpod.telemetry.redaction import RunSecrets, redact_value
from flowpod.telemetry.tracing import Tracing

logger = logging.getLogger(__name__)

_CHANNEL_LIMIT = 256


@dataclass(frozen=True, slots=True)
class TurnTarget:
    """Where a run's turn is stored; `history` is None when it is not stored."""

    session_id: str
    assigned: bool
    history: HistoryService | None


class Run:
    """One run. Its one reader takes `events` and calls `leave` when done.

    `cancel` and the time limit cancel the nodes, and the run then ends in the usual way, with its turn stored and
    RunTerminated as its last event.
    """

    def __init__(
        self,
        package: Package,
        request: RunRequest,
        scope: Scope,
        filing: TurnTarget,
        tracing: Tracing,
        span: Span,
        settings: Settings,
    ) -> None:
        self.id = str(scope.sys["run_id"])
        self.session_id = filing.session_id
        self.user_id = request.user_id
        self.events = EventChannel(_CHANNEL_LIMIT)
        self._package = package
        self._request = request
        self._filing = filing
        self._tracing = tracing
        self._span = span
        self._trace_id = tracing.trace_id(span)
        self._settings = settings
        self._scope = scope
        self._outputs = Outputs(package.flow, package.wiring, self.events, self.id, settings.max_output_chars)
        self._variables = Variables(package.flow.variables)
        self._failures = Failures(package.flow.folder, tracing.content, settings.error_detail)
        self._runner = NodeRunner(
            package,
            self._outputs,
            self.events,
            tracing,
            self._variables,
            self.id,
            request,
            self._failures,
            settings.max_output_chars,
        )
        self._status: RunStatus | None = None
        self._failure: Failure | None = None
        self._started_at = datetime.now(UTC)
        self._started = time.monotonic()  # a duration by the wall clock is wrong when the clock is set
        self._performing = False
        self._task: asyncio.Task[None] | None = None

    @property
    def _seconds(self) -> float:
        """The seconds since the run's start."""
        return time.monotonic() - self._started

    @property
    def _now(self) -> datetime:
        """The time, by the clock as it was at the run's start."""
        return self._started_at + timedelta(seconds=self._seconds)

    def start(self, when_done: Callable[["Run"], None]) -> None:
        """Start the run; `when_done` is called after its last event."""
        self._tracing.metrics.run_began()
        self._task = asyncio.create_task(self._run_to_end(), name=f"run {self.id}")
        self._task.add_done_callback(lambda _: when_done(self))

    async def finished(self) -> None:
        """Wait for the run's end."""
        assert self._task is not None
        await asyncio.wait({self._task})

    async def with_fetched_images(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return `values` with each image that the request gave as a URL replaced by its content.

        Raises InvalidRequest for an image that cannot be fetched.
        """
        private_urls = self._package.resources.private_urls
        try:
            return await with_fetched_images(values, self._scope.inputs, private_urls=private_urls)
        except NodeError as error:
            raise InvalidRequest(self._failures.reason_of(error), code=error.code) from error

    def leave(self) -> None:
        """Detach the reader. This cancels a run that has not ended."""
        self.events.close()
        self.cancel("the client left")

    def cancel(self, reason: str) -> None:
        """End the run early, as Canceled."""
        self._stop("Canceled", RunError(f"the run was cancelled: {reason}", code="canceled").info)

    def _stop(self, status: RunStatus, error: ErrorInfo) -> None:
        if self._status is None:
            self._status, self._failure = status, Failure.of(error)
            if self._performing:
                assert self._task is not None
                self._task.cancel()

    async def _run_to_end(self) -> None:
        timeout_s = self._settings.run_timeout_s
        timeout = RunError(f"the run took longer than {timeout_s:g} s (FLOWPOD_RUN_TIMEOUT_S)", code="run_timeout").info
        timer = asyncio.get_running_loop().call_later(timeout_s, self._stop, "Failed", timeout)
        self.events.put(RunStarted(self.id, self._trace_id, self._started_at))
        if self._status is None:
            await self._perform()
        timer.cancel()
        self._end(await self._store_turn())

    async def _perform(self) -> None:
        """Run the nodes and set the run's status, unless the run is cancelled or takes too long."""
        self._performing = True
        failure: Failure | None
        try:
            failure = await self._run_nodes()
        except asyncio.CancelledError:
            failure = Failure.of(RunError("the code of the flow cancelled the task of its run", code="canceled").info)
        except FlowpodError as error:  # an output refers to a value that does not exist
            failure = Failure.of(error.info)
        except Exception as error:
            logger.exception("run %s: a bug in Flowpod", self.id)
            failure = Failure.of(_bug(error))
        self._performing = False
        await _take_back_cancellation()
        if self._status is None:
            self._status, self._failure = "Completed" if failure is None else "Failed", failure

    async def _run_nodes(self) -> Failure | None:
        self._outputs.emit_constants(self._scope)
        failure = await self._runner.run(self._package.graph, Level(self._scope, self._span))
        if failure is None:
            self._outputs.emit_late(self._scope)
        return failure

    async def _store_turn(self) -> bool:
        filing = self._filing
        if filing.history is None:
            return False
        assert self._status is not None
        history_input = self._package.flow.chat_history
        inputs = self._package.public_inputs(self._scope.inputs)
        in_time = await filing.history.store_turn(
            Turn(
                session_id=filing.session_id,
                user_id=self._request.user_id,
                assigned=filing.assigned,
                run_id=self.id,
                status=self._status,
                inputs={name: value for name, value in inputs.items() if name != history_input},
                outputs=self._stored_outputs(),
                error=None if self._failure is None else asdict(self._failure.info),
                otel_trace_id=self._trace_id,
                started_at=self._started_at,
                finished_at=self._now,
                variables={**(self._variables.written if self._status == "Completed" else {}), **self._request.marks},
                question=as_text(inputs.get(self._package.flow.chat_input or "")),
            )
        )
        return not in_time

    def _stored_outputs(self) -> dict[str, Any]:
        """Return the outputs as they are stored: as the caller got them, without tokens and secret inputs.

        Other values for plugins stay: they may be what the conversation is about, such as the name of a city.
        """
        tokens = self._request.given.get(TOKENS)
        secrets = RunSecrets.of(*self._package.secret_inputs(self._scope.inputs), tokens, short=False)
        outputs = self._outputs.values
        return redact_value(outputs, secrets) if secrets else outputs

    def _end(self, deferred: bool) -> None:
        assert self._status is not None
        self._end_span()
        models = self._runner.reporter.usage
        total = sum(models.values(), Usage())
        counts = total.counts | {"total_tokens": total.prompt_tokens + total.completion_tokens} if models else {}
        self.events.put(
            RunTerminated(
                self.id,
                self._status,
                self._trace_id,
                None if self._failure is None else self._failure.info,
                counts,
                self._runner.finish_reason,
                "deferred" if deferred else "",
                self._runner.reporter.model_usage,
                self._now,
            )
        )
        seconds = self._seconds
        self._tracing.metrics.run_ended(self._status, self._request.protocol, seconds)
        cause = f": {self._failure.text}" if self._failure else ""
        logger.info("run %s %s in %.3f s%s", self.id, self._status, seconds, cause)

    def _end_span(self) -> None:
        tracing, span = self._tracing, self._span
        tracing.record(span, "input", self._package.public_inputs(self._scope.inputs))
        tracing.record(span, "output", self._outputs.values)
        if self._failure is not None:
            tracing.fail(span, self._failure.text, self._failure.info.code or self._failure.info.type)
        tracing.end_run(span, self._status or "")


async def _take_back_cancellation() -> None:
    """Make the current task one that is not cancelled."""
    task = asyncio.current_task()
    assert task is not None
    if task.cancelling():
        with suppress(asyncio.CancelledError):
            # Raises the cancellation that is not delivered yet: `uncancel` takes that back only since Python 3.13.
            await asyncio.sleep(0)
        while task.uncancel():
            pass


def _bug(error: BaseException) -> ErrorInfo:
    return ErrorInfo(f"internal error: {type(error).__name__}", "internal_error", None, "internal_error")
