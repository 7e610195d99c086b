"""Finding modules that a flow's functions import and that are not installed.

An import at the top of a node's file fails when the node is built; one inside a function would fail at a request.
"""

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from flowpod.compat.stand_ins import IMPORT_NAMES
from flowpod.errors import Problem
from flowpod.flow.paths import kind_of


def late_imports(folder: Path, paths: list[str]) -> list[Problem]:
    """Return a warning for each missing module that a function imports in the files `paths` or in what they import."""
    problems: list[Problem] = []
    waiting, seen = [(folder / path, False) for path in paths], set[tuple[Path, bool]]()
    while waiting:
        path, whole = waiting.pop(0)
        if (path, whole) in seen or (path, False) in seen or (tree := _tree(path)) is None:
            continue
        seen.add((path, whole))
        for line, name, late in _imports(tree, late=whole):
            if own := _own_file(folder, name):
                waiting.append((own, late))
            elif late and not _is_installed(name):
                text = f"{name} is imported when the flow runs, and is not installed in Flowpod's environment"
                problems.append(Problem(str(path.relative_to(folder)), "", text, line, "warning"))
    return problems


def _tree(path: Path) -> ast.AST | None:
    try:
        return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None  # building the node reports the error


def _imports(node: ast.AST, *, late: bool) -> Iterator[tuple[int, str, bool]]:
    """Yield (line, module, whether a function imports it) of each import outside try statements."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Try):
            continue
        if isinstance(child, ast.Import):
            yield from ((child.lineno, alias.name, late) for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module and not child.level:
            yield child.lineno, child.module, late
        else:
            yield from _imports(child, late=late or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))


def _own_file(folder: Path, name: str) -> Path | None:
    path = folder.joinpath(*name.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if kind_of(file) == "file"), None)


def _is_installed(name: str) -> bool:
    top = name.partition(".")[0]
    try:
        return importlib.util.find_spec(name if top in IMPORT_NAMES else top) is not None
    except (ImportError, ValueError):
        return False
