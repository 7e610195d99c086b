"""One node of one run: its inputs are looked up, its code is called, its stream passed on, its end reported."""

import asyncio
import logging
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentelemetry.trace import Span

from runtime.errors import ErrorInfo, FlowpodError, NodeError
from runtime.flow.model import Node, Reference
from runtime.flow.references import Scope
from runtime.nodes.base import Chunk, Context, Result, Usage
from runtime.run.events import EventChannel, NodeStatus, NodeUpdated
from runtime.run.outputs import Outputs
from runtime.run.package import Package
from runtime.telemetry.tracing import Tracing, fail, record

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a node: its value or its error, and what its model said if it has one."""

    node: Node
    value: Any = None
    error: ErrorInfo | None = None
    usage: Usage | None = None
    finish_reason: str = ""


class NodeRunner:
    """Runs the nodes of one run, each in a task of its own."""

    def __init__(
        self,
        package: Package,
        scope: Scope,
        outputs: Outputs,
        events: EventChannel,
        tracing: Tracing,
        span: Span,
        streaming: bool,
    ) -> None:
        self._package = package
        self._scope = scope
        self._outputs = outputs
        self._events = events
        self._tracing = tracing
        self._span = span
        self._streaming = streaming
        self._run_id = str(scope.sys["run_id"])

    def report(
        self,
        node: Node,
        status: NodeStatus,
        *,
        begun: float | None = None,
        error: ErrorInfo | None = None,
        output: Any = None,
    ) -> None:
        """Put the event of a node's new state; `begun` is when it started, by `time.perf_counter`."""
        duration = 0.0 if begun is None else time.perf_counter() - begun
        self._events.put(
            NodeUpdated(self._run_id, node.name, status, duration, error, output, node.description, node.display_name)
        )

    async def run(self, node: Node, begun: float) -> Ended:
        """Run a node to its end. Only the task's own cancellation is raised; failures are returned as data."""
        with self._tracing.node(self._span, node.name, node.type) as span:
            try:
                return await self._complete(node, begun, span)
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    fail(span, "the run ended before the node", "canceled")
                    raise
                return self._fail(node, begun, span, error)
            except Exception as error:  # noqa: BLE001 - a node's code may raise anything
                return self._fail(node, begun, span, error)

    async def _complete(self, node: Node, begun: float, span: Span) -> Ended:
        run_id = self._outputs.node_run_id(node.name)
        code = self._package.code[node.name]
        inputs = self._inputs(node, code.optional)
        record(span, "input", inputs)
        streaming = self._streaming and bool(self._package.graph.feeds[node.name])
        value = await code.run(inputs, Context(streaming))
        if isinstance(value, AsyncIterator):
            result = await self._stream(node, value, run_id)
        else:
            result = value if isinstance(value, Result) else Result(value)
        try:
            outputs = self._outputs.of_node(node.name, result.value)
        except LookupError as error:
            raise NodeError(error.args[0], code="invalid_reference") from None
        record(span, "output", result.value)
        self.report(node, "Completed", begun=begun, output=result.value)
        self._outputs.put_whole(run_id, outputs)
        await self._events.room()
        return Ended(node, result.value, None, result.usage, result.finish_reason)

    def _inputs(self, node: Node, optional: frozenset[str]) -> dict[str, Any]:
        inputs = {}
        for name, value in node.inputs.items():
            bypassed = isinstance(value, Reference) and value.source == "node" and value.name in self._scope.bypassed
            if bypassed and name in optional:
                continue
            try:
                inputs[name] = self._scope.resolve(value)
            except LookupError as error:
                raise NodeError(f"inputs.{name}: {error.args[0]}", code="invalid_reference") from None
        return inputs

    async def _stream(self, node: Node, parts: AsyncIterator[Chunk | Result], run_id: str) -> Result:
        """Pass a node's chunks on to the outputs that it feeds; return its result."""
        feeds = bool(self._package.graph.feeds[node.name])
        result: Result | None = None
        self._outputs.put_delta(node.name, run_id, "")
        async with aclosing(parts) as items:  # type: ignore[type-var]  # every stream of a node is a generator
            async for part in items:
                if isinstance(part, Result):
                    result = part
                elif feeds:
                    self._outputs.put_delta(node.name, run_id, part.text, part.reasoning)
                    await self._events.room()
        if result is None:
            raise NodeError("its stream ended without a result", code="internal_error")
        self._outputs.put_delta(node.name, run_id, "")
        self._outputs.finish_stream(node.name, run_id, result.value)
        return result

    def _fail(self, node: Node, begun: float, span: Span, error: BaseException) -> Ended:
        info = _error_info(node, error, self._package.flow.folder)
        if not isinstance(error, FlowpodError):
            logger.warning("run %s: %s", self._run_id, info.message, exc_info=error)
        fail(span, info.message, info.code or info.type, error)
        self.report(node, "Failed", begun=begun, error=info)
        return Ended(node, error=info)


def _error_info(node: Node, error: BaseException, folder: Path) -> ErrorInfo:
    if isinstance(error, FlowpodError):
        return ErrorInfo(f"node {node.name!r}: {error.message}", error.type, node.name, error.code)
    frames = traceback.extract_tb(error.__traceback__)
    own = next((frame for frame in reversed(frames) if Path(frame.filename).is_relative_to(folder)), None)
    place = f" ({Path(own.filename).name}, line {own.lineno})" if own else ""
    text = f": {error}" if str(error) else ""
    message = f"node {node.name!r} failed: {type(error).__name__}{text}{place}"
    return ErrorInfo(message, "node_error", node.name, "node_failed")
