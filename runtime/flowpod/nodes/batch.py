"""The batch node: runs its nodes once for each item of a list, or of several lists side by side."""

import asyncio
from collections import deque
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from flowpod.errors import FlowpodError, NodeError
from flowpod.flow.document.base import NodeOptions
from flowpod.flow.kinds import BodyOptions
from flowpod.flow.model import Node
from flowpod.flow.node_check import NodeCheck
from flowpod.nodes.kind import BuiltNode, Context, Kind, Resources


class BatchOptions(NodeOptions):
    """Runs its nodes once for each item of one list, or of several side by side."""

    over: list[str] = Field(default_factory=list, description="The inputs that are lists; all of them by default.")
    max_items: int = Field(100, ge=1, le=100, description="The maximum number of items; the rest is skipped.")
    parallel: int = Field(1, ge=1, le=10, description="The number of items that run at the same time.")
    on_item_error: Literal["fail", "null", "drop"] = Field(
        "fail", description="Fail the node, put null for the item, or drop the item."
    )
    nodes: list[Any] = Field(min_length=1)
    result: Any = Field(None, description="The result of an item, such as ${inner.output}.")


class BatchNode(BuiltNode):
    """Runs the items, some at a time. Its value is the list of their results, in the items' order."""

    waits_for_nodes = True

    def __init__(self, node: Node, options: BatchOptions, resources: Resources) -> None:  # noqa: ARG002
        self._over = options.over or list(node.inputs)
        self._max_items = options.max_items
        self._parallel = options.parallel
        self._on_item_error = options.on_item_error

    async def run(self, inputs: Mapping[str, Any], context: Context) -> list[Any]:
        """Return the results. Raises NodeError for an input that is not a list, and for a failed item if it must."""
        waiting = deque(enumerate(self._items(inputs)))
        results: dict[int, Any] = {}
        workers = min(self._parallel, len(waiting))
        if workers == 1:
            await self._work(waiting, results, context)
        else:
            await _all_of([self._work(waiting, results, context) for _ in range(workers)])
        return [results[index] for index in sorted(results)]

    async def _work(self, waiting: deque[tuple[int, Any]], results: dict[int, Any], context: Context) -> None:
        """Run the waiting items one by one, until none is left or a failed item fails the node."""
        while waiting:
            index, item = waiting.popleft()
            try:
                results[index] = await context.run_body(index, item, None)
            except FlowpodError:
                if self._on_item_error == "fail":
                    waiting.clear()
                    raise
                if self._on_item_error == "null":
                    results[index] = None

    def _items(self, inputs: Mapping[str, Any]) -> list[Any]:
        lists = [inputs.get(name) for name in self._over]
        for name, value in zip(self._over, lists, strict=True):
            if not isinstance(value, list | tuple):
                raise NodeError(f"inputs.{name}: expected a list, got {type(value).__name__}", code="invalid_input")
        count = min(self._max_items, *(len(value) for value in lists if isinstance(value, list | tuple)))
        if len(lists) == 1:
            return list(lists[0] or [])[:count]
        rows = zip(*(value or [] for value in lists), strict=False)
        return [dict(zip(self._over, row, strict=True)) for row, _ in zip(rows, range(count), strict=False)]


async def _all_of(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Await all at once. When one raises, the others are cancelled, and the first exception in order is raised."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        if tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        if not task.cancelled() and (failure := task.exception()):
            raise failure


def _check(options: BatchOptions, check: NodeCheck) -> None:
    for name in options.over:
        check.require_input(("over",), name)
    if not check.node.inputs:
        check.error(("inputs",), f"the batch {check.node.name!r} has no list to run over")


BATCH = Kind(
    "batch",
    BatchOptions,
    dashscope_type="Parallel",
    build=BatchNode,
    check=_check,
    body=lambda options: BodyOptions(options.nodes, "item", result=options.result),
    runs_inline=True,
)
