"""Runs the nodes of a run: resolves inputs, calls the code, forwards the stream, and reports the end."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from opentelemetry.trace import Span

from flowpod.engine.events import EventChannel, NodeRun
from flowpod.engine.failures import Failure, Failures
from flowpod.engine.node_reporter import NodeReporter
from flowpod.engine.outputs import Outputs
from flowpod.engine.package import Package
from flowpod.engine.request import RunRequest
from flowpod.engine.scheduler import NodeEnd, Scheduler
from flowpod.engine.stream_tee import StreamTee
from flowpod.engine.variables import Variables
from flowpod.errors import FlowpodError, NodeError, text_of
from flowpod.flow.model import Node, Reference, ValueType
from flowpod.flow.plan import Graph
from flowpod.flow.references import Scope
from flowpod.jsonable import is_longer_than
from flowpod.logs import prints_of
from flowpod.models.base import Chunk, Result
from flowpod.nodes import KINDS
from flowpod.nodes.kind import Context
from flowpod.telemetry.tracing import Tracing

logger = logging.getLogger(__name__)

_CHUNKS_PER_YIELD = 64
_NODES_AT_ONCE = 16
_INLINE_NODES_PER_YIELD = 16


@dataclass(frozen=True, slots=True)
class Level:
    """Where nodes run: the flow itself, or one round of a batch or a loop, whose path is the `prefix`."""

    scope: Scope
    span: Span
    prefix: str = ""
    loop_types: dict[str, ValueType] = field(default_factory=dict)


@dataclass(slots=True)
class _Call:
    """A node that runs. `sent`: a chunk has gone out, so the node can be neither retried nor replaced by a default."""

    level: Level
    node: Node
    span: Span
    run: NodeRun
    sent: bool = False
    streamed: bool = False

    @property
    def path(self) -> str:
        return self.run.node


class NodeRunner:
    """Runs the nodes of one run, 16 at a time."""

    def __init__(
        self,
        package: Package,
        outputs: Outputs,
        events: EventChannel,
        tracing: Tracing,
        variables: Variables,
        run_id: str,
        request: RunRequest,
        failures: Failures,
        max_output: int,
    ) -> None:
        self._package = package
        self._outputs = outputs
        self._events = events
        self._tracing = tracing
        self._variables = variables
        self._run_id = run_id
        self._request = request
        self._failures = failures
        self._max_output = max_output
        self._slots = asyncio.Semaphore(_NODES_AT_ONCE)
        self._inline_nodes = 0
        self._tees = {name: StreamTee() for name in package.wiring.teed}
        self._chat_sources = package.wiring.sources_of(package.flow, package.flow.chat_output or "")
        self.reporter = NodeReporter(run_id, events, tracing.metrics)
        self.finish_reason = "stop"

    async def run(self, graph: Graph, level: Level) -> Failure | None:
        """Run the nodes of one list; return the failure of the one that failed."""
        run_node, run_inline = partial(self._run_node, level), partial(self._run_inline, level)
        report, skipped = partial(self.reporter.report, level.prefix), partial(self._skip, level)
        return await Scheduler(graph, level.scope, level.prefix, run_node, run_inline, report, skipped).run()

    def _skip(self, level: Level, node: Node) -> None:
        if node.name in self._tees:
            self._tees[node.name].end(None)
        if not level.prefix:
            self._outputs.skip(node.name, level.scope)

    async def _run_inline(self, level: Level, node: Node) -> NodeEnd:
        """Run a node in the current task. Nodes that never wait would block all other runs, so some yield first."""
        self._inline_nodes += 1
        if self._inline_nodes % _INLINE_NODES_PER_YIELD == 0:
            await asyncio.sleep(0)
        return await self._run_node(level, node)

    async def _run_node(self, level: Level, node: Node) -> NodeEnd:
        """Run a node to its end. Failures are returned as data; only the cancellation of the task is raised."""
        waits = self._package.nodes[node.name].waits_for_nodes
        async with nullcontext() if waits else self._slots:
            self.reporter.report(level.prefix, node, "Running")
            path = level.prefix + node.name
            with (
                prints_of(path),
                self._tracing.node(level.span, node.name, node.type, path, KINDS[node.type].span_kind) as span,
            ):
                call = _Call(level, node, span, NodeRun(path))
                try:
                    return await self._complete(call, await self._attempts(call))
                except asyncio.CancelledError as error:
                    task = asyncio.current_task()
                    if task is None or not task.cancelling():
                        return await self._fail(call, error)
                    self._tracing.fail(span, "the run ended before the node", "canceled")
                    raise
                except BaseException as error:  # noqa: BLE001 - a node's code may raise anything, SystemExit too
                    return await self._fail(call, error)

    async def _attempts(self, call: _Call) -> Result:
        retry = call.node.retry
        attempt = 0
        while True:
            try:
                return await self._attempt(call)
            except asyncio.CancelledError:
                raise
            except BaseException as error:
                if retry is None or attempt >= retry.max or call.sent:
                    raise
                attempt += 1
                call.span.add_event("retry", {"flowpod.attempt": attempt, "exception.message": text_of(error)})
            await asyncio.sleep(retry.interval_s)

    async def _attempt(self, call: _Call) -> Result:
        node = call.node
        if node.timeout_s is None:
            return await self._call(call)
        try:
            async with asyncio.timeout(node.timeout_s) as limit:
                return await self._call(call)
        except TimeoutError:
            if not limit.expired():
                raise
            raise NodeError(f"took longer than {node.timeout_s:g} s (its timeout_s)", code="node_timeout") from None

    async def _call(self, call: _Call) -> Result:
        node, code = call.node, self._package.nodes[call.node.name]
        inputs = self._inputs(call, code.optional, code.overrides)
        self._tracing.record(call.span, "input", self._package.without_secrets(inputs, node.inputs))
        value = await code.run(inputs, self._context(call))
        if isinstance(value, AsyncIterator):
            return await self._stream(call, value)
        return value if isinstance(value, Result) else Result(value)

    def _inputs(self, call: _Call, optional: frozenset[str], overrides: frozenset[str]) -> dict[str, Any]:
        inputs = {}
        scope, node = call.level.scope, call.node
        starters = self._package.graph.starters.get(node.name, frozenset()) if not call.level.prefix else frozenset()
        for name, value in node.inputs.items():
            if isinstance(value, Reference) and value.source == "node":
                if value.name in starters and not value.path:
                    inputs[name] = self._tees[value.name].chunks()
                    continue
                if scope.is_bypassed(value.name) and name in optional:
                    continue
            try:
                inputs[name] = scope.resolve(value)
            except LookupError as error:
                raise NodeError(f"inputs.{name}: {error.args[0]}", code="invalid_reference") from None
        given = self._request.overrides
        inputs.update({name: given[name] for name in overrides if name in given})
        return inputs

    def _context(self, call: _Call) -> Context:
        node, level = call.node, call.level
        top = not level.prefix
        return Context(
            streaming=self._request.streaming and top and self._package.wiring.can_stream(node.name),
            run_body=partial(self._run_body, call),
            loop_variables=partial(self._variables.loop_values, node, level.scope),
            read_variable=partial(self._variables.read_variable, level.scope),
            write_variable=partial(self._variables.write_variable, level.scope, level.loop_types),
        )

    async def _run_body(self, call: _Call, index: int, item: Any, loop: dict[str, Any] | None) -> Any:
        node, level = call.node, call.level
        types = level.loop_types if loop is None else {variable.name: variable.type for variable in node.variables}
        scope = level.scope.round(index, level.scope.item if loop is not None else item, loop)
        inner = Level(scope, call.span, f"{call.path}[{index}].", types)
        failure = await self.run(self._package.bodies[node.name], inner)
        if failure is not None:
            raise NodeError(failure.text, code=failure.info.code, plain=failure.info.message)
        try:
            return scope.resolve(node.result)
        except LookupError as missing:
            raise NodeError(f"result: {missing.args[0]}", code="invalid_reference") from None

    async def _stream(self, call: _Call, stream: AsyncIterator[Chunk | Result]) -> Result:
        name = call.node.name
        top = not call.level.prefix
        tee = self._tees.get(name) if top else None
        feeds = top and name in self._package.wiring.feeds
        result: Result | None = None
        count = size = 0
        async with aclosing(stream) as items:  # type: ignore[type-var]  # every stream of a node is a generator
            async for chunk in items:
                if isinstance(chunk, Result):
                    result = chunk
                    continue
                count, size = count + 1, size + chunk.size
                if size > self._max_output:
                    raise self._too_large("stream")
                if tee is not None:
                    call.sent = True
                    tee.add_chunk(chunk)
                if feeds:
                    call.sent = True
                    self._outputs.emit_chunk(call.run, chunk)
                    await self._events.room()
                if count % _CHUNKS_PER_YIELD == 0:
                    await asyncio.sleep(0)  # a generator that never waits would block all other runs
        if result is None:
            raise NodeError("its stream ended without a result", code="internal_error")
        call.streamed = count > 0 or isinstance(result.value, str)  # a model that calls a tool does not stream
        return result

    def _too_large(self, what: str) -> NodeError:
        text = f"its {what} is longer than {self._max_output} characters (FLOWPOD_MAX_OUTPUT_CHARS)"
        return NodeError(text, code="output_too_large")

    async def _complete(self, call: _Call, result: Result) -> NodeEnd:
        node, scope, top = call.node, call.level.scope, not call.level.prefix
        if not call.streamed and is_longer_than(result.value, self._max_output):
            raise self._too_large("value")
        if result.usage is not None:
            self.reporter.count(result.model, result.usage)
        if result.finish_reason and node.name in self._chat_sources:
            self.finish_reason = result.finish_reason
        whole: dict[str, Any] = {}
        if top:
            whole = self._outputs.whole_outputs(node.name, result.value, scope)
        await self._events.room()
        self._tracing.record(call.span, "output", result.value)
        if call.streamed and top:
            self._outputs.close_stream(call.run)
        self.reporter.report(call.level.prefix, node, "Completed", output=result.value)
        if top:
            self._outputs.settle(call.run, result.value, whole, streamed=call.streamed)
            if node.name in self._tees:
                self._tees[node.name].end(result.value)
        return NodeEnd(node, result.value, taken=result.taken)

    async def _fail(self, call: _Call, error: BaseException) -> NodeEnd:
        node = call.node
        failure = self._failures.of_node(call.path, error)
        if not isinstance(error, FlowpodError):
            logger.warning("run %s: %s", self._run_id, failure.text, exc_info=error)
        self._tracing.fail(call.span, failure.text, failure.info.code or failure.info.type, error)
        policy = node.on_error
        if policy is not None and policy.branch is None and not call.sent:
            try:
                return await self._complete(call, Result(policy.default))
            except NodeError as second:  # an output refers to a property that the default lacks
                failure = self._failures.of_node(call.path, second)
        self.reporter.report(call.level.prefix, node, "Failed", error=failure.info, cause=failure.cause)
        if policy is not None and policy.branch is not None and not call.sent:
            return NodeEnd(node, failure=failure, taken=(policy.branch,), goes_on=True)
        return NodeEnd(node, failure=failure)
