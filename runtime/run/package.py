"""A flow package made ready to run: its flow, and its nodes built once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import FlowProblems, Problem
from runtime.flow.load import FILE, load_flow
from runtime.flow.model import Flow, Node, Reference
from runtime.flow.plan import Graph
from runtime.nodes import KINDS
from runtime.nodes.base import Node as NodeCode
from runtime.nodes.base import Resources, SpecProblem
from runtime.nodes.llm import LLMNode
from runtime.nodes.models import Models
from runtime.nodes.prompt import PromptNode
from runtime.nodes.threads import Threads
from runtime.telemetry.tracing import Tracing


@dataclass(frozen=True, slots=True)
class Package:
    """A flow that can run. `model` is the one behind the chat output, "" when no model is."""

    flow: Flow
    graph: Graph
    code: Mapping[str, NodeCode]
    models: Models
    threads: Threads
    model: str

    async def close(self) -> None:
        """Close what the nodes share."""
        await self.models.close()


def build_package(
    path: Path, environ: Mapping[str, str], tracing: Tracing, threads: int
) -> tuple[Package | None, list[Problem]]:
    """Read the flow in `path` and build its nodes, which imports their Python files.

    Returns every problem that was found, and the package if there is one despite them: it can run when no problem is an
    error and, for its connections, none is of the environment. `environ` fills in `${env:NAME}`.
    """
    try:
        flow, problems = load_flow(path, environ)
    except FlowProblems as error:
        return None, list(error.problems)
    models = Models(flow.connections)
    resources = Resources(flow.folder, models, Threads(threads), tracing)
    code: dict[str, NodeCode] = {}
    for node in flow.nodes.values():
        if not (flow.folder / node.path).is_file():
            continue  # noted by load_flow
        try:
            code[node.name] = KINDS[node.type](node, resources)
        except SpecProblem as error:
            problems.append(_problem(node, error.key, error.message))
            continue
        problems += _unused_variables(node, code[node.name])
        problems += _unset_variables(flow, node)
    if any(problem.severity == "error" for problem in problems):
        return None, problems
    graph = Graph.of(flow)
    return Package(flow, graph, code, models, resources.threads, _chat_model(flow, code)), problems


def _problem(node: Node, key: str, message: str) -> Problem:
    return Problem(FILE, f"nodes[{node.index}].{key}", f"node {node.name!r}: {message}")


def _unused_variables(node: Node, code: NodeCode) -> list[Problem]:
    if not isinstance(code, LLMNode | PromptNode):
        return []
    return [
        Problem(
            FILE,
            f"nodes[{node.index}].inputs",
            f"node {node.name!r}: {node.path} uses {name!r}, which is no input of the node: it will be empty",
            severity="warning",
        )
        for name in sorted(code.variables - set(node.inputs))
    ]


def _unset_variables(flow: Flow, node: Node) -> list[Problem]:
    connection = flow.connections.get(node.connection)
    return [
        Problem(FILE, f"nodes[{node.index}].connection", text, severity="environment")
        for text in (connection.problems if connection else ())
    ]


def _chat_model(flow: Flow, code: Mapping[str, NodeCode]) -> str:
    value = flow.outputs[flow.chat_output].value if flow.chat_output else None
    feeding = code.get(value.name) if isinstance(value, Reference) and value.source == "node" else None
    return feeding.model if isinstance(feeding, LLMNode) else ""
