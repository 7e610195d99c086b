"""LLM nodes over every type of connection: what is sent, and what the node's value is."""

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from flowpod.engine.events import NodeUpdated, RunOutput, RunTerminated
from tests.support.flows import problems_of, run_flow, write_flow
from tests.support.model_server import Call, ModelServer

CONNECTIONS = """
open: {{type: open_ai, base_url: '{server.url}', max_retries: 0}}
azure: {{type: azure_open_ai, api_base: '{server.azure_url}/', api_key: azure-key, api_version: v9, max_retries: 0}}
serverless: {{type: serverless, api_base: '{server.azure_url}', api_key: less-key, max_retries: 0}}
responses: {{type: open_ai, api: responses, base_url: '{server.url}', max_retries: 0}}
native: {{type: dashscope, base_url: '{server.url}', api_key: scope-key, max_retries: 0}}
serp: {{type: serp, api_key: k}}
"""


def flow(tmp_path: Path, server: ModelServer, node: Mapping[str, Any], prompt: str = "# user:\n{{ q }}") -> Path:
    inputs = {"q": "${inputs.q}", **node.get("inputs", {})}
    spec = {"name": "n", "type": "llm", "source": {"type": "code", "path": "p.jinja2"}, **node, "inputs": inputs}
    dag = {
        "inputs": {"q": {"type": "string"}},
        "outputs": {"a": {"type": "string", "reference": "${n.output}"}},
        "nodes": [spec],
    }
    files = {"p.jinja2": prompt, "connections.yaml": CONNECTIONS.format(server=server)}
    return write_flow(tmp_path, json.dumps(dag).replace("Infinity", ".inf"), files)


async def sent(
    tmp_path: Path,
    server: ModelServer,
    node: Mapping[str, Any],
    prompt: str = "# user:\n{{ q }}",
    streaming: bool = False,
) -> tuple[Call, Any]:
    """Run the flow once; return what the model got and the pieces of the output."""
    question = str(uuid.uuid4())
    events = await run_flow(flow(tmp_path, server, node, prompt), {"q": question}, streaming=streaming)
    last = events[-1]
    assert isinstance(last, RunTerminated)
    assert last.status == "Completed", last
    (call,) = [call for call in server.calls if question in json.dumps(call.body)]
    chunks = [chunk for event in events if isinstance(event, RunOutput) for chunk in event.split_chunks()]
    return call, [chunk.delta for chunk in chunks if chunk.delta != ""]


def rest(call: Call) -> dict[str, Any]:
    return {name: value for name, value in call.body.items() if name not in ("messages", "prompt", "model", "stream")}


SAMPLING = {"temperature": 1.0, "top_p": 1.0}
OPEN = {"connection": "open"}
AZURE = {"connection": "azure"}


@pytest.mark.parametrize(
    ("connection", "path", "header", "value"),
    [
        ("open", "/v1/chat/completions", "authorization", None),
        ("azure", "/openai/deployments/echo/chat/completions?api-version=v9", "api-key", "azure-key"),
        ("serverless", "/v1/chat/completions", "authorization", "Bearer less-key"),
        ("responses", "/v1/responses", "authorization", None),
        ("native", "/v1/services/aigc/text-generation/generation", "authorization", "Bearer scope-key"),
    ],
)
async def test_each_type_of_connection_is_called_at_its_own_address(
    tmp_path: Path, model_server: ModelServer, connection: str, path: str, header: str, value: str | None
) -> None:
    node = {"connection": connection, "inputs": {"deployment_name": "echo", "model": "echo"}}
    call, output = await sent(tmp_path, model_server, node)
    assert (call.path, call.headers.get(header)) == (path, value)
    assert output == [f"You said: {call.messages[-1]['content']}"]


@pytest.mark.parametrize(
    ("connection", "inputs", "model"),
    [
        ("open", {"model": "echo", "deployment_name": "d"}, "echo"),
        ("open", {"deployment_name": "echo"}, "echo"),
        ("azure", {"model": "m", "deployment_name": "echo"}, "echo"),
        ("azure", {"model": "echo"}, "echo"),
        ("serverless", {"model": "echo", "deployment_name": "d"}, "echo"),
    ],
)
async def test_model_is_named_as_the_connections_type_has_it(
    tmp_path: Path, model_server: ModelServer, connection: str, inputs: dict[str, Any], model: str
) -> None:
    call, _ = await sent(tmp_path, model_server, {"connection": connection, "inputs": inputs})
    assert call.model == model


@pytest.mark.parametrize(
    ("node", "inputs", "expected"),
    [
        (OPEN, {}, SAMPLING),
        (AZURE, {}, {**SAMPLING, "n": 1}),
        ({"connection": "serverless"}, {}, SAMPLING),
        (OPEN, {"n": 3}, SAMPLING),
        (AZURE, {"n": "2"}, {**SAMPLING, "n": 2}),
        (
            OPEN,
            {"temperature": "0.7", "top_p": "0.5", "max_tokens": "256", "seed": "7", "presence_penalty": "0"},
            {"temperature": 0.7, "top_p": 0.5, "max_tokens": 256, "seed": 7, "presence_penalty": 0.0},
        ),
        (OPEN, {"stop": "", "logit_bias": "", "user": "", "max_tokens": ""}, SAMPLING),
        (OPEN, {"stop": [], "logit_bias": {}}, SAMPLING),
        (OPEN, {"stop": "END", "logit_bias": '{"5": 1}'}, {**SAMPLING, "stop": "END", "logit_bias": {"5": 1}}),
        (OPEN, {"stop": '["a", "b"]'}, {**SAMPLING, "stop": ["a", "b"]}),
        (OPEN, {"stop": "5"}, {**SAMPLING, "stop": "5"}),
        (OPEN, {"max_tokens": "inf"}, SAMPLING),
        (OPEN, {"max_tokens": float("inf")}, SAMPLING),
        (
            OPEN,
            {"response_format": '{"type": "json_object"}'},
            {**SAMPLING, "response_format": {"type": "json_object"}},
        ),
        (OPEN, {"response_format": {"type": "text"}}, {**SAMPLING, "response_format": {"type": "text"}}),
        (OPEN, {"tool_choice": "auto", "function_call": "auto"}, SAMPLING),
        (
            OPEN,
            {"max_completion_tokens": "9", "extra_body": {"top_k": 3}},
            {**SAMPLING, "max_completion_tokens": 9, "top_k": 3},
        ),
        (OPEN, {"stream": "true", "other": "x"}, SAMPLING),
    ],
)
async def test_chat_parameters_are_sent_as_promptflow_sends_them(
    tmp_path: Path, model_server: ModelServer, node: dict[str, str], inputs: dict[str, Any], expected: dict[str, Any]
) -> None:
    call, _ = await sent(tmp_path, model_server, {**node, "inputs": {"model": "echo", **inputs}})
    assert rest(call) == expected


COMPLETION: dict[str, Any] = {
    "suffix": None,
    "max_tokens": 16,
    "temperature": 1.0,
    "top_p": 1.0,
    "n": 1,
    "logprobs": None,
    "echo": False,
    "stop": None,
    "best_of": 1,
    "logit_bias": {},
    "user": "",
}
PENALTIES = {"presence_penalty": None, "frequency_penalty": None}


@pytest.mark.parametrize(
    ("connection", "inputs", "expected"),
    [
        ("open", {}, {**COMPLETION, **PENALTIES}),
        ("azure", {}, COMPLETION),
        (
            "open",
            {"max_tokens": "5", "echo": "true", "best_of": "2", "stop": "", "suffix": "s", "presence_penalty": 1},
            {
                **COMPLETION,
                **PENALTIES,
                "max_tokens": 5,
                "echo": True,
                "best_of": 2,
                "suffix": "s",
                "presence_penalty": 1,
            },
        ),
    ],
)
async def test_completion_is_sent_whole_with_nulls(
    tmp_path: Path, model_server: ModelServer, connection: str, inputs: dict[str, Any], expected: dict[str, Any]
) -> None:
    node = {"connection": connection, "api": "completion", "inputs": {"model": "echo", **inputs}}
    call, output = await sent(tmp_path, model_server, node, prompt="# user:\n{{ q }}")
    assert rest(call) == expected
    assert call.path.partition("?")[0].endswith("/completions")
    assert "chat" not in call.path
    assert call.body["prompt"].startswith("# user:\n")
    assert output == [f"You said: {call.body['prompt']}"]


async def test_completion_streams(tmp_path: Path, model_server: ModelServer) -> None:
    node = {"connection": "open", "api": "completion", "inputs": {"model": "echo"}}
    call, output = await sent(tmp_path, model_server, node, prompt="go {{ q }}", streaming=True)
    assert call.body["stream"] is True
    assert output == ["You ", "said: ", "go ", call.body["prompt"].removeprefix("go ")]


FUNCTION = {"name": "weather", "parameters": {"type": "object", "properties": {}}}
TOOL = {"type": "function", "function": FUNCTION}
MESSAGE = {"content": None, "refusal": None, "role": "assistant", "annotations": None, "audio": None}
CALLED = {"name": "weather", "arguments": "{}"}


@pytest.mark.parametrize(
    ("node", "inputs", "asked", "value"),
    [
        (
            OPEN,
            {"functions": json.dumps([FUNCTION])},
            {"functions": [FUNCTION], "function_call": "auto"},
            {**MESSAGE, "function_call": CALLED, "tool_calls": None},
        ),
        (
            OPEN,
            {"functions": [FUNCTION], "function_call": '{"name": "weather"}'},
            {"functions": [FUNCTION], "function_call": {"name": "weather"}},
            {**MESSAGE, "function_call": CALLED, "tool_calls": None},
        ),
        (
            OPEN,
            {"tools": [TOOL], "functions": [FUNCTION], "tool_choice": "auto"},
            {"tools": [TOOL], "tool_choice": "auto"},
            {**MESSAGE, "function_call": None, "tool_calls": [{"id": "c1", "type": "function", "function": CALLED}]},
        ),
    ],
)
@pytest.mark.parametrize("streaming", [True, False])
async def test_node_with_tools_gives_the_whole_message(
    tmp_path: Path,
    model_server: ModelServer,
    node: dict[str, str],
    inputs: dict[str, Any],
    asked: dict[str, Any],
    value: dict[str, Any],
    streaming: bool,
) -> None:
    spec = {**node, "inputs": {"model": "echo", **inputs}}
    call, output = await sent(tmp_path, model_server, spec, streaming=streaming)
    assert rest(call) == {**SAMPLING, **asked}
    assert call.body["stream"] is False
    assert output == [value]


@pytest.mark.parametrize("node", [OPEN, AZURE])
async def test_model_chooses_a_tool_by_itself(tmp_path: Path, model_server: ModelServer, node: dict[str, str]) -> None:
    call, _ = await sent(tmp_path, model_server, {**node, "inputs": {"model": "echo", "tools": [TOOL]}})
    assert rest(call)["tool_choice"] == "auto"


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"temperature": "hot"}, "inputs.temperature: expected a number, got 'hot'"),
        ({"max_tokens": "many"}, "inputs.max_tokens: expected an integer, got 'many'"),
        ({"tools": "none"}, "inputs.tools: expected a list, got 'none'"),
    ],
)
def test_wrong_literal_is_a_problem(
    tmp_path: Path, model_server: ModelServer, inputs: dict[str, Any], message: str
) -> None:
    (problem,) = problems_of(flow(tmp_path, model_server, {**OPEN, "inputs": {"model": "echo", **inputs}}))
    key, _, text = message.partition(": ")
    assert (problem.key, problem.message) == (f"nodes[0].{key}", f"node 'n': {text}")


async def test_value_of_the_wrong_type_fails_the_node(tmp_path: Path, model_server: ModelServer) -> None:
    node = {**OPEN, "inputs": {"model": "echo", "temperature": "${inputs.q}"}}
    events = await run_flow(flow(tmp_path, model_server, node), {"q": "hot"})
    (failed,) = [event for event in events if isinstance(event, NodeUpdated) and event.status == "Failed"]
    assert failed.error is not None
    assert failed.error.message == "node 'n': inputs.temperature: expected a number, got 'hot'"
    assert failed.error.code == "invalid_parameter"


@pytest.mark.parametrize(
    ("connection", "api", "name", "refused"),
    [
        ("open", "chat", "temperature", True),
        ("open", "chat", "tools", True),
        ("open", "chat", "prompt", True),
        ("open", "chat", "model", True),
        ("open", "chat", "deployment_name", False),
        ("open", "chat", "n", False),
        ("open", "chat", "suffix", False),
        ("open", "completion", "suffix", True),
        ("open", "completion", "tools", False),
        ("azure", "chat", "n", True),
        ("azure", "chat", "deployment_name", True),
        ("azure", "chat", "model", False),
    ],
)
def test_parameters_name_is_refused_as_a_variable(
    tmp_path: Path, model_server: ModelServer, connection: str, api: str, name: str, refused: bool
) -> None:
    inputs = {"model": "echo", "deployment_name": "echo", name: "1"}
    node = {"connection": connection, "api": api, "inputs": inputs}
    problems = problems_of(flow(tmp_path, model_server, node, prompt=f"# user:\n{{{{ q }}}} {{{{ {name} }}}}"))
    assert [problem.message for problem in problems] == (
        [f"node 'n': p.jinja2 uses {name} as a variable, which is the name of a parameter; rename it"] * refused
    )


async def test_own_parameter_is_a_variable_where_the_prompt_uses_it(tmp_path: Path, model_server: ModelServer) -> None:
    node = {**OPEN, "inputs": {"model": "echo", "reasoning_effort": "low"}}
    call, _ = await sent(tmp_path, model_server, node, prompt="# user:\n{{ q }} {{ reasoning_effort }}")
    assert rest(call) == SAMPLING


@pytest.mark.parametrize(
    ("connection", "message"),
    [
        ("", "an llm node needs a connection; define it in connections.yaml"),
        ("none", "there is no connection 'none'; define it in connections.yaml or where FLOWPOD_CONNECTIONS points"),
        (
            "serp",
            "connection 'serp' is of type 'serp'; a model needs one of open_ai, azure_open_ai, serverless, dashscope",
        ),
    ],
)
def test_connection_of_no_model_is_refused(
    tmp_path: Path, model_server: ModelServer, connection: str, message: str
) -> None:
    (problem,) = problems_of(flow(tmp_path, model_server, {"connection": connection}))
    assert (problem.key, problem.message) == ("nodes[0].connection", f"node 'n': {message}")
