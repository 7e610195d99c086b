import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.serving import ROOT

# What each layer may import of ours, beside itself and EVERYONE. The longest name that fits a module is its layer.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "errors": (),
    "jsonable": (),
    "logs": (),
    "settings": (),
    "run.events": (),
    "telemetry": ("settings",),
    "flow": (),
    "nodes": ("telemetry",),
    "history": (),
    "run": ("flow", "nodes", "history", "telemetry"),
    # Of telemetry, api has what it shows of it and counts in it: spans are the run's.
    "api": (
        *("run.events", "run.request", "run.run", "run.service", "run.recorder", "run.records"),
        *("history.service", "history.archive", "history.runs", "history.replies"),
        *("telemetry.metrics", "telemetry.prometheus", "telemetry.recorder", "telemetry.snapshots"),
        *("telemetry.store", "telemetry.tree"),
    ),
    "compat": ("nodes.base",),
}
EVERYONE = ("errors", "jsonable", "logs", "__version__")
COMPOSITION = ("", "__main__", "app", "cli", "server", "opening", "terminal", "trace_commands", "trace_view", "workers")

# What these layers may import beside the standard library.
THIRD_PARTY: dict[str, tuple[str, ...]] = {
    "errors": (),
    "settings": ("pydantic", "pydantic_settings"),
    "run.events": (),
    "telemetry": ("opentelemetry", "orjson", "prometheus_client"),
    "flow": ("yaml", "pydantic"),
    "compat": ("opentelemetry",),
}
# Where these packages, and nowhere else, may be imported.
ONLY_IN: dict[str, tuple[str, ...]] = {
    "starlette": ("api", "app", "server"),
    "sse_starlette": ("api.sse",),
    "uvicorn": ("server",),
    "sqlalchemy": ("history",),
    "aiosqlite": ("history",),
    "aiomysql": ("history",),
}
NOT_IN: dict[str, tuple[str, ...]] = {"asyncio": ("flow",)}
ENVIRONMENT = ("os.environ", "os.environb", "os.getenv", "os.putenv", "os.unsetenv")
READS_ENVIRONMENT = ("cli",)


def violations(source: str, module: str) -> list[str]:
    """Return what is wrong with the imports of `source`, the text of `runtime.<module>` ("api.sse"; "" for runtime)."""
    layer = layer_of(module)
    if layer is None and module not in COMPOSITION:
        return [f"{module}: belongs to no layer; add it to the table"]
    found = []
    for line, name in names_used(ast.parse(source), module):
        reason = own_violation(layer, name) if name.startswith("runtime") else other_violation(layer, module, name)
        if reason:
            found.append(f"{module or 'runtime'}:{line}: {reason}")
    return found


def own_violation(layer: str | None, name: str) -> str:
    target = name.removeprefix("runtime").removeprefix(".")
    if layer is None or is_under(target, (*MAY_IMPORT[layer], *EVERYONE, layer)):
        return ""
    return f"{layer} may not import {name}"


def other_violation(layer: str | None, module: str, name: str) -> str:
    if is_under(name, ENVIRONMENT):
        return "" if module in READS_ENVIRONMENT else f"only cli reads the environment, not by {name}"
    root = name.partition(".")[0]
    if root in NOT_IN and is_under(module, NOT_IN[root]):
        return f"{root} may not be imported here"
    if root in ONLY_IN and not is_under(module, ONLY_IN[root]):
        return f"{root} may be imported in {', '.join(ONLY_IN[root])} only"
    if layer in THIRD_PARTY and root not in sys.stdlib_module_names and root not in THIRD_PARTY[layer]:
        return f"{layer} may not import {root}"
    return ""


def names_used(tree: ast.AST, module: str) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of every import, wherever it stands, and of every use of `os.…`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = ["runtime", *module.split(".")][: -node.level] if node.level else []
            start = ".".join([*parts, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{start}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os":
            yield node.lineno, f"os.{node.attr}"


def layer_of(module: str) -> str | None:
    return max((layer for layer in MAY_IMPORT if is_under(module, (layer,))), key=len, default=None)


def is_under(name: str, places: tuple[str, ...]) -> bool:
    return any(name == place or name.startswith(f"{place}.") for place in places)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT / "runtime").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted((ROOT / "runtime").rglob("*.py"))}


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_what_its_layer_may(module: str) -> None:
    assert violations(MODULES[module].read_text(), module) == []


def test_all_layers_have_modules() -> None:
    assert {layer_of(module) for module in MODULES} - {None} == set(MAY_IMPORT)


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("flow.load", "import asyncio", "flow.load:1: asyncio may not be imported here"),
        ("flow.load", "from asyncio import timeout", "flow.load:1: asyncio may not be imported here"),
        ("flow.load", "from runtime.nodes import KINDS", "flow.load:1: flow may not import runtime.nodes.KINDS"),
        ("flow.load", "import orjson", "flow.load:1: flow may not import orjson"),
        ("flow.load", "def f():\n    import runtime.run", "flow.load:2: flow may not import runtime.run"),
        ("flow.load", "from runtime import api", "flow.load:1: flow may not import runtime.api"),
        ("flow.load", "from ..nodes import llm", "flow.load:1: flow may not import runtime.nodes.llm"),
        ("flow.load", "from .. import nodes", "flow.load:1: flow may not import runtime.nodes"),
        (
            "nodes.llm",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from runtime.run.run import Run",
            "nodes.llm:3: nodes may not import runtime.run.run.Run",
        ),
        (
            "telemetry.tracing",
            "from runtime.flow.model import Flow",
            "telemetry.tracing:1: telemetry may not import runtime.flow.model.Flow",
        ),
        ("history.store", "import runtime.flow.model", "history.store:1: history may not import runtime.flow.model"),
        ("run.run", "import starlette", "run.run:1: starlette may be imported in api, app, server only"),
        ("run.run", "from runtime import api", "run.run:1: run may not import runtime.api"),
        (
            "run.events",
            "from runtime.run.request import RunRequest",
            "run.events:1: run.events may not import runtime.run.request.RunRequest",
        ),
        (
            "api.simple",
            "from runtime.run.package import Package",
            "api.simple:1: api may not import runtime.run.package.Package",
        ),
        ("api.simple", "from runtime.run import package", "api.simple:1: api may not import runtime.run.package"),
        ("api.simple", "import sse_starlette.sse", "api.simple:1: sse_starlette may be imported in api.sse only"),
        ("api.body", "import sqlalchemy", "api.body:1: sqlalchemy may be imported in history only"),
        (
            "compat.marker",
            "from runtime.nodes.python import PythonNode",
            "compat.marker:1: compat may not import runtime.nodes.python.PythonNode",
        ),
        ("nodes.llm", "import os\nos.environ['A']", "nodes.llm:2: only cli reads the environment, not by os.environ"),
        ("app", "from os import getenv", "app:1: only cli reads the environment, not by os.getenv"),
        ("extra", "", "extra: belongs to no layer; add it to the table"),
    ],
)
def test_bad_import_is_found(module: str, source: str, expected: str) -> None:
    assert violations(source, module) == [expected]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("api.simple", "from runtime.run.service import FlowService"),
        ("api.simple", "from starlette.requests import Request"),
        ("api.sse", "from sse_starlette import EventSourceResponse"),
        ("cli", "import os\nos.environ.get('A')\nfrom runtime.flow import load"),
        ("flow.load", "from runtime import jsonable\nfrom runtime.errors import Problem\nfrom . import model"),
        ("history.store", "import os\nos.open('a', os.O_RDONLY)"),
    ],
)
def test_good_import_is_not_reported(module: str, source: str) -> None:
    assert violations(source, module) == []
