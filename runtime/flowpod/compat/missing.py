"""The error for a name that a stand-in does not have."""

import sys
from collections.abc import Callable
from importlib.machinery import PathFinder
from typing import Any


def refuse_others(module: str) -> Callable[[str], Any]:
    """Return a `__getattr__` for `module` that raises ImportError, with the remedy, for every name it lacks."""

    def refuse(name: str) -> Any:
        folders = None if name.startswith("__") else getattr(sys.modules[module], "__path__", None)
        if name.startswith("__") or (folders and PathFinder.find_spec(name, folders)):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")  # Python then imports the submodule
        package = module.partition(".")[0]
        raise ImportError(
            f"Flowpod's stand-in for {module} has no {name!r}; install {package} in Flowpod's environment to use it"
        )

    return refuse
