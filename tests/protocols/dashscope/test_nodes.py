"""The states of a flow's nodes in DashScope's streams."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.protocols.dashscope.test_application import PATH, SSE, frames
from tests.support.flows import post, write_flow
from tests.support.model_server import ModelServer

DAG = """
inputs:
  question: {type: string, is_chat_input: true}
outputs:
  answer: {type: string, reference: "${reply.output}", is_chat_output: true}
nodes:
- {name: look, type: template, inputs: {q: "${inputs.question}"}, template: "found {{ q }}"}
- {name: never, type: template, template: "x", activate: {when: "${inputs.question}", is: never}}
- name: draft
  type: llm
  source: {path: p.jinja2}
  connection: model
  inputs: {model: echo, q: "${look.output}"}
- name: reply
  type: llm
  source: {path: p.jinja2}
  connection: model
  inputs: {model: MODEL, q: "${draft.output}"}
"""
SPEAKING = """
inputs:
  question: {type: string, is_chat_input: true}
outputs:
  answer: {type: string, is_chat_output: true}
nodes:
- {name: hello, type: output, inputs: {q: "${inputs.question}"}, text: "You ask: {{ q }}. "}
- {name: say, type: output, inputs: {t: "${reply.output}"}, text: "{{ t }}"}
- name: reply
  type: llm
  source: {path: p.jinja2}
  connection: model
  inputs: {model: echo, q: "${inputs.question}"}
"""


def write(folder: Path, server: ModelServer, dag: str = DAG, model: str = "words:2") -> Path:
    connections = f"model: {{type: open_ai, base_url: '{server.url}', max_retries: 0}}\n"
    return write_flow(folder, dag.replace("MODEL", model), {"p.jinja2": "{{ q }}", "connections.yaml": connections})


async def stream(flow: Path, headers: dict[str, str] | None = None, **parameters: Any) -> list[dict[str, Any]]:
    content = {"input": {"prompt": "hi"}, "parameters": parameters}
    found = frames(await post(flow, PATH, content, headers={**SSE, **(headers or {})}))
    return [frame["output"] for frame in found]


def nodes(output: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the name, status and result of each node in the thoughts of a frame."""
    thoughts = [json.loads(thought["response"]) for thought in output["thoughts"]]
    assert all(node["nodeExecTime"].endswith("ms") and node["nodeId"] == node["nodeName"] for node in thoughts)
    return [(node["nodeName"], node["nodeStatus"], node.get("nodeResult", "")) for node in thoughts]


async def test_thoughts_are_sent_only_on_request(tmp_path: Path, model_server: ModelServer) -> None:
    flow = write(tmp_path, model_server)
    for parameters in ({}, {"flow_stream_mode": "full_thoughts"}, {"has_thoughts": False}):
        assert all(
            output.keys() == {"session_id", "finish_reason", "text"} for output in await stream(flow, **parameters)
        )


@pytest.mark.parametrize("mode", [None, "full_thoughts"])
async def test_thoughts_have_every_started_node(tmp_path: Path, model_server: ModelServer, mode: str | None) -> None:
    more: dict[str, Any] = {} if mode is None else {"flow_stream_mode": mode}
    outputs = await stream(write(tmp_path, model_server), has_thoughts=True, **more)
    done = [("look", "success", "found hi"), ("draft", "success", '{"result":"You said: found hi"}')]
    assert nodes(outputs[0]) == [("look", "executing", "")]
    assert nodes(outputs[-1]) == [*done, ("reply", "success", '{"result":"w0 w1 "}')]
    assert [*done, ("reply", "executing", '{"result":"w0 "}')] in [nodes(output) for output in outputs]
    assert json.loads(outputs[-1]["thoughts"][1]["response"])["nodeType"] == "LLM"
    assert outputs[-1]["text"] == "w0 w1 "
    assert [output["finish_reason"] for output in outputs] == ["null"] * (len(outputs) - 1) + ["stop"]


async def test_thoughts_of_an_incremental_stream_are_the_changed(tmp_path: Path, model_server: ModelServer) -> None:
    outputs = await stream(write(tmp_path, model_server), has_thoughts=True, incremental_output=True)
    changes = [node for output in outputs for node in nodes(output)]
    assert changes == [
        ("look", "executing", ""),
        ("look", "success", "found hi"),
        ("draft", "executing", ""),
        ("draft", "success", '{"result":"You said: found hi"}'),
        ("reply", "executing", ""),
        ("reply", "executing", '{"result":"w0 "}'),
        ("reply", "executing", '{"result":"w1 "}'),
        ("reply", "success", '{"result":"w0 w1 "}'),
    ]
    assert "".join(output["text"] for output in outputs) == "w0 w1 "


async def test_a_thought_has_the_reasoning_of_its_model(tmp_path: Path, model_server: ModelServer) -> None:
    outputs = await stream(write(tmp_path, model_server, model="reasoning"), has_thoughts=True)
    assert nodes(outputs[-1])[-1][2] == '{"result":"forty-two","reasoningContent":"let me think"}'
    assert '{"result":"","reasoningContent":"let me "}' in [nodes(output)[-1][2] for output in outputs]


async def test_reasoning_is_streamed_in_chunks(tmp_path: Path, model_server: ModelServer) -> None:
    flow = write(tmp_path, model_server, model="reasoning")
    outputs = await stream(flow, has_thoughts=True, incremental_output=True)
    assert [node[2] for output in outputs for node in nodes(output)][-4:] == [
        '{"result":"","reasoningContent":"let me "}',
        '{"result":"","reasoningContent":"think"}',
        '{"result":"forty-two"}',
        '{"result":"forty-two","reasoningContent":"let me think"}',
    ]


async def test_thoughts_without_a_stream(tmp_path: Path, model_server: ModelServer) -> None:
    content = {"input": {"prompt": "hi"}, "parameters": {"has_thoughts": True}}
    output = (await post(write(tmp_path, model_server), PATH, content)).json()["output"]
    assert [name for name, _, _ in nodes(output)] == ["look", "draft", "reply"]
    assert output["text"] == "w0 w1 "


def messages(outputs: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Return the contents of the messages of a stream, without its last frame, which has the whole text."""
    *others, last = outputs
    assert last.keys() == {"session_id", "finish_reason", "text"}
    assert last["finish_reason"] == "stop"
    assert all(output.keys() == {"session_id", "finish_reason", "workflow_message"} for output in others)
    found = [output["workflow_message"] for output in others]
    assert all(one["node_is_completed"] is (one["node_status"] == "success") for one in found)
    assert all(one["message"]["role"] == "assistant" for one in found)
    return [
        (one["node_type"], one["node_name"], one["node_msg_seq_id"], one["node_status"], one["message"]["content"])
        for one in found
    ]


async def test_message_format_has_the_end_node(tmp_path: Path, model_server: ModelServer) -> None:
    outputs = await stream(write(tmp_path, model_server), flow_stream_mode="message_format")
    assert messages(outputs) == [
        ("End", "End", 0, "executing", "w0 "),
        ("End", "End", 1, "executing", "w1 "),
        ("End", "End", 2, "success", ""),
    ]
    assert outputs[-1]["text"] == "w0 w1 "


async def test_message_format_has_the_output_nodes(tmp_path: Path, model_server: ModelServer) -> None:
    outputs = await stream(
        write(tmp_path, model_server, SPEAKING), flow_stream_mode="message_format", incremental_output=True
    )
    assert messages(outputs) == [
        ("Output", "hello", 0, "executing", "You ask: "),
        ("Output", "hello", 1, "executing", "hi"),
        ("Output", "hello", 2, "executing", ". "),
        ("Output", "hello", 3, "success", ""),
        ("Output", "say", 0, "executing", "You "),
        ("Output", "say", 1, "executing", "said: "),
        ("Output", "say", 2, "executing", "hi"),
        ("Output", "say", 3, "success", ""),
    ]
    assert outputs[-1]["text"] == "You ask: hi. You said: hi"


async def test_message_format_plus_has_all_nodes(tmp_path: Path, model_server: ModelServer) -> None:
    outputs = await stream(write(tmp_path, model_server), flow_stream_mode="message_format_plus", has_thoughts=True)
    assert messages(outputs) == [
        ("Start", "Start", 0, "success", ""),
        ("VariableHandle", "look", 0, "success", "found hi"),
        ("LLM", "draft", 0, "success", '{"result":"You said: found hi"}'),
        ("LLM", "reply", 0, "executing", '{"result":"w0 "}'),
        ("End", "End", 0, "executing", "w0 "),
        ("LLM", "reply", 1, "executing", '{"result":"w1 "}'),
        ("End", "End", 1, "executing", "w1 "),
        ("LLM", "reply", 2, "success", '{"result":""}'),
        ("End", "End", 2, "success", ""),
    ]
    assert outputs[-1]["text"] == "w0 w1 "


async def test_the_newer_client_gets_its_flags_as_text(tmp_path: Path, model_server: ModelServer) -> None:
    flow = write(tmp_path, model_server)
    tag = {"x-dashscope-sdk-client": "python-sdk/2.0.2/app2"}
    outputs = await stream(flow, tag, flow_stream_mode="message_format")
    flags = [output["workflow_message"]["node_is_completed"] for output in outputs[:-1]]
    assert flags == ["false", "false", "true"]
