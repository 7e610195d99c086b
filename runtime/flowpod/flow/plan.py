"""The order in which nodes run: pure bookkeeping, which `flowpod.engine.scheduler` carries out.

The rules are promptflow's (executor/_dag_manager.py): a node is ready when every node that it refers to is settled; it
is bypassed when its condition refers to a bypassed node or does not hold or, without a condition, when all the nodes
that it refers to were bypassed. A node with `after` is bypassed when none of the edges that it lists was taken.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from flowpod.flow.model import Edge, Node, Reference, references_in
from flowpod.flow.references import Scope


@dataclass(frozen=True, slots=True)
class Graph:
    """The dependencies between the nodes of one list, computed once when the flow is loaded.

    `starters` are the dependencies that need only have started: an output node reads a stream while it is produced.
    `referenced` are the nodes that a node refers to itself, those outside the list included.
    """

    nodes: Mapping[str, Node]
    dependencies: Mapping[str, frozenset[str]]
    starters: Mapping[str, frozenset[str]]
    dependants: Mapping[str, tuple[str, ...]]
    referenced: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, nodes: Mapping[str, Node]) -> "Graph":
        """Return the graph of `nodes`. References to nodes outside the list do not count: those settle first."""
        dependencies = {name: frozenset(node.needs() & nodes.keys()) for name, node in nodes.items()}
        dependants: dict[str, list[str]] = {name: [] for name in nodes}
        for name, needed in dependencies.items():
            for other in needed:
                dependants[other].append(name)
        return cls(
            nodes,
            dependencies,
            {name: _starters(node) & dependencies[name] for name, node in nodes.items()},
            {name: tuple(others) for name, others in dependants.items()},
            {name: frozenset(_referenced(node)) for name, node in nodes.items()},
        )

    def cycle(self) -> list[str]:
        """Return the names of nodes that wait for each other in a cycle, or an empty list."""
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


def _referenced(node: Node) -> Iterator[str]:
    return (reference.name for reference in node.references() if reference.source == "node")


def _starters(node: Node) -> frozenset[str]:
    if node.writes_to is None:
        return frozenset()
    references = [reference for reference in node.references() if reference.source == "node"]
    conditions = references_in(node.activate.when) if node.activate else []
    settled = {reference.name for reference in references if reference.path}
    settled |= {reference.name for reference in conditions} | {edge.node for edge in node.after}
    return frozenset(reference.name for reference in references) - settled


@dataclass(frozen=True, slots=True)
class Step:
    """What to do with one node now; `reason` says why a node fails before it starts."""

    node: Node
    action: Literal["start", "bypass", "fail"]
    reason: str = ""


class Plan:
    """The state of one execution of a graph: which nodes wait, and for how many others."""

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
        """Return the nodes to start, bypass or fail now, each once and in the file's order."""
        steps = []
        while self._ready:
            names, self._ready = sorted(self._ready, key=lambda name: self._graph.nodes[name].index), []
            for name in names:
                step = self._step(self._graph.nodes[name])
                steps.append(step)
                if step.action == "bypass":
                    self.skip(name)
                else:
                    self._release(name, started=True)
        return steps

    def complete(self, name: str, value: object, taken: Collection[str] = ()) -> None:
        """Record the value of a node that has run, and the branches that it took."""
        self._scope.outputs[name] = value
        self._settle(name, taken)

    def skip(self, name: str, taken: Collection[str] = ()) -> None:
        """Record that a node has no value: it was bypassed, or it failed and took its error branch."""
        self._scope.bypassed.add(name)
        self._settle(name, taken)

    def _settle(self, name: str, taken: Collection[str] = ()) -> None:
        self._open -= 1
        if taken:
            self._scope.taken[name] = taken
        if name in self._scope.bypassed and not taken:
            self._release(name, started=True)
        self._release(name, started=False)

    def _release(self, name: str, *, started: bool) -> None:
        """Release the nodes that wait for `name` to start, or for it to be settled."""
        for other in self._graph.dependants[name]:
            if (name in self._graph.starters[other]) is started:
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
        scope = self._scope
        if node.after and not any(self._is_taken(edge) for edge in node.after):
            return True
        if node.activate is not None:
            when = node.activate.when
            if isinstance(when, Reference) and when.source == "node" and scope.is_bypassed(when.name):
                return True
            return bool(scope.resolve(when) != node.activate.equals)
        needed = self._graph.referenced[node.name]
        return not node.after and bool(needed) and all(map(scope.is_bypassed, needed))

    def _is_taken(self, edge: Edge) -> bool:
        if edge.branch is not None:
            return edge.branch in self._scope.taken_by(edge.node)
        return not self._scope.is_bypassed(edge.node)
