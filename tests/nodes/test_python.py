from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from flowpod.errors import BuildError
from flowpod.flow.document.base import SourceOptions
from flowpod.flow.model import Node
from flowpod.models.base import Chunk, Result
from flowpod.models.registry import ModelRegistry
from flowpod.nodes.kind import Context, Resources
from flowpod.nodes.python.flow_modules import FlowModules
from flowpod.nodes.python.node import PythonNode, PythonOptions
from flowpod.telemetry.tracing import Tracing
from flowpod.threads import Threads
from tests.support.waiting import until


def resources_in(folder: Path) -> Resources:
    return Resources(folder, ModelRegistry({}), Threads(4), Tracing(None), Threads(4), FlowModules(folder))


def python_node(path: str, inputs: Mapping[str, Any], resources: Resources) -> PythonNode:
    options = PythonOptions(name="n", type="python", source=SourceOptions(path=path))
    return PythonNode(Node("n", "python", 0, inputs, options), options, resources)


def node_of(resources: Resources, code: str, inputs: Mapping[str, Any] | None = None) -> PythonNode:
    (resources.folder / "a.py").write_text(dedent(code).lstrip("\n"))
    return python_node("a.py", inputs or {}, resources)


def build(tmp_path: Path, code: str, inputs: Mapping[str, Any] | None = None) -> PythonNode:
    return node_of(resources_in(tmp_path), code, inputs)


def problem(tmp_path: Path, code: str, inputs: Mapping[str, Any] | None = None) -> tuple[str, str]:
    with pytest.raises(BuildError) as caught:
        build(tmp_path, code, inputs)
    return caught.value.key, caught.value.message


async def run(tmp_path: Path, code: str, **inputs: Any) -> Any:
    """Return the node's value, or the list of what it streams."""
    value = await build(tmp_path, code, inputs).run(inputs, Context())
    return [part async for part in value] if isinstance(value, AsyncIterator) else value


TOOL = "from promptflow.core import tool\n\n"
STREAMED = [Chunk("a"), Chunk("b"), Chunk("1"), Result("ab1")]


@pytest.mark.parametrize(
    ("code", "inputs", "expected"),
    [
        ("@tool\ndef f(x): return x + 1", {"x": 1}, 2),
        ("@tool\nasync def f(x): return x + 1", {"x": 1}, 2),
        ("@tool()\ndef f(x): return x", {"x": "a"}, "a"),
        ("@tool(name='f', type='llm')\ndef f(x): return x", {"x": "a"}, "a"),
        ("def invoke(x): return x", {"x": None}, None),
        ("async def invoke(x): return x", {"x": 1}, 1),
        ("@tool\ndef f(x, y=2): return x, y", {"x": 1}, (1, 2)),
        ("@tool\ndef f(x, *, y): return x, y", {"x": 1, "y": 2}, (1, 2)),
        ("@tool\ndef f(**rest): return rest", {"x": 1, "y": 2}, {"x": 1, "y": 2}),
        ("@tool\ndef f(function, self): return function, self", {"function": 1, "self": 2}, (1, 2)),
        ("@tool\ndef f(history: any, items: list[str]) -> any: return history", {"history": None, "items": []}, None),
        ("@tool\ndef f(x: 'Nowhere.Defined') -> 'Neither': return x", {"x": 1}, 1),
        ("def invoke(x): return 'not this'\n@tool\ndef f(x): return 'this'", {"x": 1}, "this"),
        ("def helper(): return 5\n@tool\ndef f(): return helper()", {}, 5),
        (
            (
                "import functools\ndef wrap(g):\n @functools.wraps(g)\n def h(**k): return [g(**k)]\n return h\n"
                "@wrap\n@tool\ndef f(x): return x"
            ),
            {"x": 1},
            [1],
        ),
        ("@tool\ndef f():\n async def g(): return 3\n return g()", {}, 3),
        ("@tool\ndef f(): return [1, 2]", {}, [1, 2]),
        ("@tool\ndef f():\n yield 'a'\n yield 'b'\n yield 1", {}, STREAMED),
        ("@tool\nasync def f():\n yield 'a'\n yield 'b'\n yield 1", {}, STREAMED),
        ("@tool\ndef f(): return (x for x in ['a', 'b', 1])", {}, STREAMED),
        ("@tool\ndef f(): return iter(['a', 'b', 1])", {}, STREAMED),
        ("@tool\nasync def f(): return iter(['a', 'b', 1])", {}, STREAMED),
        ("async def g():\n for x in ['a', 'b', 1]: yield x\n@tool\ndef f(): return g()", {}, STREAMED),
        ("async def g():\n for x in ['a', 'b', 1]: yield x\n@tool\nasync def f(): return g()", {}, STREAMED),
        ("@tool\ndef f():\n if False: yield", {}, [Result("")]),
    ],
)
async def test_tool_is_called(tmp_path: Path, code: str, inputs: dict[str, Any], expected: Any) -> None:
    assert await run(tmp_path, TOOL + code, **inputs) == expected


async def test_langstudio_node_returns_its_dataclass(tmp_path: Path) -> None:
    code = """
        from __future__ import annotations
        from dataclasses import dataclass
        from langstudio.core import tool

        @dataclass
        class Result:
            text: str
            n: int

        @tool
        def invoke(query: str, items: list[str], index: int) -> Result:
            return Result(text=items[index], n=len(query))
        """
    value = await run(tmp_path, code, query="abc", items=["x", "y"], index=1)
    assert (value.text, value.n) == ("y", 3)


async def test_sync_tool_runs_in_a_thread_and_async_one_on_the_loop(tmp_path: Path) -> None:
    code = "import threading\n{} f(): return threading.current_thread() is threading.main_thread()"
    assert await run(tmp_path, TOOL + code.format("@tool\ndef")) is False
    assert await run(tmp_path, TOOL + code.format("@tool\nasync def")) is True


def test_parameters_with_a_default_are_optional(tmp_path: Path) -> None:
    node = build(tmp_path, TOOL + "@tool\ndef f(a, b=1, *, c, d=None, **e): ...", {"a": 1, "c": 2})
    assert node.optional == {"b", "d"}


@pytest.mark.parametrize(
    ("code", "inputs", "key", "message"),
    [
        ("x = 1", {}, "source.path", "a.py has no function marked @tool"),
        ("", {}, "source.path", "a.py has no function marked @tool"),
        ("def run(): ...", {}, "source.path", "a.py has no function marked @tool"),
        ("invoke = 5", {}, "source.path", "a.py: invoke is not a function"),
        ("class invoke: ...", {}, "source.path", "a.py: invoke is not a function"),
        (
            f"{TOOL}@tool\ndef f(): ...\n@tool\ndef g(): ...",
            {},
            "source.path",
            "a.py has 2 functions marked @tool: f, g; leave one",
        ),
        ("def invoke(a): ...", {}, "inputs", "invoke in a.py also needs a"),
        ("def invoke(a, b, *, c, d=1): ...", {"b": 1}, "inputs", "invoke in a.py also needs a, c"),
        ("def invoke(a): ...", {"a": 1, "b": 2}, "inputs.b", "invoke in a.py has no parameter 'b'; it has a"),
        ("def invoke(): ...", {"b": 2}, "inputs.b", "invoke in a.py has no parameter 'b'; it has none"),
        ("def invoke(*args): ...", {"args": 2}, "inputs.args", "invoke in a.py has no parameter 'args'; it has none"),
        ("def f(:\n", {}, "source.path", "a.py, line 1: SyntaxError: invalid syntax (a.py, line 1)"),
        ("x = 1\n  y = 2", {}, "source.path", "a.py, line 2: IndentationError: unexpected indent (a.py, line 2)"),
        ("x = 1\n\n1 / 0", {}, "source.path", "a.py, line 3: ZeroDivisionError: division by zero"),
        ("def g():\n    1 / 0\ng()", {}, "source.path", "a.py, line 2: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(3)", {}, "source.path", "a.py, line 2: SystemExit: 3"),
        (
            "x = 1\nimport no_such_package_here",
            {},
            "source.path",
            "a.py, line 2: ModuleNotFoundError: No module named 'no_such_package_here'; install it in Flowpod's environment",
        ),
        (
            "from json import nothing_such",
            {},
            "source.path",
            "a.py, line 1: ImportError: cannot import name 'nothing_such' from 'json'",
        ),
    ],
)
def test_problem_is_found_at_build(tmp_path: Path, code: str, inputs: dict[str, Any], key: str, message: str) -> None:
    found = problem(tmp_path, code.replace("        ", ""), inputs)
    assert found[0] == key
    assert found[1].partition(" (/")[0] == message


@pytest.mark.parametrize("content", [b"x = '\xff'\n", b"x = 1\x00\n"])
def test_file_that_is_no_python_text_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.py").write_bytes(content)
    with pytest.raises(BuildError, match=r"^a\.py.*: (SyntaxError|ValueError): "):
        python_node("a.py", {}, resources_in(tmp_path))


def test_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("def invoke(): ...")
    with pytest.raises(BuildError, match=r"a\.txt is not a Python file"):
        python_node("a.txt", {}, resources_in(tmp_path))


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A flow's folder on the import path, where the command puts it."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


async def test_tool_may_be_imported_from_a_file_beside(in_folder: Path) -> None:
    (in_folder / "beside_1.py").write_text(f"{TOOL}@tool\ndef shared(x): return x * 2")
    assert await run(in_folder, "from beside_1 import shared", x=2) == 4


async def test_own_tool_goes_before_an_imported_one(in_folder: Path) -> None:
    (in_folder / "beside_2.py").write_text(f"{TOOL}@tool\ndef shared(x): return x * 2")
    code = f"from beside_2 import shared\n{TOOL}@tool\ndef own(x): return shared(x) + 1"
    assert await run(in_folder, code, x=2) == 5


def test_failure_in_a_file_beside_names_the_import_of_it(in_folder: Path) -> None:
    (in_folder / "beside_3.py").write_text("\n\n\n1 / 0")
    assert problem(in_folder, "import json\nimport beside_3") == (
        "source.path",
        "a.py, line 2: ZeroDivisionError: division by zero",
    )


async def test_nodes_of_one_file_share_its_module_within_a_flow(tmp_path: Path) -> None:
    code = f"{TOOL}calls = []\n@tool\nasync def f():\n    calls.append(1)\n    return len(calls)"
    resources = resources_in(tmp_path)
    first, second = node_of(resources, code), node_of(resources, code)
    assert [await node.run({}, Context()) for node in (first, second, first)] == [1, 2, 3]
    assert await build(tmp_path, code).run({}, Context()) == 1


def test_files_of_one_name_in_two_flows_are_two_modules(tmp_path: Path) -> None:
    nodes = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        nodes.append(build(tmp_path / name, f"def invoke({name}): ...", {name: 1}))
    assert len(nodes) == 2


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize(
    ("statement", "error", "message"),
    [("raise KeyError('k')", KeyError, "'k'"), ("raise StopIteration", RuntimeError, "StopIteration")],
)
async def test_tools_own_exception(
    tmp_path: Path, kind: str, statement: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        await run(tmp_path, f"{TOOL}@tool\n{kind} f():\n    {statement}")
    with pytest.raises(error, match=message):
        await run(tmp_path, f"{TOOL}@tool\n{kind} f():\n    yield 'a'\n    {statement}")


async def test_chunks_before_a_failure_are_passed_on(tmp_path: Path) -> None:
    stream = await build(tmp_path, f"{TOOL}@tool\ndef f():\n    yield 'a'\n    raise ValueError('bad')").run(
        {}, Context()
    )
    assert await anext(stream) == Chunk("a")
    with pytest.raises(ValueError, match="bad"):
        await anext(stream)


@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_stream_that_is_left_closes_the_tools_generator(tmp_path: Path, kind: str) -> None:
    code = f"""{TOOL}
closed = []
@tool
{kind} f():
    try:
        while True:
            yield "more"
    finally:
        closed.append(True)
"""
    resources = resources_in(tmp_path)
    stream = await node_of(resources, code).run({}, Context())
    assert await anext(stream) == Chunk("more")
    await stream.aclose()
    [module] = resources.modules.files.values()
    await until(lambda: module.closed)
