import subprocess
import sys
from pathlib import Path

import pytest

from flowpod.compat import stand_ins
from flowpod.compat.marker import TOOL_MARK
from flowpod.compat.tools import log_metric
from flowpod.compat.tracing import start_trace
from tests.support.serving import ROOT

IMPORTS = ["from langstudio.core import tool", "from promptflow.core import tool", "from promptflow import tool"]


@pytest.mark.parametrize("statement", IMPORTS)
@pytest.mark.parametrize(
    "decorator", ["@tool", "@tool()", "@tool(name='n', description='d', type='python', icon=None)"]
)
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_tool_marks_the_function_and_returns_it(statement: str, decorator: str, kind: str) -> None:
    names: dict[str, object] = {}
    exec(f"{statement}\n{kind} plain(x): return x\nsame = plain\n{decorator}\n{kind} f(x): return x", names)
    marked = names["f"]
    assert getattr(marked, TOOL_MARK) is True
    assert getattr(marked, "__name__", "") == "f"
    assert not hasattr(names["plain"], TOOL_MARK)


@pytest.mark.parametrize("statement", IMPORTS)
def test_marked_function_is_the_function_itself(statement: str) -> None:
    names: dict[str, object] = {}
    exec(f"{statement}\ndef f(x): return x + 1\nplain, bare, called = f, tool(f), tool(name='n')(f)", names)
    assert names["plain"] is names["bare"] is names["called"]


def run_python(code: str, *paths: Path) -> str:
    """Run code in an interpreter of its own, with `paths` first on its import path."""
    start = f"import sys; sys.path[:0] = {[str(path) for path in (*paths, ROOT)]!r}\n"
    done = subprocess.run([sys.executable, "-I", "-c", start + code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("package", ["langstudio", "promptflow"])
def test_installed_package_takes_precedence(tmp_path: Path, package: str) -> None:
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / package / "core.py").write_text("tool = 'the installed one'")
    code = f"from flowpod.compat import stand_ins; stand_ins.install()\nfrom {package}.core import tool; print(tool)"
    assert run_python(code, tmp_path) == "the installed one\n"


def test_stand_ins_are_importable_once_installed() -> None:
    code = """
import importlib.util
from flowpod.compat import stand_ins
print(importlib.util.find_spec("langstudio"))
stand_ins.install()
print(importlib.util.find_spec("langstudio") is not None)
"""
    assert run_python(code) == "None\nTrue\n"


def test_installing_twice_changes_nothing() -> None:
    stand_ins.install()
    before = list(sys.meta_path)
    stand_ins.install()
    assert sys.meta_path == before


def test_objects_for_the_flows_code_are_of_the_installed_packages_classes(tmp_path: Path) -> None:
    (tmp_path / "promptflow/contracts").mkdir(parents=True)
    for name in ("connections", "contracts/multimedia", "contracts/types"):
        (tmp_path / f"promptflow/{name}.py").write_text("")
    code = """
from flowpod.compat import modules_in_force, stand_ins
stand_ins.install()
for module in (modules_in_force.connections, modules_in_force.multimedia, modules_in_force.value_types):
    print(module().__file__)
print(modules_in_force.files().__name__)
"""
    lines = run_python(code, tmp_path).splitlines()
    assert [line.startswith(str(tmp_path)) for line in lines] == [True, True, True, False]


def test_namespace_package_takes_precedence(tmp_path: Path) -> None:
    (tmp_path / "promptflow").mkdir()
    (tmp_path / "promptflow/core.py").write_text("tool = 'that of promptflow-core'")
    code = "from flowpod.compat import stand_ins; stand_ins.install()\nfrom promptflow.core import tool; print(tool)"
    assert run_python(code, tmp_path) == "that of promptflow-core\n"


@pytest.mark.parametrize(
    "statement",
    [
        "from promptflow import tool, log_metric, log_flow_metric, ToolProvider",
        "from promptflow import connections, contracts, core, entities, tracing",
        "from promptflow.core import tool, log_metric, ToolProvider, AzureOpenAIConnection, OpenAIConnection",
        "from promptflow.connections import CustomConnection, AzureOpenAIConnection, CustomStrongTypeConnection",
        "from promptflow.entities import CustomConnection, AzureOpenAIConnection",
        "from promptflow.tracing import trace, start_trace, ThreadPoolExecutorWithContext",
        "from promptflow.contracts.types import PromptTemplate, FilePath, Secret",
        "from promptflow.contracts.multimedia import Image, PFBytes",
    ],
)
def test_promptflows_names_are_importable(statement: str) -> None:
    names: dict[str, object] = {}
    exec(statement, names)
    assert len(names) > 1


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("promptflow", "PFClient"),
        ("promptflow.core", "Prompty"),
        ("promptflow.connections", "BingConnection"),
        ("promptflow.entities", "Flow"),
        ("promptflow.tracing", "enable"),
        ("promptflow.contracts.types", "AssistantDefinition"),
        ("promptflow.contracts.multimedia", "Text"),
    ],
)
def test_missing_name_has_an_error_with_the_remedy(module: str, name: str) -> None:
    message = f"Flowpod's stand-in for {module} has no '{name}'; install promptflow in Flowpod's environment to use it"
    with pytest.raises(ImportError, match=message):
        exec(f"from {module} import {name}")
    assert not hasattr(sys.modules[module], "__no_such__")


def test_start_trace_accepts_promptflows_arguments() -> None:
    start_trace(resource_attributes={"a": "b"}, collection="c")


def test_metric_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        log_metric("accuracy", 0.5)
        log_metric("accuracy", 0.7, "variant_1")
    assert caplog.messages == ["metric accuracy = 0.5", "metric accuracy = 0.7 (variant_1)"]
