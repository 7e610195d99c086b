"""The order in which nodes run: pure bookkeeping, performed by `runtime.run`.

The rules are promptflow's (executor/_dag_manager.py): a node is ready when every node that it refers to is settled; it
is bypassed when its condition refers to a bypassed node or does not hold or, without a condition, when all the nodes
that it refers to were bypassed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from runtime.flow.model import Flow, Node, Reference
from runtime.flow.references import Scope


@dataclass(frozen=True, slots=True)
class Graph:
    """What follows from a flow's references alone, worked out once when it is loaded."""

    nodes: Mapping[str, Node]
    dependencies: Mapping[str, frozenset[str]]
    dependants: Mapping[str, tuple[str, ...]]
    feeds: Mapping[str, tuple[str, ...]]
    """Node name to the outputs that are its whole value: where its chunks go, should it stream."""

    @classmethod
    def of(cls, flow: Flow) -> "Graph":
        """Return the graph of `flow`, whose references must all be known."""
        dependencies = {
            name: frozenset(reference.name for reference in node.references() if reference.source == "node")
            for name, node in flow.nodes.items()
        }
        dependants: dict[str, list[str]] = {name: [] for name in flow.nodes}
        for name, needed in dependencies.items():
            for other in needed:
                dependants[other].append(name)
        feeds: dict[str, list[str]] = {name: [] for name in flow.nodes}
        for output in flow.outputs.values():
            if isinstance(output.value, Reference) and output.value.source == "node" and not output.value.path:
                feeds[output.value.name].append(output.name)
        return cls(
            flow.nodes,
            dependencies,
            {name: tuple(others) for name, others in dependants.items()},
            {name: tuple(outputs) for name, outputs in feeds.items()},
        )

    def cycle(self) -> list[str]:
        """Return the names of nodes that wait for each other in a circle, or nothing."""
        waiting = {name: set(needed) for name, needed in self.dependencies.items()}
        while free := [name for name, needed in waiting.items() if not needed]:
            for name in free:
                del waiting[name]
            for needed in waiting.values():
                needed.difference_update(free)
        if not waiting:
            return []
        trail = [next(iter(waiting))]
        while (following := next(iter(sorted(waiting[trail[-1]])))) not in trail:
            trail.append(following)
        return trail[trail.index(following) :][::-1]


@dataclass(frozen=True, slots=True)
class Step:
    """What to do about one node now; `reason` says why a node fails before it starts."""

    node: Node
    action: Literal["start", "bypass", "fail"]
    reason: str = ""


class Plan:
    """The state of one run: which nodes wait, and for how many others."""

    def __init__(self, graph: Graph, scope: Scope) -> None:
        self._graph = graph
        self._scope = scope
        self._waiting = {name: len(needed) for name, needed in graph.dependencies.items()}
        self._ready = [name for name, count in self._waiting.items() if not count]
        self._open = len(self._waiting)

    @property
    def done(self) -> bool:
        """Whether every node is settled."""
        return not self._open

    def ready(self) -> list[Step]:
        """Return, each once and in the file's order, the nodes to start or to bypass now.

        A bypassed node is settled at once, so those that it lets go are in the same list. A node fails when the value
        of its condition cannot be found.
        """
        steps = []
        while self._ready:
            names, self._ready = sorted(self._ready, key=lambda name: self._graph.nodes[name].index), []
            for name in names:
                step = self._step(self._graph.nodes[name])
                steps.append(step)
                if step.action == "bypass":
                    self._scope.bypassed.add(name)
                    self._settle(name)
        return steps

    def complete(self, name: str, value: object) -> None:
        """Record the value of a node that has run."""
        self._scope.outputs[name] = value
        self._settle(name)

    def _settle(self, name: str) -> None:
        self._open -= 1
        for other in self._graph.dependants[name]:
            self._waiting[other] -= 1
            if not self._waiting[other]:
                self._ready.append(other)

    def _step(self, node: Node) -> Step:
        try:
            return Step(node, "bypass" if self._is_bypassed(node) else "start")
        except LookupError as error:
            return Step(node, "fail", f"activate.when: {error.args[0]}")
        except Exception as error:  # noqa: BLE001 - a property or a comparison of a node's own value may raise anything
            return Step(node, "fail", f"activate.when: {type(error).__name__}: {error}")

    def _is_bypassed(self, node: Node) -> bool:
        bypassed = self._scope.bypassed
        if node.activate is not None:
            when = node.activate.when
            if isinstance(when, Reference) and when.source == "node" and when.name in bypassed:
                return True
            return bool(self._scope.resolve(when) != node.activate.equals)
        needed = self._graph.dependencies[node.name]
        return bool(needed) and needed <= bypassed
