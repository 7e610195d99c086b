"""One node of one run: its inputs are looked up, its code is called, its stream passed on, its end reported."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from opentelemetry.trace import Span

from flowpod.engine.events import EventChannel, NodeStatus, NodeUpdated
from flowpod.engine.failures import cause_of, error_info
from flowpod.engine.outputs import Outputs
from flowpod.engine.package import Package
from flowpod.engine.scheduler import NodeEnd, Scheduler
from flowpod.engine.stream_tee import StreamTee
from flowpod.engine.variables import Variables
from flowpod.errors import ErrorInfo, FlowpodError, NodeError, text_of
from flowpod.flow.model import Node, Reference, ValueType
from flowpod.flow.plan import Graph
from flowpod.flow.references import Scope
from flowpod.logs import prints_of
from flowpod.models.base import Chunk, Result, Usage
from flowpod.nodes import KINDS
from flowpod.nodes.kind import Context
from flowpod.telemetry.tracing import Tracing

logger = logging.getLogger(__name__)

_BREATH = 64


@dataclass(frozen=True, slots=True)
class Level:
    """Where nodes are performed: the flow itself, or one round of a batch or a loop with its path as `prefix`."""

    scope: Scope
    span: Span
    prefix: str = ""
    loop_types: dict[str, ValueType] = field(default_factory=dict)


@dataclass(slots=True)
class _Call:
    """One node being run. `sent`: a chunk of it has gone out, so that it can be neither repeated nor replaced."""

    level: Level
    node: Node
    span: Span
    run_id: str
    sent: bool = False
    streamed: bool = False

    @property
    def path(self) -> str:
        return self.level.prefix + self.node.name


class NodeRunner:
    """Runs the nodes of one run, each in a task of its own, `limit` at a time."""

    def __init__(
        self,
        package: Package,
        outputs: Outputs,
        events: EventChannel,
        tracing: Tracing,
        variables: Variables,
        run_id: str,
        *,
        streaming: bool,
        overrides: Mapping[str, Any],
        max_output: int,
        limit: int,
    ) -> None:
        self._package = package
        self._outputs = outputs
        self._events = events
        self._tracing = tracing
        self._variables = variables
        self._run_id = run_id
        self._streaming = streaming
        self._overrides = overrides
        self._max_output = max_output
        self._slots = asyncio.Semaphore(limit)
        self._taps = {name: StreamTee() for name in package.wiring.tapped}
        self._chat_sources = package.wiring.sources_of(package.flow, package.flow.chat_output or "")
        self._begun: dict[str, float] = {}
        self.usage: dict[str, Usage] = {}
        """What each model counted, by the model's name."""
        self.finish_reason = "stop"

    @property
    def models(self) -> dict[str, dict[str, int]]:
        """What each model has counted so far, as events tell it."""
        return {name: asdict(usage) for name, usage in self.usage.items()}

    async def perform(self, graph: Graph, level: Level) -> ErrorInfo | None:
        """Perform the nodes of one list; return the error of the one that failed."""
        run_node, report, skipped = (
            partial(self.run, level),
            partial(self._report, level),
            partial(self._skipped, level),
        )
        return await Scheduler(graph, level.scope, level.prefix, run_node, report, skipped).perform()

    def _report(
        self,
        level: Level,
        node: Node,
        status: NodeStatus,
        *,
        error: ErrorInfo | None = None,
        output: Any = None,
        cause: str = "",
    ) -> None:
        path, now = level.prefix + node.name, time.perf_counter()
        begun = self._begun.pop(path, None)
        if status == "Running":
            self._begun[path] = begun = now
        elif status == "Canceled" and begun is None:
            return  # it waited for its turn, and nobody knows of it
        duration = 0.0 if begun is None else now - begun
        if begun is not None and status != "Running":
            self._tracing.metrics.node_ended(node.name, node.type, status, duration)
        told = (node.description, node.display_name, cause, self.models or None)
        self._events.put(NodeUpdated(self._run_id, path, status, duration, error, output, *told))

    def _skipped(self, level: Level, node: Node) -> None:
        if node.name in self._taps:
            self._taps[node.name].end(None)
        if not level.prefix:
            self._outputs.skip(node.name, level.scope)

    async def run(self, level: Level, node: Node) -> NodeEnd:
        """Run a node to its end. Only the task's own cancellation is raised; failures are returned as data."""
        waits = self._package.nodes[node.name].waits_for_nodes
        async with nullcontext() if waits else self._slots:
            self._report(level, node, "Running")
            path = level.prefix + node.name
            with (
                prints_of(path),
                self._tracing.node(level.span, node.name, node.type, path, KINDS[node.type].span_kind) as span,
            ):
                call = _Call(level, node, span, self._outputs.node_run_id(path))
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
                reason = self._tracing.content.said(text_of(error))
                call.span.add_event("retry", {"flowpod.attempt": attempt, "exception.message": reason})
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
                    inputs[name] = self._taps[value.name].chunks()
                    continue
                if scope.is_bypassed(value.name) and name in optional:
                    continue
            try:
                inputs[name] = scope.resolve(value)
            except LookupError as error:
                raise NodeError(f"inputs.{name}: {error.args[0]}", code="invalid_reference") from None
        inputs.update({name: self._overrides[name] for name in overrides if name in self._overrides})
        return inputs

    def _context(self, call: _Call) -> Context:
        node, level = call.node, call.level
        top = not level.prefix
        return Context(
            streaming=self._streaming and top and self._package.wiring.can_stream(node.name),
            run_body=partial(self._round, call),
            loop_variables=partial(self._variables.of_loop, node, level.scope),
            read_variable=partial(self._variables.read, level.scope),
            write_variable=partial(self._variables.write, level.scope, level.loop_types),
        )

    async def _round(self, call: _Call, index: int, item: Any, loop: dict[str, Any] | None) -> Any:
        """Perform the nodes inside this one once; return their result."""
        node, level = call.node, call.level
        types = level.loop_types if loop is None else {variable.name: variable.type for variable in node.variables}
        scope = level.scope.round(index, level.scope.item if loop is not None else item, loop)
        inner = Level(scope, call.span, f"{call.path}[{index}].", types)
        error = await self.perform(self._package.bodies[node.name], inner)
        if error is not None:
            raise NodeError(error.message, code=error.code)
        try:
            return scope.resolve(node.result)
        except LookupError as missing:
            raise NodeError(f"result: {missing.args[0]}", code="invalid_reference") from None

    async def _stream(self, call: _Call, parts: AsyncIterator[Chunk | Result]) -> Result:
        """Pass a node's chunks on to the outputs and the output nodes that take them; return its result."""
        name = call.node.name
        top = not call.level.prefix
        tap = self._taps.get(name) if top else None
        feeds = top and name in self._package.wiring.feeds
        result: Result | None = None
        count = size = 0
        async with aclosing(parts) as items:  # type: ignore[type-var]  # every stream of a node is a generator
            async for part in items:
                if isinstance(part, Result):
                    result = part
                    continue
                count, size = count + 1, size + len(part.text)
                if size > self._max_output:
                    text = f"its stream is longer than {self._max_output} characters (FLOWPOD_MAX_OUTPUT_CHARS)"
                    raise NodeError(text, code="output_too_large")
                if tap is not None:
                    call.sent = True
                    tap.put(part)
                if feeds:
                    call.sent = True
                    self._outputs.put_chunk(name, call.run_id, part)
                    await self._events.room()
                if count % _BREATH == 0:
                    await asyncio.sleep(0)  # a generator that never waits would keep everybody else from running
        if result is None:
            raise NodeError("its stream ended without a result", code="internal_error")
        call.streamed = count > 0 or isinstance(result.value, str)  # a model that calls a tool streams nothing
        return result

    async def _complete(self, call: _Call, result: Result) -> NodeEnd:
        node, scope, top = call.node, call.level.scope, not call.level.prefix
        if result.usage is not None:
            self.usage[result.model] = self.usage.get(result.model, Usage()) + result.usage
        if result.finish_reason and node.name in self._chat_sources:
            self.finish_reason = result.finish_reason
        whole: dict[str, Any] = {}
        if top:
            whole = self._outputs.of_node(node.name, result.value, scope)
        await self._events.room()
        self._tracing.record(call.span, "output", result.value)
        if call.streamed and top:
            self._outputs.close_stream(node.name, call.run_id)
        self._report(call.level, node, "Completed", output=result.value)
        if top:
            self._outputs.settle(node.name, call.run_id, result.value, whole, streamed=call.streamed)
            if node.name in self._taps:
                self._taps[node.name].end(result.value)
        return NodeEnd(node, result.value, taken=result.taken)

    async def _fail(self, call: _Call, error: BaseException) -> NodeEnd:
        node = call.node
        content = self._tracing.content  # callers, and whoever reads the history, are shown no secret
        info = error_info(call.path, error, self._package.flow.folder, content)
        if not isinstance(error, FlowpodError):
            logger.warning("run %s: %s", self._run_id, info.message, exc_info=error)
        self._tracing.fail(call.span, info.message, info.code or info.type, error)
        policy = node.on_error
        if policy is not None and policy.branch is None and not call.sent:
            try:
                return await self._complete(call, Result(policy.default))
            except NodeError as second:  # an output refers to a part that the default does not have
                info = error_info(call.path, second, self._package.flow.folder, content)
        self._report(call.level, node, "Failed", error=info, cause=content.said(cause_of(error)))
        if policy is not None and policy.branch is not None and not call.sent:
            return NodeEnd(node, error=info, taken=(policy.branch,), goes_on=True)
        return NodeEnd(node, error=info)
