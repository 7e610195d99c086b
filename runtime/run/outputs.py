"""The outputs of one run: what each is so far, and the events that say so."""

import uuid
from collections.abc import Mapping
from typing import Any

from runtime.flow.model import Flow, Reference
from runtime.flow.plan import Graph
from runtime.flow.references import Scope
from runtime.run.events import EventChannel, RunOutput


class Outputs:
    """Puts RunOutput events for the outputs that refer to a node, and keeps the values."""

    def __init__(self, flow: Flow, graph: Graph, events: EventChannel, run_id: str) -> None:
        self._flow = flow
        self._graph = graph
        self._events = events
        self._run_id = run_id
        self.values: dict[str, Any] = {}

    def node_run_id(self, name: str) -> str:
        """Return a new id of a node's run: the run's, the name and a uuid."""
        return f"{self._run_id}_{name}_{uuid.uuid4()}"

    def put_constant(self, scope: Scope) -> None:
        """Put the outputs that depend on no node."""
        for name, output in self._flow.outputs.items():
            if not (isinstance(output.value, Reference) and output.value.source == "node"):
                self._put(self.node_run_id(name), name, scope.resolve(output.value))

    def put_delta(self, node: str, run_id: str, text: str, reasoning: str = "") -> None:
        """Put a piece of the outputs that are the whole value of `node`."""
        for name in self._graph.feeds[node]:
            self._events.put(RunOutput(run_id, name, text, True, "Streaming", reasoning))

    def finish_stream(self, node: str, run_id: str, value: Any) -> None:
        """Close the outputs that have been streamed from `node`."""
        for name in self._graph.feeds[node]:
            self.values[name] = value
            self._events.put(RunOutput(run_id, name, "", True, "Finished"))

    def of_node(self, node: str, value: Any) -> dict[str, Any]:
        """Return the outputs, among those not streamed already, that refer to `node` with this value.

        Raises LookupError that names the output whose reference finds nothing.
        """
        scope = Scope({}, outputs={node: value})
        found = {}
        for name in self._referring_to(node):
            try:
                found[name] = scope.resolve(self._flow.outputs[name].value)
            except LookupError as error:
                raise LookupError(f"outputs.{name}: {error.args[0]}") from None
        return found

    def put_whole(self, run_id: str, values: Mapping[str, Any]) -> None:
        """Put outputs that have their whole value at once."""
        for name, value in values.items():
            self._put(run_id, name, value)

    def put_bypassed(self, node: str) -> None:
        """Put null for every output that refers to a bypassed node."""
        run_id = self.node_run_id(node)
        for name in self._referring_to(node):
            self._put(run_id, name, None)

    def _referring_to(self, node: str) -> list[str]:
        return [
            name
            for name, output in self._flow.outputs.items()
            if isinstance(output.value, Reference)
            and output.value.source == "node"
            and output.value.name == node
            and name not in self.values
        ]

    def _put(self, run_id: str, name: str, value: Any) -> None:
        self.values[name] = value
        self._events.put(RunOutput(run_id, name, value, False, "Finished"))
