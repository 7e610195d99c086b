"""A flow package made ready to run: its flow, and its nodes built once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flowpod.content.images import ImageRules
from flowpod.errors import BuildError, FlowProblems, Problem
from flowpod.flow.document.base import PromptFlowOptions
from flowpod.flow.document.located_yaml import Source
from flowpod.flow.load.check import all_nodes
from flowpod.flow.load.connections import secret_values
from flowpod.flow.load.late_imports import late_imports
from flowpod.flow.load.loader import load_flow
from flowpod.flow.model import SECRET_VARIABLES, Flow, Node, Reference
from flowpod.flow.plan import Graph
from flowpod.flow.wiring import Wiring
from flowpod.models.registry import ModelRegistry
from flowpod.nodes import KINDS
from flowpod.nodes.kind import BuiltNode, Resources
from flowpod.nodes.python.flow_modules import FlowModules
from flowpod.telemetry.redaction import REDACTED
from flowpod.telemetry.tracing import Tracing
from flowpod.threads import Threads


@dataclass(frozen=True, slots=True)
class Package:
    """A flow that is ready to run.

    `nodes` are the built nodes by name, `bodies` the graphs of the nodes inside others, by the outer node's name.
    `model` is the model behind the chat output, or "". `streams` maps the outputs that Prompt Flow's
    serving streams to whether they always stream.
    """

    flow: Flow
    graph: Graph
    bodies: Mapping[str, Graph]
    wiring: Wiring
    nodes: Mapping[str, BuiltNode]
    resources: Resources
    model: str
    streams: Mapping[str, bool]

    def without_secrets(self, values: Mapping[str, Any], references: Mapping[str, Any]) -> dict[str, Any]:
        """Return `values` with those hidden that `references` takes from secrets: inputs, or what callers send."""
        return {name: REDACTED if self._is_secret(references.get(name)) else value for name, value in values.items()}

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

    Returns all problems, and the package unless one of them is an error; it cannot run with a problem of the
    environment either. `environ` provides `${env:NAME}`. The connections in the file or folder `connections` take
    precedence over the flow's own. `assembled` is the copy of the flow that contains what it includes. `set_variables`
    is called with the flow's environment variables before any of its code runs. `private_urls` allows images at private
    addresses.
    """
    try:
        loaded = load_flow(path, KINDS, environ, connections, assembled)
    except FlowProblems as error:
        return None, list(error.problems)
    source = loaded.source
    for connection in loaded.flow.connections.values():
        tracing.content.secrets.add(secret_values(connection))
    set_variables(loaded.flow.environment)
    flow = _with_default_images(loaded.flow, source)
    models = ModelRegistry(flow.connections)
    every_node = list(all_nodes(list(flow.nodes.values())))
    node_files = _node_files(every_node)
    modules = FlowModules(flow.folder, node_files)
    resources = Resources(
        flow.folder, models, Threads(threads), tracing, Threads(threads), modules, flow.connections, private_urls
    )
    built = {
        node.name: built
        for node in every_node
        if node.name not in loaded.invalid_nodes and (built := _build_node(node, flow, resources, source)) is not None
    }
    problems = [*source.problems, *loaded.other_problems, *late_imports(flow.folder, node_files)]
    if any(problem.severity == "error" for problem in problems):
        return None, problems
    bodies = {node.name: Graph.of({inner.name: inner for inner in node.body}) for node in every_node if node.body}
    graph, wiring = Graph.of(flow.nodes), Wiring.of(flow)
    model, streams = _chat_model(flow, wiring, built), _streams(flow, graph, wiring, built)
    return Package(flow, graph, bodies, wiring, built, resources, model, streams), problems


def _node_files(nodes: Sequence[Node]) -> list[str]:
    """Return the paths of the Python files in which the nodes' tools are."""
    sources = (node.options.source for node in nodes if isinstance(node.options, PromptFlowOptions))
    return [source.path for source in sources if source.type == "code" and source.path.endswith(".py")]


def _with_default_images(flow: Flow, source: Source) -> Flow:
    """Return the flow with the image files among its inputs' defaults read."""
    rules, inputs = ImageRules(flow.folder, private_urls=True), dict(flow.inputs)
    for name, declared in flow.inputs.items():
        if declared.default is not None:
            try:
                default = rules.checked(declared.default, is_image=declared.type == "image")
                inputs[name] = replace(declared, default=default)
            except ValueError as error:
                source.add(("inputs", name, "default"), str(error))
    return replace(flow, inputs=inputs)


def _build_node(node: Node, flow: Flow, resources: Resources, source: Source) -> BuiltNode | None:
    kind = KINDS[node.type]
    try:
        built = kind.build(node, node.options, resources)
    except BuildError as error:
        place = (int(part) if part.isdecimal() else part for part in error.key.split("."))
        source.add((*node.key, *place), f"node {node.name!r}: {error.message}")
        return None
    except ModuleNotFoundError as error:
        if not kind.extra:
            raise
        text = f"{kind.name} nodes need {error.name}: pip install 'flowpod[{kind.extra}]'"
        source.add((*node.key, "type"), f"node {node.name!r}: {text}")
        return None
    for name in sorted(built.template_variables - set(node.inputs)):
        text = f"node {node.name!r}: its template uses {name!r}, which is not an input of the node: it will be empty"
        source.add((*node.key, "inputs"), text, "warning")
    places = {name: key for key, name in node.connections.items()}
    for name in sorted({*places, *built.connections} & flow.connections.keys()):
        for text in flow.connections[name].problems:
            source.add((*node.key, places.get(name, "inputs")), text, "environment")
    return built


def _chat_model(flow: Flow, wiring: Wiring, built: Mapping[str, BuiltNode]) -> str:
    value = flow.outputs[flow.chat_output].value if flow.chat_output else None
    names = {value.name} if isinstance(value, Reference) and value.source == "node" else set()
    names |= wiring.sources_of(flow, flow.chat_output or "")
    return next((node.model for name, node in built.items() if name in names and node.model), "")


def _streams(flow: Flow, graph: Graph, wiring: Wiring, built: Mapping[str, BuiltNode]) -> dict[str, bool]:
    """Return the outputs that stream in Prompt Flow's serving, and whether they always do.

    A condition may bypass the node, so in a flow with conditions no node certainly streams (promptflow,
    executor/flow_executor.py and core/_serving/response_creator.py).
    """
    certain = all(node.activate is None and not node.after for node in flow.nodes.values())
    streams = {}
    for name, node in flow.nodes.items():
        how = built[name].streams or KINDS[node.type].streams
        if how == "no" or (how == "unread" and graph.dependants[name]):
            continue
        always = node.writes_to is not None or (certain and how != "perhaps")
        streams.update(dict.fromkeys(wiring.feeds.get(name, ()), always))
    return streams
