"""Parameters of models that a request may set: only those that a node leaves to it."""

import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.support.flows import client_of, problems_of, write_flow
from tests.support.model_server import ModelServer

FLOW = """
inputs:
  question: {{type: string, is_chat_input: true}}
outputs:
  answer: {{type: string, reference: "${{reply.output}}", is_chat_output: true}}
nodes:
- name: reply
  type: llm
  source: {{path: reply.jinja2}}
  connection: model
  {keys}
  inputs: {{question: "${{inputs.question}}", {inputs}}}
"""
EVERYTHING = {"temperature": 0.1, "top_p": 0.2, "max_tokens": 3, "seed": 4}
DEFAULTS = {"temperature": 1.0, "top_p": 1.0}


def write(folder: Path, url: str, model: str, keys: str, inputs: str) -> Path:
    return write_flow(
        folder,
        FLOW.format(keys=keys, inputs=f"model: '{model}', {inputs}"),
        {
            "reply.jinja2": "{{ question }}",
            "connections.yaml": f"model: {{type: open_ai, base_url: '{url}', max_retries: 0}}",
        },
    )


async def parameters(
    tmp_path: Path, server: ModelServer, request: dict[str, Any], keys: str = "", inputs: str = ""
) -> dict[str, Any]:
    """Return the parameters of the call that a request makes."""
    model = f"echo:{uuid.uuid4()}"
    async with client_of(write(tmp_path, server.url, model, keys, inputs)) as client:
        body = {"messages": [{"role": "user", "content": "hi"}], **request}
        response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    (call,) = server.calls_of(model)
    return {name: value for name, value in call.body.items() if name not in ("model", "messages", "stream")}


@pytest.mark.parametrize(
    ("keys", "inputs", "request_", "expected"),
    [
        ("", "", EVERYTHING, DEFAULTS),
        ("", "temperature: 0.5", EVERYTHING, {"temperature": 0.5, "top_p": 1.0}),
        ("overrides: [temperature, top_p, max_tokens, seed]", "", EVERYTHING, EVERYTHING),
        ("overrides: [temperature, top_p, max_tokens, seed]", "", {}, DEFAULTS),
        ("overrides: [temperature]", "temperature: 0.5, seed: 7", EVERYTHING, {**DEFAULTS, "temperature": 0.1, "seed": 7}),
        ("overrides: [temperature]", "temperature: 0.5", {"temperature": None}, {"temperature": 0.5, "top_p": 1.0}),
        ("overrides: [temperature]", "temperature: 0.5", {"temperature": 0}, {"temperature": 0, "top_p": 1.0}),
        ("overrides: [max_tokens]", "", {"max_completion_tokens": 9}, {**DEFAULTS, "max_tokens": 9}),
        ("overrides: [max_completion_tokens]", "", {"max_tokens": 9}, {**DEFAULTS, "max_completion_tokens": 9}),
        (
            "overrides: [max_tokens]",
            "",
            {"max_tokens": 8, "max_completion_tokens": 9},
            {**DEFAULTS, "max_tokens": 9},
        ),
    ],
)  # fmt: skip
async def test_a_node_takes_what_it_leaves_to_the_request(
    tmp_path: Path,
    model_server: ModelServer,
    keys: str,
    inputs: str,
    request_: dict[str, Any],
    expected: dict[str, Any],
) -> None:
    assert await parameters(tmp_path, model_server, request_, keys, inputs) == expected


async def test_tools_and_unknown_parameters_are_passed_over(tmp_path: Path, model_server: ModelServer) -> None:
    weather = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
    request = {"tools": [weather], "tool_choice": "auto", "n": 2, "stop": ["x"], "no_such_parameter": {"a": 1}}
    assert await parameters(tmp_path, model_server, request, "overrides: [temperature]") == DEFAULTS


async def test_nodes_inside_a_batch_take_them_too(tmp_path: Path, model_server: ModelServer) -> None:
    model = f"echo:{uuid.uuid4()}"
    dag = f"""
    inputs:
      question: {{type: string, is_chat_input: true}}
    outputs:
      answer: {{type: list, reference: "${{each.output}}", is_chat_output: true}}
    nodes:
    - name: each
      type: batch
      inputs: {{words: [a, b]}}
      result: ${{reply.output}}
      nodes:
      - name: reply
        type: llm
        source: {{path: reply.jinja2}}
        connection: model
        overrides: [seed]
        inputs: {{model: "{model}", word: "${{item}}"}}
    """
    flow = write_flow(
        tmp_path,
        dag,
        {
            "reply.jinja2": "{{word}}",
            "connections.yaml": f"model: {{type: open_ai, base_url: '{model_server.url}', max_retries: 0}}",
        },
    )
    async with client_of(flow) as client:
        body = {"messages": [{"role": "user", "content": "hi"}], "seed": 5}
        (await client.post("/v1/chat/completions", json=body)).raise_for_status()
    assert [call.body["seed"] for call in model_server.calls_of(model)] == [5, 5]


@pytest.mark.parametrize(
    ("keys", "inputs", "message"),
    [
        ("overrides: [max_tokens, max_completion_tokens]", "", "a call has one of max_completion_tokens and max_tokens"),
        ("overrides: [max_completion_tokens]", "max_tokens: 5", "a call has one of max_completion_tokens and max_tokens"),
        ("{api: completion, overrides: [seed]}", "", "seed is not a parameter of this node's call"),
        ("overrides: [stop]", "", "input should be 'temperature', 'top_p', 'max_tokens'"),
    ],
)  # fmt: skip
def test_a_wrong_override_is_a_problem(
    tmp_path: Path, model_server: ModelServer, keys: str, inputs: str, message: str
) -> None:
    keys = keys.strip("{}").replace(", overrides", "\n  overrides")
    (problem,) = problems_of(write(tmp_path, model_server.url, "echo", keys, inputs))
    assert "overrides" in problem.key
    assert message in problem.message


def test_only_an_llm_node_has_overrides(tmp_path: Path) -> None:
    dag = """
    outputs: {a: {type: string, reference: "${n.output}"}}
    nodes:
    - {name: n, type: prompt, source: {path: p.jinja2}, overrides: [seed]}
    """
    (problem,) = problems_of(write_flow(tmp_path, dag, {"p.jinja2": "hi"}))
    assert (problem.key, problem.line) == ("nodes[0].overrides", 3)


def test_the_list_for_images_is_a_list(tmp_path: Path) -> None:
    dag = """
    inputs:
      picture: {type: image, is_chat_images: true}
    nodes:
    - {name: n, type: prompt, source: {path: p.jinja2}}
    """
    (problem,) = problems_of(write_flow(tmp_path, dag, {"p.jinja2": "hi"}))
    assert "one of type image needs no such key" in problem.message
