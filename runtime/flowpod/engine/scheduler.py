"""Runs a plan: starts the nodes of one list when they are ready, until all are settled or one fails."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from flowpod.engine.events import NodeStatus
from flowpod.engine.failures import Failure
from flowpod.errors import ErrorInfo
from flowpod.flow.model import Node
from flowpod.flow.plan import Graph, Plan
from flowpod.flow.references import Scope
from flowpod.nodes import KINDS

logger = logging.getLogger(__name__)

_STOP_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class NodeEnd:
    """How a node ended: its value and the branches that it took, or its failure.

    `goes_on`: the node failed, and the run continues on its error branch.
    """

    node: Node
    value: Any = None
    failure: Failure | None = None
    taken: tuple[str, ...] = ()
    goes_on: bool = False


class Reports(Protocol):
    """Reports the state of a node: a function of the node runner."""

    def __call__(self, node: Node, status: NodeStatus, *, error: ErrorInfo | None = None) -> None: ...


class Scheduler:
    """Runs one graph in one scope. `prefix` is the start of its nodes' paths.

    `run_node` runs a node in a task of its own. `run_inline` runs one in the scheduler's task: the only node that is
    ready while no other runs, if its kind allows that. `report` reports nodes that never start, and `skipped` is called
    for nodes that are bypassed.
    """

    def __init__(
        self,
        graph: Graph,
        scope: Scope,
        prefix: str,
        run_node: Callable[[Node], Coroutine[Any, Any, NodeEnd]],
        run_inline: Callable[[Node], Coroutine[Any, Any, NodeEnd]],
        report: Reports,
        skipped: Callable[[Node], None],
    ) -> None:
        self._plan = Plan(graph, scope)
        self._graph = graph
        self._prefix = prefix
        self._run_node = run_node
        self._run_inline = run_inline
        self._report = report
        self._skipped = skipped
        self._tasks: dict[str, asyncio.Task[NodeEnd]] = {}
        self._done: list[tuple[str, asyncio.Task[NodeEnd]]] = []
        self._wake = asyncio.Event()
        self._lone: Node | None = None

    async def run(self) -> Failure | None:
        """Run the plan; return the failure of the node that failed it. Cancelling it cancels its nodes."""
        try:
            failure = self._advance()
            while failure is None and not self._plan.done:
                failure = await self._next_failure() or self._advance()
        finally:
            await self._cancel_nodes()
        return failure

    async def _next_failure(self) -> Failure | None:
        """Run the lone node, or wait until a task ends; return the failure that ends the plan."""
        if (node := self._lone) is None:
            await self._wake.wait()
            self._wake.clear()
            return self._collect()
        self._lone = None
        try:
            end = await self._run_inline(node)
        except asyncio.CancelledError:
            self._report(node, "Canceled")
            raise
        return self._settle(end)

    def _advance(self) -> Failure | None:
        steps = self._plan.ready()
        starts = [step.node for step in steps if step.action == "start"]
        if len(starts) == 1 and not self._tasks and KINDS[starts[0].type].runs_inline:
            self._lone = starts[0]
        for step in steps:
            node = step.node
            if step.action == "start":
                if node is not self._lone:
                    self._start_task(node)
            elif step.action == "bypass":
                self._report(node, "Bypassed")
                self._skipped(node)
            else:
                path = self._prefix + node.name
                error = ErrorInfo(f"node {path!r}: {step.reason}", "node_error", path, "invalid_reference")
                self._report(node, "Failed", error=error)
                return Failure.of(error)
        return None

    def _start_task(self, node: Node) -> None:
        task = asyncio.create_task(self._run_node(node))
        self._tasks[node.name] = task
        task.add_done_callback(partial(self._node_done, node.name))

    def _node_done(self, name: str, task: "asyncio.Task[NodeEnd]") -> None:
        self._done.append((name, task))
        self._wake.set()

    def _collect(self) -> Failure | None:
        done, self._done = self._done, []
        failure: Failure | None = None
        for name, task in done:
            end = self._ended(name, task)
            del self._tasks[name]
            settled = self._settle(end)  # also after a failure: an error branch that is taken has outputs to settle
            failure = failure or settled
        return failure

    def _settle(self, end: NodeEnd) -> Failure | None:
        name = end.node.name
        if end.goes_on:
            self._plan.skip(name, end.taken)
            self._skipped(end.node)
        elif end.failure is None:
            self._plan.complete(name, end.value, end.taken)
        return None if end.goes_on else end.failure

    def _ended(self, name: str, task: "asyncio.Task[NodeEnd]") -> NodeEnd:
        if not task.cancelled():
            return task.result()
        node = self._graph.nodes[name]  # before the run is stopped, only the node's own code can have cancelled it
        path = self._prefix + name
        error = ErrorInfo(f"node {path!r} failed: it cancelled its own task", "node_error", path, "node_failed")
        self._report(node, "Failed", error=error)
        return NodeEnd(node, failure=Failure.of(error))

    async def _cancel_nodes(self) -> None:
        """Cancel the running nodes and report each. A thread or a task that does not end is abandoned."""
        tasks = {name: task for name, task in self._tasks.items() if not task.done()}
        if not tasks:
            return
        for task in tasks.values():
            task.cancel()
        await asyncio.wait(tasks.values(), timeout=_STOP_WAIT_S)
        for name, task in tasks.items():
            if not task.done():
                logger.warning("node %r did not end when cancelled; it was abandoned", self._prefix + name)
            if not task.done() or task.cancelled():
                self._report(self._graph.nodes[name], "Canceled")
