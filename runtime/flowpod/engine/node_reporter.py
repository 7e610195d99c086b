"""Reports the states of a run's nodes as events and metrics, with the tokens that models have counted."""

import time
from typing import Any

from flowpod.engine.events import EventChannel, NodeStatus, NodeUpdated
from flowpod.errors import ErrorInfo
from flowpod.flow.model import Node
from flowpod.models.base import Usage
from flowpod.telemetry.metrics import Metrics


class NodeReporter:
    """Emits NodeUpdated events and times the nodes. `usage` holds the tokens of each model by the model's name."""

    def __init__(self, run_id: str, events: EventChannel, metrics: Metrics) -> None:
        self._run_id = run_id
        self._events = events
        self._metrics = metrics
        self._started: dict[str, float] = {}
        self.usage: dict[str, Usage] = {}

    @property
    def model_usage(self) -> dict[str, dict[str, int]]:
        """The tokens of each model so far, as events carry them."""
        return {name: usage.counts for name, usage in self.usage.items()}

    def count(self, model: str, usage: Usage) -> None:
        """Add the tokens of a call to those of its model."""
        self.usage[model] = self.usage.get(model, Usage()) + usage

    def report(
        self,
        prefix: str,
        node: Node,
        status: NodeStatus,
        *,
        error: ErrorInfo | None = None,
        output: Any = None,
        cause: str = "",
    ) -> None:
        """Report that the node at the path `prefix` and its name has a new status."""
        path, now = prefix + node.name, time.perf_counter()
        started = self._started.pop(path, None)
        if status == "Running":
            self._started[path] = started = now
        elif status == "Canceled" and started is None:
            return  # it was waiting for a slot, and its start was never reported
        duration = 0.0 if started is None else now - started
        if started is not None and status != "Running":
            self._metrics.node_ended(node.name, node.type, status, duration)
        usage = self.model_usage or None
        names = (node.description, node.display_name)
        self._events.put(NodeUpdated(self._run_id, path, status, duration, error, output, *names, cause, usage))
