"""Imports the Python files of a flow; they may have the name of an installed module."""

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib.machinery import BuiltinImporter, FrozenImporter
from pathlib import Path
from types import ModuleType

from flowpod.compat.stand_ins import IMPORT_NAMES
from flowpod.errors import BuildError


class FlowModules:
    """The modules of the flow in `folder`, each imported once: its `node_files`, and the files that those import.

    A flow may have a module named like an installed one, such as `yaml`. While its files are imported, the flow's own
    module comes first; at any other time, as when a function imports, the installed one does. The file of a node is
    found by its path, so its name hides nothing: `json.py` may be a node while other files import Python's `json`.
    """

    def __init__(self, folder: Path, node_files: Collection[str] = ()) -> None:
        self.files: dict[Path, ModuleType] = {}
        self._folder = folder
        self._shared_names = self._names_of_installed_modules({folder / file for file in node_files})
        self._own: dict[str, ModuleType] = {}

    def load(self, path: str) -> ModuleType:
        """Return the module of the file `path` of the flow; raises BuildError that explains an error and its line."""
        file = self._folder / path
        if file not in self.files:
            self.files[file] = self._load(file)
        return self.files[file]

    def _load(self, file: Path) -> ModuleType:
        digest = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:12]
        name = f"flowpod_node_{digest}_{file.stem}"
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise BuildError("source.path", f"{file.name} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses of the module look themselves up here
        try:
            with self._own_modules_first():
                spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            raise BuildError("source.path", _import_failure(file, error)) from error
        return module

    def _names_of_installed_modules(self, node_files: Collection[Path]) -> frozenset[str]:
        """Return the names that the flow shares with installed modules, all of which are imported now.

        Flowpod may need them later, when the flow's folder is first on the import path.
        """
        names = {file.stem for file in self._folder.glob("*.py") if file not in node_files}
        names |= {file.parent.name for file in self._folder.glob("*/__init__.py")}
        names = {name for name in names if not _precedes_files(name)}
        path = sys.path
        sys.path = [entry for entry in path if Path(entry).resolve() != self._folder.resolve()]
        try:
            return frozenset(name for name in names if name in sys.modules or _is_importable(name))
        finally:
            sys.path = path

    @contextmanager
    def _own_modules_first(self) -> Iterator[None]:
        installed = _take_modules(self._shared_names)
        sys.modules.update(self._own)
        try:
            yield
        finally:
            self._own = _take_modules(self._shared_names)
            sys.modules.update(installed)


def _precedes_files(name: str) -> bool:
    """Return whether Python finds a module of this name before it looks for files, as it does for `sys` and `io`."""
    return name.startswith("__") or any(finder.find_spec(name) for finder in (BuiltinImporter, FrozenImporter))


def _is_importable(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def _take_modules(names: Collection[str]) -> dict[str, ModuleType]:
    """Remove the modules with these top-level names from the imported ones and return them."""
    taken = [name for name in sys.modules if name.partition(".")[0] in names] if names else []
    return {name: sys.modules.pop(name) for name in taken}


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
