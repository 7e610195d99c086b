"""Tools as promptflow's authors write them: connections, literals by annotation, classes."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from flowpod.errors import BuildError
from flowpod.flow.document.base import SourceOptions
from flowpod.flow.model import Connection, Node, Reference
from flowpod.models.registry import ModelRegistry
from flowpod.nodes.kind import Context, Resources
from flowpod.nodes.python.flow_modules import FlowModules
from flowpod.nodes.python.node import PythonNode, PythonOptions
from flowpod.telemetry.tracing import Tracing
from flowpod.threads import Threads
from tests.support.flows import problems_of, write_flow

MODEL = {"model": "", "timeout_s": 1, "max_retries": 0, "stream_usage": True}
CONNECTIONS = {
    "azure": Connection(
        "azure",
        "azure_open_ai",
        {
            "api_key": "k",
            "api_base": "https://a",
            "api_type": "azure",
            "api_version": "v",
            "auth_mode": "key",
            "resource_id": "",
            **MODEL,
        },
    ),
    "open": Connection("open", "open_ai", {"api_key": "k", "organization": "o", "base_url": "http://b", **MODEL}),
    "serp": Connection("serp", "serp", {"api_key": "k"}),
    "custom": Connection(
        "custom",
        "custom",
        {"configs": {"url": "u"}, "secrets": {"key": "s"}, "custom_type": "", "package": "", "package_version": ""},
    ),
    "named": Connection("named", "custom", {"configs": {}, "secrets": {"key": "n"}, "custom_type": "Second"}),
    "offline": Connection("offline", "offline", {"model": "offline-extract"}),
}
IMPORTS = """
from typing import Annotated, Any, List, Optional, Union
from enum import Enum
from promptflow.core import tool
from promptflow.connections import *
from promptflow.contracts.types import FilePath, PromptTemplate, Secret

class First(CustomStrongTypeConnection):
    key: Secret
    url: str = "default"

class Second(CustomStrongTypeConnection):
    key: Secret

class Colour(str, Enum):
    RED = "red"
"""


def build(tmp_path: Path, code: str, inputs: Mapping[str, Any]) -> PythonNode:
    (tmp_path / "a.py").write_text(IMPORTS + dedent(code))
    resources = Resources(
        tmp_path, ModelRegistry({}), Threads(4), Tracing(None), Threads(4), FlowModules(tmp_path), CONNECTIONS
    )
    options = PythonOptions(name="n", type="python", source=SourceOptions(path="a.py"))
    return PythonNode(Node("n", "python", 0, inputs, options), options, resources)


async def run(tmp_path: Path, code: str, inputs: Mapping[str, Any]) -> Any:
    return await build(tmp_path, code, inputs).run(inputs, Context())


def problem(tmp_path: Path, code: str, inputs: Mapping[str, Any]) -> tuple[str, str]:
    with pytest.raises(BuildError) as caught:
        build(tmp_path, code, inputs)
    return caught.value.key, caught.value.message


@pytest.mark.parametrize(
    ("annotation", "name", "value"),
    [
        ("AzureOpenAIConnection", "azure", "(c.api_key, c.api_base, c.api_type, c.api_version, c.name)"),
        ("'AzureOpenAIConnection'", "azure", "c.api_key, c.api_base, c.api_type, c.api_version, c.name"),
        ("Union[AzureOpenAIConnection, OpenAIConnection]", "azure", "('k', 'https://a', 'azure', 'v', c.name)"),
        ("Optional[AzureOpenAIConnection]", "azure", "('k', c.api_base, 'azure', 'v', 'azure')"),
        ("AzureOpenAIConnection | None", "azure", "('k', c.api_base, 'azure', 'v', 'azure')"),
        ("Annotated[AzureOpenAIConnection, 'x']", "azure", "('k', c.api_base, 'azure', 'v', 'azure')"),
    ],
)
async def test_connection_arrives_as_an_object(tmp_path: Path, annotation: str, name: str, value: str) -> None:
    code = f"@tool\ndef f(c: {annotation}): return {value}"
    assert await run(tmp_path, code, {"c": name}) == ("k", "https://a", "azure", "v", "azure")
    assert build(tmp_path, code, {"c": name}).connections == {name}


@pytest.mark.parametrize(
    ("annotation", "name", "value", "expected"),
    [
        ("CustomConnection", "custom", "c.key, c.url, dict(c)", ("s", "u", {"url": "u", "key": "s"})),
        ("'promptflow.connections.CustomConnection'", "custom", "c.secrets, c.configs", ({"key": "s"}, {"url": "u"})),
        ("Union[CustomConnection, AzureOpenAIConnection]", "custom", "type(c).__name__", "CustomConnection"),
        ("First", "custom", "type(c).__name__, c.key, c.url", ("First", "s", "u")),
        ("First", "named", "type(c).__name__, c.key, c.url", ("First", "n", "default")),
        ("Union[First, Second]", "named", "type(c).__name__, c.key", ("Second", "n")),
        ("OpenAIConnection", "open", "c.organization, c.base_url", ("o", "http://b")),
        ("SerpConnection", "serp", "c.api_key", "k"),
        ("str", "azure", "c", "azure"),
        ("Union[str, AzureOpenAIConnection]", "azure", "c", "azure"),
        ("Any", "azure", "c", "azure"),
    ],
)
async def test_object_has_annotated_class(
    tmp_path: Path, annotation: str, name: str, value: str, expected: Any
) -> None:
    assert await run(tmp_path, f"@tool\ndef f(c: {annotation}): return {value}", {"c": name}) == expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "there is no connection 'none'; define it in connections.yaml or where FLOWPOD_CONNECTIONS points"),
        ("serp", "connection 'serp' is of type 'serp', and the tool takes AzureOpenAIConnection or OpenAIConnection"),
        ("offline", "connection 'offline' is of type 'offline', and the tool takes AzureOpenAIConnection or OpenAI"),
        (7, "expected the name of a connection, got 7"),
    ],
)
def test_wrong_connection_is_named(tmp_path: Path, name: Any, message: str) -> None:
    code = "@tool\ndef f(c: Union[AzureOpenAIConnection, OpenAIConnection]): ..."
    key, found = problem(tmp_path, code, {"c": name})
    assert key == "inputs.c"
    assert found.startswith(message)


def test_unset_variable_of_a_tools_connection_is_a_problem_of_the_environment(tmp_path: Path) -> None:
    flow = write_flow(
        tmp_path,
        "nodes:\n- {name: n, type: python, source: {path: a.py}, inputs: {c: m}}",
        {
            "a.py": f"{IMPORTS}\n@tool\ndef f(c: SerpConnection): ...",
            "connections.yaml": "m: {type: serp, api_key: '${env:K}'}",
        },
    )
    (found,) = problems_of(flow)
    assert found.severity == "environment"
    assert str(found) == (
        "flow.dag.yaml:2: nodes[0].inputs: connection 'm': api_key: the environment variable K is not set"
    )


@pytest.mark.parametrize(
    ("parameter", "literal", "expected"),
    [
        ("x: int", "120", 120),
        ("x: int", 7.9, 7),
        ("x: int = 3", "", 3),
        ("x: int = 3", None, 3),
        ("x: float", "0.5", 0.5),
        ("x: bool", "TRUE", True),
        ("x: bool", False, False),
        ("x: str", 7, "7"),
        ("x: str", "", ""),
        ("x: list", '["a"]', ["a"]),
        ("x: List[str]", '["a"]', ["a"]),
        ("x: List[str]", ["a"], ["a"]),
        ("x: dict", '{"a": 1}', {"a": 1}),
        ("x: dict", "no json", "no json"),
        ("x: Optional[int]", "4", 4),
        ("x: int | None = None", "4", 4),
        ("x: 'int'", "4", 4),
        ("x: Colour", "red", "red"),
        ("x: Secret", "5", "5"),
        ("x: FilePath", "a.txt", "a.txt"),
        ("x: PromptTemplate", "{{a}}", "{{a}}"),
        ("x", "5", 5),
        ("x", "text", "text"),
        ("x=2", "5", 5),
        ("x=None", "5", 5),
        ("x='a'", 5, "5"),
        ("x: any", "text", "text"),
        ("**x", "5", {"x": "5"}),
    ],
)
async def test_literal_has_its_parameters_type(tmp_path: Path, parameter: str, literal: Any, expected: Any) -> None:
    assert await run(tmp_path, f"@tool\ndef f({parameter}): return x", {"x": literal}) == expected


async def test_referenced_value_stays_as_it_is(tmp_path: Path) -> None:
    node = build(tmp_path, "@tool\ndef f(x: int): return x", {"x": Reference("inputs", "x")})
    assert await node.run({"x": "7"}, Context()) == "7"


@pytest.mark.parametrize(
    ("annotation", "literal", "message"),
    [
        ("int", "many", "expected an integer, got 'many'"),
        ("int", [1], "expected an integer, got [1]"),
        ("float", "x", "expected a number, got 'x'"),
        ("bool", "yes", "expected true or false, got 'yes'"),
        ("list", "a", "expected a list, got 'a'"),
        ("list", '{"a": 1}', "expected a list, got '{\"a\": 1}'"),
    ],
)
def test_literal_of_another_type_is_refused(tmp_path: Path, annotation: str, literal: Any, message: str) -> None:
    assert problem(tmp_path, f"@tool\ndef f(x: {annotation}): ...", {"x": literal}) == ("inputs.x", message)


CLASS = """
from promptflow.core import ToolProvider

class Greeter(ToolProvider):
    def __init__(self, c: OpenAIConnection, times: int = 1):
        super().__init__()
        if times < 0:
            raise ValueError("negative")
        self.key, self.times = c.api_key, times

    @tool
    def greet(self, name: str, end: str = "!"):
        return (self.key, [f"hello {name}{end}"] * self.times)
"""


async def test_method_of_a_class_is_a_tool(tmp_path: Path) -> None:
    node = build(tmp_path, CLASS, {"c": "open", "times": "2", "name": "ann"})
    inputs = {"c": "open", "times": "2", "name": "ann"}
    assert await node.run(inputs, Context()) == ("k", ["hello ann!", "hello ann!"])
    assert node.optional == {"end"}
    assert node.connections == {"open"}


async def test_async_method_runs_on_the_loop(tmp_path: Path) -> None:
    code = "class T:\n    @tool\n    async def f(self, x): return x\n    def helper(self): ..."
    assert await run(tmp_path, code, {"x": 1}) == 1


@pytest.mark.parametrize(
    ("inputs", "key", "message"),
    [
        ({"name": "a"}, "inputs", "greet in a.py also needs c"),
        ({"c": "open"}, "inputs", "greet in a.py also needs name"),
        (
            {"c": "open", "name": "a", "x": 1},
            "inputs.x",
            "greet in a.py has no parameter 'x'; it has c, times, name, end",
        ),
        (
            {"c": "open", "name": "a", "times": Reference("inputs", "t")},
            "inputs.times",
            "the constructor of Greeter takes it before there is a run, so it must be a literal",
        ),
        (
            {"c": "open", "name": "a", "times": -1},
            "source.path",
            "a.py: Greeter cannot be constructed: ValueError: negative",
        ),
    ],
)
def test_class_whose_inputs_are_wrong_is_refused(
    tmp_path: Path, inputs: dict[str, Any], key: str, message: str
) -> None:
    assert problem(tmp_path, CLASS, inputs) == (key, message)


@pytest.mark.parametrize(
    ("module", "package"),
    [("promptflow.client", "promptflow"), ("promptflow.tools", "promptflow-tools"), ("no_such_module", "it")],
)
def test_module_that_is_missing_is_named_with_the_remedy(tmp_path: Path, module: str, package: str) -> None:
    key, message = problem(tmp_path, f"from {module} import x", {})
    assert key == "source.path"
    assert message.endswith(f"No module named '{module}'; install {package} in Flowpod's environment")
