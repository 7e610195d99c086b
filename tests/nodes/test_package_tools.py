"""Nodes whose tool is in an installed package, with and without a prompt file."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from flowpod.engine.events import RunOutput
from tests.support.flows import problems_of, run_flow, write_flow

PACKAGE = """
from promptflow.connections import SerpConnection
from promptflow.contracts.types import PromptTemplate
from promptflow.core import ToolProvider, tool

@tool
def add(a: int, b: int = 1):
    return a + b

@tool
def prompted(c: SerpConnection, prompt: PromptTemplate, times: int = 1, **variables):
    return [type(prompt).__name__, prompt, c.api_key, times, variables]

class Counter(ToolProvider):
    def __init__(self, start: int):
        super().__init__()
        self.start = start

    @tool
    def count(self, by: int):
        return self.start + by
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of an installed package."""
    name = f"installed_{tmp_path.name}".replace("-", "_")
    write_flow(tmp_path / "site", "", {f"{name}/__init__.py": "", f"{name}/tools.py": PACKAGE})
    (tmp_path / f"site/{name}/broken.py").write_text("1 / 0")
    (tmp_path / f"site/{name}/wanting.py").write_text("import no_such_package_here")
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield name
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        del sys.modules[module]


def flow(tmp_path: Path, source: Mapping[str, str], inputs: Mapping[str, Any], kind: str = "python") -> Path:
    dag = {
        "outputs": {"a": {"type": "object", "reference": "${n.output}"}},
        "nodes": [{"name": "n", "type": kind, "source": source, "inputs": inputs}],
    }
    files = {"p.jinja2": "Say {{ word }}!", "connections.yaml": "serp: {type: serp, api_key: k}"}
    return write_flow(tmp_path / "flow", json.dumps(dag), files)


async def value(folder: Path) -> Any:
    events = await run_flow(folder, {})
    return next(event.delta for event in events if isinstance(event, RunOutput))


@pytest.mark.parametrize(
    ("tool", "inputs", "expected"),
    [
        ("tools.add", {"a": "2"}, 3),
        ("tools.add", {"a": 2, "b": 5}, 7),
        ("tools.Counter.count", {"start": "10", "by": 1}, 11),
    ],
)
async def test_package_tool_runs(
    tmp_path: Path, package: str, tool: str, inputs: dict[str, Any], expected: int
) -> None:
    assert await value(flow(tmp_path, {"type": "package", "tool": f"{package}.{tool}"}, inputs)) == expected


@pytest.mark.parametrize("kind", ["custom_llm", "python"])
async def test_prompt_file_arrives_as_a_template_with_its_variables(tmp_path: Path, package: str, kind: str) -> None:
    source = {"type": "package_with_prompt", "tool": f"{package}.tools.prompted", "path": "p.jinja2"}
    folder = flow(tmp_path, source, {"c": "serp", "times": "2", "word": "hi"}, kind)
    assert await value(folder) == ["PromptTemplate", "Say {{ word }}!", "k", 2, {"word": "hi"}]


@pytest.mark.parametrize(
    ("source", "inputs", "key", "message"),
    [
        (
            {"tool": "no_such_package.x.f"},
            {},
            "source.tool",
            "the package of the tool 'no_such_package.x.f' is not installed",
        ),
        ({"tool": "{p}.tools.gone"}, {}, "source.tool", "{p}.tools has no function 'gone'"),
        ({"tool": "{p}.tools.Counter"}, {}, "source.tool", "{p}.tools has no function 'Counter'"),
        ({"tool": "{p}.tools.Counter.gone"}, {}, "source.tool", "{p}.tools has no function 'Counter.gone'"),
        ({"tool": "{p}.broken.f"}, {}, "source.tool", "{p}.broken cannot be imported: ZeroDivisionError"),
        (
            {"tool": "{p}.wanting.f"},
            {},
            "source.tool",
            "{p}.wanting cannot be imported: No module named 'no_such_package_here'; install",
        ),
        ({}, {}, "source.tool", "name the package tool here"),
        ({"tool": "{p}.tools.add"}, {}, "inputs", "add in {p}.tools also needs a"),
        ({"tool": "{p}.tools.add"}, {"a": 1, "x": 1}, "inputs.x", "add in {p}.tools has no parameter 'x'"),
        ({"tool": "{p}.tools.add"}, {"a": "many"}, "inputs.a", "expected an integer, got 'many'"),
        (
            {"tool": "{p}.tools.add", "type": "package_with_prompt", "path": "p.jinja2"},
            {"a": 1},
            "source.tool",
            "{p}.tools.add has no parameter that is annotated with PromptTemplate",
        ),
    ],
)
def test_problem_of_a_package_tool_is_named_at_load(
    tmp_path: Path, package: str, source: dict[str, str], inputs: dict[str, Any], key: str, message: str
) -> None:
    filled = {"type": "package", **{name: text.replace("{p}", package) for name, text in source.items()}}
    (problem,) = problems_of(flow(tmp_path, filled, inputs))
    assert problem.key == f"nodes[0].{key}"
    assert problem.message.startswith(f"node 'n': {message.replace('{p}', package)}")


def test_prompt_that_uses_a_parameters_name_is_refused(tmp_path: Path, package: str) -> None:
    source = {"type": "package_with_prompt", "tool": f"{package}.tools.prompted", "path": "p.jinja2"}
    folder = flow(tmp_path, source, {"c": "serp"})
    (folder / "p.jinja2").write_text("{{ times }} {{ c }}")
    (problem,) = problems_of(folder)
    assert (
        problem.message == "node 'n': p.jinja2 uses c, times as a variable, which is a parameter of the tool; rename it"
    )


def test_custom_llm_needs_a_package_tool(tmp_path: Path) -> None:
    (problem,) = problems_of(flow(tmp_path, {"type": "code", "path": "p.jinja2"}, {}, "custom_llm"))
    assert problem.message == "node 'n': a custom_llm node has the source type package_with_prompt"


RENDER = "promptflow.tools.template_rendering.render_template_jinja2"


async def test_template_tool_is_built_in(tmp_path: Path) -> None:
    source = {"type": "package", "tool": RENDER}
    assert await value(flow(tmp_path, source, {"template": "Hello {{ name }}", "name": "ann"})) == "Hello ann"
    (problem,) = problems_of(flow(tmp_path, source, {"template": 5}))
    assert problem.message == "node 'n': the tool needs a template, as a literal"


def test_tool_that_is_not_built_in_names_its_package(tmp_path: Path) -> None:
    source = {"type": "package", "tool": "promptflow.tools.embedding.embedding"}
    (problem,) = problems_of(flow(tmp_path, source, {}))
    assert problem.message.startswith("node 'n': the package of the tool 'promptflow.tools.embedding.embedding' is not")
