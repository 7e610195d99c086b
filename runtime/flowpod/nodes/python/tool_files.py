"""Imports the Python files of a flow and finds the tool in each: a function, or a method of a class."""

import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from flowpod.compat.marker import TOOL_MARK
from flowpod.compat.stand_ins import IMPORT_NAMES
from flowpod.errors import BuildError

_LANGSTUDIO_ENTRY = "invoke"


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


def file_tool(folder: Path, path: str, modules: dict[Path, ModuleType]) -> Tool:
    """Return the tool in the file `path` of a flow, which is imported once and kept in `modules`.

    Raises BuildError that explains the error and names its line.
    """
    file = folder / path
    if file not in modules:
        modules[file] = _load(file)
    return _tool(modules[file], path)


def _load(path: Path) -> ModuleType:
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    name = f"flowpod_node_{digest}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BuildError("source.path", f"{path.name} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses of the module look themselves up here
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise BuildError("source.path", _import_failure(path, error)) from error
    return module


def _import_failure(path: Path, error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename == str(path):
        line = error.lineno
    else:
        frames = traceback.extract_tb(error.__traceback__)
        line = next((frame.lineno for frame in reversed(frames) if frame.filename == str(path)), None)
    place = f"{path.name}, line {line}" if line else path.name
    return f"{place}: {type(error).__name__}: {error}{_remedy(error)}"


def _remedy(error: BaseException) -> str:
    if not isinstance(error, ModuleNotFoundError):
        return ""
    package, _, rest = str(error.name).partition(".")
    what = package if rest and package in IMPORT_NAMES else "it"
    what = "promptflow-tools" if str(error.name).startswith("promptflow.tools") else what
    return f"; install {what} in Flowpod's environment"


def _tool(module: ModuleType, path: str) -> Tool:
    found = _functions(module) or _methods(module)
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


_Found = dict[str, tuple[Callable[..., Any], type | None]]


def _functions(module: ModuleType) -> _Found:
    return {name: (value, None) for name, value in vars(module).items() if _is_marked(value)}


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
