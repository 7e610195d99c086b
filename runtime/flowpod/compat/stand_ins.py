"""Making `langstudio` and `promptflow` importable where those packages are not installed."""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

IMPORT_NAMES = ("langstudio", "promptflow")
DISTRIBUTIONS = frozenset(
    ["langstudio", "promptflow", "promptflow-azure", "promptflow-core", "promptflow-devkit", "promptflow-tracing"]
)
"""Packages that a flow may require and that need not be installed, because the stand-ins have their names."""

_FOLDER = str(Path(__file__).parent / "imports")


class _Finder:
    """Finds the stand-ins after all other finders.

    A folder at the end of the import path would not do: it would win over promptflow-core, a namespace package.
    """

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [_FOLDER], target) if path is None else None


def install() -> None:
    """Make `langstudio` and `promptflow` importable; installed packages of these names win."""
    if _Finder not in sys.meta_path:
        sys.meta_path.append(_Finder)
