"""The batch node: its nodes run once for each item of a list, or of several side by side."""

import asyncio
from collections.abc import Mapping
from typing import Any

from flowpod.errors import FlowpodError, NodeError
from flowpod.nodes.kind import Context, NodeSpec, Resources


class BatchNode:
    """Runs the items, some at a time; its value is the list of their results, in the items' order."""

    optional: frozenset[str] = frozenset()
    waits_for_nodes = True

    def __init__(self, spec: NodeSpec, resources: Resources) -> None:  # noqa: ARG002
        self._over: list[str] = spec.options["over"] or list(spec.inputs)
        self._max_items: int = spec.options["max_items"]
        self._parallel: int = spec.options["parallel"]
        self._on_item_error: str = spec.options["on_item_error"]

    async def run(self, inputs: Mapping[str, Any], context: Context) -> list[Any]:
        """Return the results. Raises NodeError for an input that is no list, and for an item if that is the policy."""
        items = self._items(inputs)
        free, stop = asyncio.Semaphore(self._parallel), asyncio.Event()
        tasks = [
            asyncio.create_task(self._run_item(index, item, free, stop, context)) for index, item in enumerate(items)
        ]
        try:
            if tasks:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        failure = next((error for task in tasks if not task.cancelled() and (error := task.exception())), None)
        if failure is not None:
            raise failure
        results = [task.result() for task in tasks]
        return [value for value, failed in results if not (failed and self._on_item_error == "drop")]

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

    async def _run_item(
        self, index: int, item: Any, free: asyncio.Semaphore, stop: asyncio.Event, context: Context
    ) -> tuple[Any, bool]:
        async with free:
            if stop.is_set():
                return None, True
            try:
                return await context.run_round(index, item, None), False
            except FlowpodError:
                if self._on_item_error == "fail":
                    stop.set()  # no further item begins
                    raise
                return None, True
