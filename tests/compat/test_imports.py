import subprocess
import sys
from pathlib import Path

import pytest

from runtime import compat
from runtime.nodes.base import TOOL_MARK
from tests.support.serving import ROOT

IMPORTS = ["from langstudio.core import tool", "from promptflow.core import tool", "from promptflow import tool"]


@pytest.mark.parametrize("statement", IMPORTS)
@pytest.mark.parametrize(
    "decorator", ["@tool", "@tool()", "@tool(name='n', description='d', type='python', icon=None)"]
)
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_tool_marks_the_function_and_gives_it_back(statement: str, decorator: str, kind: str) -> None:
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
def test_installed_package_goes_first(tmp_path: Path, package: str) -> None:
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / package / "core.py").write_text("tool = 'the installed one'")
    code = f"from runtime import compat; compat.install()\nfrom {package}.core import tool; print(tool)"
    assert run_python(code, tmp_path) == "the installed one\n"


def test_names_are_importable_only_after_the_installation() -> None:
    code = """
import importlib.util
from runtime import compat
print(importlib.util.find_spec("langstudio"))
compat.install()
print(importlib.util.find_spec("langstudio") is not None)
"""
    assert run_python(code) == "None\nTrue\n"


def test_installing_twice_is_installing_once() -> None:
    compat.install()
    before = list(sys.path)
    compat.install()
    assert sys.path == before
