"""A flow package made ready to run: its flow, and its nodes built once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.errors import FlowProblems, Problem
from runtime.flow.load import load_flow
from runtime.flow.model import Flow, Node, Reference
from runtime.flow.plan import Graph
from runtime.flow.source import Key, Source
from runtime.nodes import KINDS
from runtime.nodes.base import Node as NodeCode
from runtime.nodes.base import Resources, SpecProblem
from runtime.nodes.images import ImageRules
from runtime.nodes.llm import LLMNode
from runtime.nodes.models import Models
from runtime.nodes.prompt import PromptNode
from runtime.nodes.python import PythonNode
from runtime.nodes.threads import Threads
from runtime.telemetry.tracing import Tracing


@dataclass(frozen=True, slots=True)
class Package:
    """A flow that can run. `model` is the one behind the chat output, "" when no model is."""

    flow: Flow
    graph: Graph
    code: Mapping[str, NodeCode]
    resources: Resources
    model: str

    async def close(self) -> None:
        """Close what the nodes share."""
        await self.resources.models.close()


def build_package(
    path: Path,
    environ: Mapping[str, str],
    tracing: Tracing,
    threads: int,
    connections: Path | None = None,
    assembled: Path | None = None,
    set_variables: Callable[[Mapping[str, str]], None] = lambda _: None,
    private_urls: bool = False,
) -> tuple[Package | None, list[Problem]]:
    """Read the flow in `path` and build its nodes, which imports their Python files.

    Returns every problem that was found, and the package if there is one despite them: it can run when no problem is an
    error and, for its connections, none is of the environment. `environ` fills in `${env:NAME}`. The connections in the
    file or folder `connections` win over the flow's own. `assembled` is the copy of the flow that has what it includes.
    `set_variables` is called with the flow's environment variables, before any code of the flow runs. `private_urls`
    allows images at private addresses.
    """
    try:
        flow, source, others = load_flow(path, environ, connections, assembled)
    except FlowProblems as error:
        return None, list(error.problems)
    set_variables(flow.environment)
    flow = _with_default_images(flow, source)
    models = Models(flow.connections)
    resources = Resources(flow.folder, models, Threads(threads), tracing, flow.connections, private_urls)
    code = {
        node.name: built
        for node in flow.nodes.values()
        if node.source == "package" or (flow.folder / node.path).is_file()  # noted by load_flow, if not
        if (built := _build_node(node, flow, resources, source)) is not None
    }
    problems = source.problems + others
    if any(problem.severity == "error" for problem in problems):
        return None, problems
    return Package(flow, Graph.of(flow), code, resources, _chat_model(flow, code)), problems


def _with_default_images(flow: Flow, source: Source) -> Flow:
    """Return the flow with the files of images among its inputs' defaults read."""
    rules, inputs = ImageRules(flow.folder, private_urls=True), dict(flow.inputs)
    for name, declared in flow.inputs.items():
        if declared.default is not None:
            try:
                default = rules.checked(declared.default, is_image=declared.type == "image")
                inputs[name] = replace(declared, default=default)
            except ValueError as error:
                source.add(("inputs", name, "default"), str(error))
    return replace(flow, inputs=inputs)


def _build_node(node: Node, flow: Flow, resources: Resources, source: Source) -> NodeCode | None:
    key: Key = ("nodes", node.index)
    try:
        built = KINDS[node.type](node, resources)
    except SpecProblem as error:
        source.add((*key, *error.key.split(".")), f"node {node.name!r}: {error.message}")
        return None
    if isinstance(built, LLMNode | PromptNode):
        for name in sorted(built.variables - set(node.inputs)):
            text = f"node {node.name!r}: {node.path} uses {name!r}, which is no input of the node: it will be empty"
            source.add((*key, "inputs"), text, "warning")
    used = {"connection": {node.connection}, "inputs": set()}
    if isinstance(built, PythonNode):
        used["inputs"] |= built.connections
    elif isinstance(built, LLMNode):
        used["inputs"] |= {built.connection} - used["connection"]
    for place, names in used.items():
        for name in sorted(names & flow.connections.keys()):
            for text in flow.connections[name].problems:
                source.add((*key, place), text, "environment")
    return built


def _chat_model(flow: Flow, code: Mapping[str, NodeCode]) -> str:
    value = flow.outputs[flow.chat_output].value if flow.chat_output else None
    feeding = code.get(value.name) if isinstance(value, Reference) and value.source == "node" else None
    return feeding.model if isinstance(feeding, LLMNode) else ""
