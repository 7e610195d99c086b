"""The names that flows import, `langstudio` and `promptflow`, for where those packages are not installed."""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

_IMPORTS = str(Path(__file__).parent / "imports")


class _StandIns:
    """Finds the stand-ins. It is asked last, because promptflow-core alone is a namespace package.

    A folder at the end of the import path would go before such a package.
    """

    @staticmethod
    def find_spec(
        name: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Return where the package `name` is; what is in a package is found by Python itself."""
        return PathFinder.find_spec(name, [_IMPORTS], target) if path is None else None


def install() -> None:
    """Make `langstudio` and `promptflow` importable; packages that are installed under these names go first."""
    if _StandIns not in sys.meta_path:
        sys.meta_path.append(_StandIns)
