"""What Flowpod's stand-ins for other packages do not have."""

from collections.abc import Callable
from typing import Any


def named_in(module: str) -> Callable[[str], Any]:
    """Return a `__getattr__` for `module` that refuses each further name with an ImportError that says why."""

    def missing(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        package = module.partition(".")[0]
        raise ImportError(
            f"Flowpod's own {module} has no {name!r}; install {package} in Flowpod's environment to use it"
        )

    return missing
