"""One execution of a flow: a task of its own that performs the plan and tells of it in events."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial

from opentelemetry.trace import Span

from runtime.errors import ErrorInfo, RunError
from runtime.flow.plan import Plan
from runtime.flow.references import Scope
from runtime.history.service import HistoryService
from runtime.history.store import Turn
from runtime.nodes.base import Usage
from runtime.run.events import EventChannel, RunStarted, RunStatus, RunTerminated
from runtime.run.node import Ended, NodeRunner
from runtime.run.outputs import Outputs
from runtime.run.package import Package
from runtime.run.request import RunRequest
from runtime.telemetry.tracing import Tracing, fail, record

logger = logging.getLogger(__name__)

_CHANNEL_LIMIT = 256
_STOP_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Filing:
    """Where a run's turn is stored; `history` is None when it is not."""

    session_id: str
    assigned: bool
    history: HistoryService | None


class Run:
    """One run. Its one reader takes `events`, and calls `leave` when it is done with them.

    Nothing outside cancels the run's task: a run that must end early is told so, and then ends in the usual way, with
    its turn stored and RunTerminated as its last event.
    """

    def __init__(
        self,
        package: Package,
        request: RunRequest,
        scope: Scope,
        filing: Filing,
        tracing: Tracing,
        span: Span,
        timeout_s: float,
        max_output: int,
    ) -> None:
        self.id = str(scope.sys["run_id"])
        self.session_id = filing.session_id
        self.events = EventChannel(_CHANNEL_LIMIT)
        self._package = package
        self._request = request
        self._scope = scope
        self._filing = filing
        self._span = span
        self._trace_id = tracing.trace_id(span)
        self._timeout_s = timeout_s
        self._plan = Plan(package.graph, scope)
        self._outputs = Outputs(package.flow, package.graph, self.events, self.id)
        self._runner = NodeRunner(
            package, scope, self._outputs, self.events, tracing, span, request.streaming, max_output
        )
        self._begun: dict[str, float] = {}
        self._tasks: dict[str, asyncio.Task[Ended]] = {}
        self._done: list[tuple[str, asyncio.Task[Ended]]] = []
        self._wake = asyncio.Event()
        self._status: RunStatus | None = None
        self._error: ErrorInfo | None = None
        self._usage: Usage | None = None
        self._finish_reason = "stop"
        self._started_at = datetime.now(UTC)
        self._task: asyncio.Task[None] | None = None

    def start(self, when_done: Callable[["Run"], None]) -> None:
        """Begin; `when_done` is called after the last event."""
        self._task = asyncio.create_task(self._execute(), name=f"run {self.id}")
        self._task.add_done_callback(lambda _: when_done(self))

    async def finished(self) -> None:
        """Wait for the run's end."""
        assert self._task is not None
        await asyncio.wait({self._task})

    def leave(self) -> None:
        """Let the reader go: before the end this cancels the run, after it nothing happens."""
        self.events.close()
        self.cancel("the client left")

    def cancel(self, reason: str) -> None:
        """End the run early, as Canceled."""
        self._stop("Canceled", RunError(f"the run was cancelled: {reason}", code="canceled").info)

    def _stop(self, status: RunStatus, error: ErrorInfo) -> None:
        if self._status is None:
            self._status, self._error = status, error
            self._wake.set()

    async def _execute(self) -> None:
        message = f"the run took longer than {self._timeout_s:g} s (FLOWPOD_RUN_TIMEOUT_S)"
        late = RunError(message, code="run_timeout").info
        timer = asyncio.get_running_loop().call_later(self._timeout_s, self._stop, "Failed", late)
        self.events.put(RunStarted(self.id, self._trace_id))
        try:
            await self._perform()
        except BaseException as error:
            logger.exception("run %s: a bug in Flowpod", self.id)
            self._stop("Failed", _bug(error))
        await self._cancel_nodes()
        timer.cancel()
        self._end(await self._store_turn())

    async def _perform(self) -> None:
        """Start what is ready and take in what has ended, until there is no more or the run is stopped."""
        self._outputs.put_constant(self._scope)
        self._advance()
        while self._tasks and self._status is None:
            await self._wake.wait()
            self._wake.clear()
            self._take_in()
            if self._status is None:
                self._advance()
        if self._status is None:
            self._status = "Completed"

    def _advance(self) -> None:
        for step in self._plan.ready():
            node = step.node
            if step.action == "start":
                begun = self._begun[node.name] = time.perf_counter()
                self._runner.report(node, "Running")
                task = asyncio.create_task(self._runner.run(node, begun))
                self._tasks[node.name] = task
                task.add_done_callback(partial(self._node_done, node.name))
            elif step.action == "bypass":
                self._runner.report(node, "Bypassed")
                self._outputs.put_bypassed(node.name)
            else:
                error = ErrorInfo(f"node {node.name!r}: {step.reason}", "node_error", node.name, "invalid_reference")
                self._runner.report(node, "Failed", error=error)
                self._stop("Failed", error)
                return

    def _node_done(self, name: str, task: "asyncio.Task[Ended]") -> None:
        self._done.append((name, task))
        self._wake.set()

    def _take_in(self) -> None:
        done, self._done = self._done, []
        for name, task in done:
            end = self._ended(name, task)
            del self._tasks[name]
            if end.error is not None:
                self._stop("Failed", end.error)
                continue
            if end.usage is not None:
                self._usage = end.usage if self._usage is None else self._usage + end.usage
            if end.finish_reason and self._package.flow.chat_output in self._package.graph.feeds[name]:
                self._finish_reason = end.finish_reason
            self._plan.complete(name, end.value)

    def _ended(self, name: str, task: "asyncio.Task[Ended]") -> Ended:
        if not task.cancelled():
            return task.result()
        node = self._package.flow.nodes[name]  # only its own code can have cancelled it before the run is stopped
        error = ErrorInfo(f"node {name!r} failed: it cancelled its own task", "node_error", name, "node_failed")
        self._runner.report(node, "Failed", begun=self._begun[name], error=error)
        return Ended(node, error=error)

    async def _cancel_nodes(self) -> None:
        """Cancel the nodes that still run and say so of each; a thread or a task that will not end is left behind."""
        tasks = {name: task for name, task in self._tasks.items() if not task.done()}
        if not tasks:
            return
        for task in tasks.values():
            task.cancel()
        await asyncio.wait(tasks.values(), timeout=_STOP_WAIT_S)
        for name, task in tasks.items():
            if not task.done():
                logger.warning("run %s: node %r does not end when cancelled; it was left behind", self.id, name)
            if not task.done() or task.cancelled():
                self._runner.report(self._package.flow.nodes[name], "Canceled", begun=self._begun[name])

    async def _store_turn(self) -> bool:
        """Store the run as a turn of its session; return whether that is still to be done."""
        filing = self._filing
        if filing.history is None:
            return False
        assert self._status is not None
        history_input = self._package.flow.chat_history
        inputs = self._package.public_inputs(self._scope.inputs)
        in_time = await filing.history.write(
            Turn(
                session_id=filing.session_id,
                user_id=self._request.user_id,
                assigned=filing.assigned,
                run_id=self.id,
                status=self._status,
                inputs={name: value for name, value in inputs.items() if name != history_input},
                outputs=self._outputs.values,
                error=None if self._error is None else asdict(self._error),
                otel_trace_id=self._trace_id,
                started_at=self._started_at,
                finished_at=datetime.now(UTC),
            )
        )
        return not in_time

    def _end(self, deferred: bool) -> None:
        assert self._status is not None
        record(self._span, "input", self._package.public_inputs(self._scope.inputs))
        record(self._span, "output", self._outputs.values)
        if self._error is not None:
            fail(self._span, self._error.message, self._error.code or self._error.type)
        self._span.end()
        usage = self._usage
        counts = (
            {} if usage is None else asdict(usage) | {"total_tokens": usage.prompt_tokens + usage.completion_tokens}
        )
        self.events.put(
            RunTerminated(
                self.id,
                self._status,
                self._trace_id,
                self._error,
                counts,
                self._finish_reason,
                "deferred" if deferred else "",
            )
        )
        seconds = (datetime.now(UTC) - self._started_at).total_seconds()
        cause = f": {self._error.message}" if self._error else ""
        logger.info("run %s %s in %.3f s%s", self.id, self._status, seconds, cause)


def _bug(error: BaseException) -> ErrorInfo:
    return ErrorInfo(f"internal error: {type(error).__name__}", "internal_error", None, "internal_error")
