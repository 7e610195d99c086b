"""Finds tools of installed packages by dotted name: `package.module.function` or `package.module.Class.method`."""

import importlib
from types import ModuleType
from typing import Any

from flowpod.errors import BuildError
from flowpod.nodes.python.tool_files import Tool

_KEY = "source.tool"


def package_tool(name: str) -> Tool:
    """Return the tool `name`; raises BuildError that says what is not installed or does not exist."""
    if not name:
        raise BuildError(_KEY, "name the package tool here, as package.module.function")
    module, rest = _module(name)
    found: Any = module
    owner: type | None = None
    for part in rest:
        owner = found if isinstance(found, type) else None
        found = getattr(found, part, None) if owner else vars(found).get(part) if found is module else None
    if found is None and len(rest) > 1 and "." not in module.__name__:
        raise _not_installed(name)  # one of several distributions of the package is missing
    if not callable(found) or isinstance(found, type):
        raise BuildError(_KEY, f"{module.__name__} has no function {'.'.join(rest)!r}")
    return Tool(found, owner, module.__name__)


def _module(name: str) -> tuple[ModuleType, list[str]]:
    """Return the module that the longest possible prefix of `name` names, and the rest of the name."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        path = ".".join(parts[:end])
        try:
            return importlib.import_module(path), parts[end:]
        except ModuleNotFoundError as error:
            if error.name is None or not f"{path}.".startswith(f"{error.name}."):
                text = f"{path} cannot be imported: {error}; install it in Flowpod's environment"
                raise BuildError(_KEY, text) from error
        except Exception as error:
            raise BuildError(_KEY, f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    raise _not_installed(name)


def _not_installed(name: str) -> BuildError:
    return BuildError(_KEY, f"the package of the tool {name!r} is not installed in Flowpod's environment")
