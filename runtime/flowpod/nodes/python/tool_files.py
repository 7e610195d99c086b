"""Finds the tool in a Python file of a flow: a function, or a method of a class."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from flowpod.compat.marker import TOOL_MARK
from flowpod.errors import BuildError
from flowpod.nodes.python.flow_modules import FlowModules

_LANGSTUDIO_ENTRY = "invoke"
_Found = dict[str, tuple[Callable[..., Any], type | None]]


@dataclass(frozen=True, slots=True)
class Tool:
    """What a python node calls. `owner` is the class of a method, `place` is where the tool was found."""

    function: Callable[..., Any]
    owner: type | None
    place: str

    @property
    def title(self) -> str:
        """The name of the tool in messages."""
        return f"{self.function.__name__} in {self.place}"


def file_tool(path: str, modules: FlowModules) -> Tool:
    """Return the tool in the file `path` of a flow; raises BuildError that explains the error and names its line."""
    return _tool(modules.load(path), path)


def _tool(module: ModuleType, path: str) -> Tool:
    functions: _Found = {name: (value, None) for name, value in vars(module).items() if _is_marked(value)}
    found = functions or _methods(module)
    own = {name: tool for name, tool in found.items() if tool[0].__module__ == module.__name__} or found
    if len(own) > 1:
        raise BuildError("source.path", f"{path} has {len(own)} functions marked @tool: {', '.join(own)}; leave one")
    for function, owner in own.values():
        return Tool(function, owner, path)
    entry = getattr(module, _LANGSTUDIO_ENTRY, None)
    if entry is None:
        raise BuildError("source.path", f"{path} has no function marked @tool")
    if not inspect.isfunction(entry):
        raise BuildError("source.path", f"{path}: {_LANGSTUDIO_ENTRY} is not a function")
    return Tool(entry, None, path)


def _methods(module: ModuleType) -> _Found:
    classes = [
        value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__
    ]
    return {
        f"{owner.__name__}.{name}": (value, owner)
        for owner in classes
        for name, value in inspect.getmembers(owner, inspect.isfunction)
        if _is_marked(value)
    }


def _is_marked(value: Any) -> bool:
    return inspect.isfunction(value) and hasattr(value, TOOL_MARK)
