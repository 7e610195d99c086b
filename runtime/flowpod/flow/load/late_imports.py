"""What a flow's Python files import late, inside functions, and is not installed.

The imports at the top of a node's file fail when the node is built; the late ones would fail at the first request.
"""

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from flowpod.errors import Problem
from flowpod.flow.paths import kind_of

_STAND_INS = ("promptflow", "langstudio")


def late_imports(folder: Path, paths: list[str]) -> list[Problem]:
    """Return a warning for each missing module that the files `paths`, or the flow's files behind them, import late."""
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
            elif late and not _is_there(name):
                text = f"{name} is imported when the flow runs, and is not installed in Flowpod's environment"
                problems.append(Problem(str(path.relative_to(folder)), "", text, line, "warning"))
    return problems


def _tree(path: Path) -> ast.AST | None:
    try:
        return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None  # the node that needs the file says what is wrong with it


def _imports(node: ast.AST, *, late: bool) -> Iterator[tuple[int, str, bool]]:
    """Yield (line, module, whether a function imports it) of each import that is not tried for."""
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


def _is_there(name: str) -> bool:
    top = name.partition(".")[0]
    try:
        return importlib.util.find_spec(name if top in _STAND_INS else top) is not None
    except (ImportError, ValueError):
        return False
