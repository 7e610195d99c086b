"""Loading a flow from its folder, with every check that does not run the flow's code."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flowpod.errors import FlowProblems, Problem
from flowpod.flow.document.base import PromptFlowOptions
from flowpod.flow.document.flow import FlowDocument, InputOptions
from flowpod.flow.document.located_yaml import Source
from flowpod.flow.document.node_reader import NodeDocument, NodeReader, names_of, read_node_documents
from flowpod.flow.document.variants import with_default_variants
from flowpod.flow.kinds import FlowKinds
from flowpod.flow.load.aggregation import without_aggregation
from flowpod.flow.load.check import check_flow
from flowpod.flow.load.connections import load_connections
from flowpod.flow.load.environment import variables_of
from flowpod.flow.load.includes import FILE
from flowpod.flow.model import Flow, HistoryRules, Input, Output
from flowpod.flow.paths import kind_of
from flowpod.flow.values import coerce

_RESERVED = ("flowpod", "flowpod.py")
_DEFAULT_HISTORY = "chat_history"
_UNSUPPORTED_TYPES = ("assistant_definition",)


@dataclass(frozen=True, slots=True)
class LoadedFlow:
    """A flow, its file with the problems in it, the problems of other files, and the nodes that cannot be built."""

    flow: Flow
    source: Source
    other_problems: Sequence[Problem]
    invalid_nodes: frozenset[str]


def load_flow(
    path: Path,
    kinds: FlowKinds,
    environ: Mapping[str, str],
    connections_path: Path | None = None,
    assembled: Path | None = None,
) -> LoadedFlow:
    """Load the flow in the folder `path`, whose nodes are of these `kinds`.

    The connections at `connections_path` take precedence over the flow's own. `assembled` is the copy of the folder
    that contains the flow's includes, if it has any. Raises FlowProblems when the file is missing, is not YAML or does
    not fit the schema.
    """
    folder = path.parent if path.name == FILE else path
    if not (folder / FILE).is_file():
        raise FlowProblems([_missing_flow(folder)])
    source = Source(folder / FILE)
    readable = not source.problems
    content = {} if source.content is None else with_default_variants(source)
    document = source.read(FlowDocument, content) if readable else None
    nodes = read_node_documents(source, kinds, ("nodes",), document.nodes) if document is not None else ()
    if document is None or any(problem.severity == "error" for problem in source.problems):
        raise FlowProblems(source.problems)
    connections, other_problems = load_connections(folder, environ, connections_path)
    for index, text in enumerate(document.additional_includes or ()):
        if kind_of(folder / text) is None:
            message = f"there is no file or folder {text!r}; paths start at the flow's folder"
            source.add(("additional_includes", index), message)
    reader = _Reader(source, document, nodes)
    chat_input, chat_history, chat_images, chat_output = reader.chat_roles()
    flow = Flow(
        folder=(assembled or folder).resolve(),
        inputs=reader.inputs(),
        outputs=reader.outputs(),
        nodes={node.name: node for node in reader.nodes.read_nodes(nodes)},
        connections=connections,
        variables=reader.nodes.read_variables(("variables",), document.variables),
        display_name=document.display_name,
        description=document.description,
        chat_input=chat_input,
        chat_history=chat_history,
        chat_images=chat_images,
        chat_output=chat_output,
        history=HistoryRules(document.history.rounds, document.history.tokens),
        environment=variables_of(document.environment_variables, connections, environ, source),
    )
    invalid = check_flow(flow, kinds, source)
    reader.check_features()
    aggregating = [node.options.name for node in nodes if _aggregates(node)]
    other_problems += _reserved_names(assembled or folder)
    return LoadedFlow(without_aggregation(flow, aggregating, source), source, other_problems, invalid)


def _missing_flow(folder: Path) -> Problem:
    if not folder.is_dir():
        return Problem(str(folder), "", "the folder does not exist")
    if (folder / "flow.flex.yaml").exists():
        text = "this is a flex flow, which is a Python program; Flowpod serves flow.dag.yaml"
        return Problem(str(folder / "flow.flex.yaml"), "", text)
    return Problem(str(folder), "", f"there is no {FILE} in this folder")


def _reserved_names(folder: Path) -> list[Problem]:
    """Return a problem for a module of the flow's own that Python could not tell from Flowpod's package."""
    return [
        Problem(name, "", "the module name flowpod is Flowpod's own; rename it, and the imports of it")
        for name in _RESERVED
        if (folder / name).exists()
    ]


class _Reader:
    """Converts a document to the parts of a Flow and adds the problems it finds to the source."""

    def __init__(self, source: Source, document: FlowDocument, nodes: Sequence[NodeDocument]) -> None:
        self._source = source
        self._document = document
        self._nodes = nodes
        self.nodes = NodeReader(source, names_of(nodes))

    def inputs(self) -> dict[str, Input]:
        inputs = {}
        for name, part in self._document.inputs.items():
            has_default, default = "default" in part.model_fields_set, part.default
            if has_default and default is not None:
                try:
                    default = coerce(default, part.type)
                except ValueError as error:
                    self._source.add(("inputs", name, "default"), str(error))
            if part.type in _UNSUPPORTED_TYPES:
                self._source.add(("inputs", name, "type"), f"inputs of type {part.type!r} are not supported")
            inputs[name] = Input(name, part.type, part.description, has_default, default)
        return inputs

    def outputs(self) -> dict[str, Output]:
        return {
            name: Output(
                name,
                part.type,
                self.nodes.read_references(("outputs", name, "reference"), part.reference),
                part.description,
                part.evaluation_only,
            )
            for name, part in self._document.outputs.items()
        }

    def chat_roles(self) -> tuple[str | None, str | None, str | None, str | None]:
        """Return the names of the chat input, the chat history, the input for images and the chat output."""
        inputs, outputs = self._document.inputs, self._document.outputs
        chat_input = self._only("inputs", [name for name, part in inputs.items() if part.is_chat_input])
        chat_history = self._only("inputs", [name for name, part in inputs.items() if _is_history(name, part)])
        chat_images = self._only("inputs", [name for name, part in inputs.items() if part.is_chat_images])
        if chat_images is not None and inputs[chat_images].type != "list":
            text = "an input with is_chat_images: true must be of type list; one of type image needs no such key"
            self._source.add(("inputs", chat_images, "type"), text)
        chat_output = self._only("outputs", [name for name, part in outputs.items() if part.is_chat_output])
        if chat_input is not None and chat_output is None and len(outputs) == 1:
            chat_output = next(iter(outputs))
        if chat_input is not None and chat_output is None:
            text = f"the flow has the chat input {chat_input!r}, but no output with is_chat_output: true"
            self._source.add(("outputs",), text)
        return chat_input, chat_history, chat_images, chat_output

    def _only(self, section: str, names: list[str]) -> str | None:
        if len(names) > 1:
            self._source.add((section,), f"only one may have this chat role; {' and '.join(names)} have it")
        return names[0] if names else None

    def check_features(self) -> None:
        document, add = self._document, self._source.add
        if document.language == "csharp":
            add(("language",), "C# flows are not supported")
        if "history" in document.model_fields_set and not any(_is_history(*item) for item in document.inputs.items()):
            add(("history",), "no input of the flow is a chat history (is_chat_history: true)")
        for node in _nodes_inside(self._nodes):
            if _aggregates(node):
                add((*node.key, "aggregation"), "an aggregation node cannot be inside another node")


def _nodes_inside(nodes: Sequence[NodeDocument]) -> list[NodeDocument]:
    return [found for node in nodes for inner in node.nodes for found in (inner, *_nodes_inside([inner]))]


def _aggregates(node: NodeDocument) -> bool:
    return isinstance(node.options, PromptFlowOptions) and node.options.aggregation


def _is_history(name: str, options: InputOptions) -> bool:
    return name == _DEFAULT_HISTORY if options.is_chat_history is None else options.is_chat_history
