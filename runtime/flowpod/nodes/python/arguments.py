"""The arguments of a python node's tool: the node's inputs, with literals converted once to the annotated types."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any

from flowpod.compat import modules_in_force
from flowpod.content.images import ImageRules
from flowpod.errors import BuildError
from flowpod.flow.document.base import SourceOptions
from flowpod.flow.model import Node
from flowpod.flow.values import read_literal
from flowpod.nodes.kind import Resources
from flowpod.nodes.prompt import read_template
from flowpod.nodes.python.annotations import connection_classes, is_image, is_prompt, literal_kind, parameters_of
from flowpod.nodes.python.connection_objects import connection_object


class Arguments:
    """The arguments of a tool's function, or of its class's constructor.

    `optional` are the parameters that have a default, `connections` the names of the connections that are passed.
    """

    def __init__(self, function: Callable[..., Any], node: Node, resources: Resources, *, method: bool = False) -> None:
        self.parameters = parameters_of(function)
        if method:
            del self.parameters[next(iter(self.parameters))]  # self
        self.takes_any = any(
            parameter.kind is parameter.VAR_KEYWORD for parameter in inspect.signature(function).parameters.values()
        )
        self.optional = frozenset(
            name for name, parameter in self.parameters.items() if parameter.default is not parameter.empty
        )
        self.connections: set[str] = set()
        self._resources = resources
        self.literals: dict[str, Any] = {}
        self._dropped: set[str] = set()
        self._given: dict[str, Any] = {}
        for name, value in node.literals.items():
            if name in self.parameters:
                self._take(name, value)

    def _take(self, name: str, value: Any) -> None:
        if value is None or value == "":
            if name in self.optional:
                self._dropped.add(name)  # promptflow treats an empty literal as absent
            return
        parameter = self.parameters[name]
        if classes := connection_classes(parameter):
            self.literals[name] = connection_object(value, classes, self._resources.connections, f"inputs.{name}")
            self.connections.add(value)
            return
        try:
            image = is_image(parameter)
            read = value if image else read_literal(value, literal_kind(parameter))
            self.literals[name] = ImageRules(self._resources.folder, private_urls=True).checked(read, is_image=image)
        except ValueError as error:
            raise BuildError(f"inputs.{name}", str(error)) from None

    def give_prompt(self, source: SourceOptions, resources: Resources) -> None:
        """Pass the prompt file as the parameter annotated with PromptTemplate; raises BuildError if none fits."""
        name = next((name for name, parameter in self.parameters.items() if is_prompt(parameter)), None)
        if name is None:
            raise BuildError("source.tool", f"{source.tool} has no parameter that is annotated with PromptTemplate")
        variables = read_template(source.path, resources).variables
        if taken := sorted(variables & self.parameters.keys()):
            text = f"{source.path} uses {', '.join(taken)} as a variable, which is a parameter of the tool; rename it"
            raise BuildError("source.path", text)
        text = (resources.folder / source.path).read_text(encoding="utf-8")
        self._given[name] = modules_in_force.value_types().PromptTemplate(text)
        del self.parameters[name]

    def exclude(self, names: Iterable[str]) -> None:
        """Stop passing these inputs: they belong to the tool's constructor."""
        self._dropped.update(names)

    def of(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments for the inputs of a run."""
        passed = {name: self._value(name, value) for name, value in inputs.items() if name not in self._dropped}
        return {**passed, **self._given}

    def _value(self, name: str, value: Any) -> Any:
        literal = self.literals.get(name, value)
        return deepcopy(literal) if isinstance(literal, list | dict) else literal  # the tool may modify it


def check_names(tool: str, node: Node, *parts: Arguments) -> None:
    """Raise BuildError unless the node's inputs match the parameters of its tool."""
    known = [name for part in parts for name in part.parameters]
    for name in node.inputs:
        if name not in known and not any(part.takes_any for part in parts):
            raise BuildError(f"inputs.{name}", f"{tool} has no parameter {name!r}; it has {', '.join(known) or 'none'}")
    missing = [name for part in parts for name in part.parameters if name not in part.optional | node.inputs.keys()]
    if missing:
        raise BuildError("inputs", f"{tool} also needs {', '.join(missing)}")
