"""A flow package made ready to run: its flow, and its nodes built once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flowpod.content.images import ImageRules
from flowpod.errors import BuildError, FlowProblems, Problem
from flowpod.flow.document.located_yaml import Source
from flowpod.flow.load.check import all_nodes
from flowpod.flow.load.connections import secret_values
from flowpod.flow.load.late_imports import late_imports
from flowpod.flow.load.loader import load_flow
from flowpod.flow.model import SECRET_VARIABLES, Flow, Node, Reference
from flowpod.flow.paths import kind_of, leads_out
from flowpod.flow.plan import OUTPUT, Graph
from flowpod.flow.wiring import Wiring
from flowpod.models.registry import Models
from flowpod.nodes import KINDS
from flowpod.nodes.kind import Node as NodeCode
from flowpod.nodes.kind import Resources
from flowpod.nodes.llm import LLMNode
from flowpod.nodes.prompt import PromptNode
from flowpod.nodes.python.node import PythonNode
from flowpod.nodes.template import TemplateNode
from flowpod.telemetry.content import HIDDEN
from flowpod.telemetry.tracing import Tracing
from flowpod.threads import Threads

_WITHOUT_FILE = KINDS.keys() - {"llm", "prompt", "python", "custom_llm"}


@dataclass(frozen=True, slots=True)
class Package:
    """A flow that can run: `code` of every node, `bodies` of those that have nodes inside.

    `model` is the one behind the chat output, "" when no model is. `streams` names the outputs that promptflow's
    serving streams, and says of each whether it always does.
    """

    flow: Flow
    graph: Graph
    bodies: Mapping[str, Graph]
    wiring: Wiring
    code: Mapping[str, NodeCode]
    resources: Resources
    model: str
    streams: Mapping[str, bool]

    def without_secrets(self, values: Mapping[str, Any], references: Mapping[str, Any]) -> dict[str, Any]:
        """Return `values` with those hidden that `references` takes from secrets: inputs, or what callers send."""
        return {name: HIDDEN if self._is_secret(references.get(name)) else value for name, value in values.items()}

    def _is_secret(self, value: Any) -> bool:
        if not isinstance(value, Reference):
            return False
        if value.source == "sys":
            return value.name in SECRET_VARIABLES
        return (
            value.source == "inputs"
            and value.name in self.flow.inputs
            and self.flow.inputs[value.name].type == "secret"
        )

    def public_inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the flow's inputs with secret ones hidden, as they are stored and traced."""
        return self.without_secrets(inputs, {name: Reference("inputs", name) for name in inputs})

    def secret_inputs(self, inputs: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the values of the flow's secret inputs."""
        return tuple(inputs[name] for name, declared in self.flow.inputs.items() if declared.type == "secret")

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
    for connection in flow.connections.values():
        tracing.content.secrets.add(secret_values(connection))
    set_variables(flow.environment)
    flow = _with_default_images(flow, source)
    models = Models(flow.connections)
    resources = Resources(
        flow.folder, models, Threads(threads), tracing, Threads(threads), flow.connections, private_urls
    )
    code = {
        node.name: built
        for node in all_nodes(list(flow.nodes.values()))
        if node.type in _WITHOUT_FILE or node.source == "package" or _has_file(flow.folder, node.path)
        if (built := _build_node(node, flow, resources, source)) is not None
    }
    files = [node.path for node in all_nodes(list(flow.nodes.values())) if node.path.endswith(".py")]
    problems = source.problems + others + late_imports(flow.folder, files)
    if any(problem.severity == "error" for problem in problems):
        return None, problems
    bodies = {
        node.name: Graph.of({inner.name: inner for inner in node.body})
        for node in all_nodes(list(flow.nodes.values()))
        if node.body
    }
    graph, wiring = Graph.of(flow.nodes), Wiring.of(flow)
    model, streams = _chat_model(flow, wiring, code), _streams(flow, graph, wiring, code)
    return Package(flow, graph, bodies, wiring, code, resources, model, streams), problems


def _has_file(folder: Path, path: str) -> bool:
    return kind_of(folder / path) == "file" and not leads_out(path)  # noted by load_flow, if not


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
    try:
        built = KINDS[node.type](node, resources)
    except BuildError as error:
        parts = (int(part) if part.isdecimal() else part for part in error.key.split("."))
        source.add((*node.key, *parts), f"node {node.name!r}: {error.message}")
        return None
    if isinstance(built, LLMNode | PromptNode | TemplateNode):
        for name in sorted(built.variables - set(node.inputs)):
            where = node.path or "its template"
            text = f"node {node.name!r}: {where} uses {name!r}, which is no input of the node: it will be empty"
            source.add((*node.key, "inputs"), text, "warning")
    used = {"connection": {node.connection}, "inputs": set()}
    if isinstance(built, PythonNode):
        used["inputs"] |= built.connections
    elif isinstance(built, LLMNode):
        used["inputs"] |= {built.connection} - used["connection"]
    for place, names in used.items():
        for name in sorted(names & flow.connections.keys()):
            for text in flow.connections[name].problems:
                source.add((*node.key, place), text, "environment")
    return built


def _chat_model(flow: Flow, wiring: Wiring, code: Mapping[str, NodeCode]) -> str:
    value = flow.outputs[flow.chat_output].value if flow.chat_output else None
    names = {value.name} if isinstance(value, Reference) and value.source == "node" else set()
    names |= wiring.sources_of(flow, flow.chat_output or "")
    models = [built.model for name, built in code.items() if name in names and isinstance(built, LLMNode)]
    return models[0] if models else ""


def _streams(flow: Flow, graph: Graph, wiring: Wiring, code: Mapping[str, NodeCode]) -> dict[str, bool]:
    """Return the outputs that stream in promptflow: whole values of generators, and of models that no other node reads.

    A condition may bypass the node, so that in a flow with conditions none always streams (promptflow,
    executor/flow_executor.py and core/_serving/response_creator.py).
    """
    certain = all(node.activate is None and not node.after for node in flow.nodes.values())
    streams = {}
    for name, node in flow.nodes.items():
        built = code[name]
        if node.type == OUTPUT:
            streams.update(dict.fromkeys(wiring.feeds.get(name, ()), True))
        if not isinstance(built, LLMNode | PythonNode) or built.streams == "no":
            continue
        if isinstance(built, LLMNode) and graph.dependants[name]:
            continue
        streams.update(dict.fromkeys(wiring.feeds.get(name, ()), certain and built.streams == "yes"))
    return streams
