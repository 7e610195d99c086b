import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flowpod.telemetry.tracing import Tracing
from tests.support.flows import client_of, post, write_chat_flow, write_flow
from tests.support.model_server import ModelServer

TWO_NODES = """
inputs:
  text: {type: string}
outputs:
  out: {type: object, reference: "${shout.output}"}
nodes:
- name: shout
  type: python
  source: {path: shout.py}
  inputs: {text: "${inputs.text}"}
  description: Makes it loud.
  display_name: Shout
- {name: silent, type: python, source: {path: shout.py}, inputs: {text: hidden}}
"""
SHOUT = """
from dataclasses import dataclass
from langstudio.core import tool

@dataclass
class Result:
    text: str
    input_length: int

@tool
def invoke(text: str) -> Result:
    return Result(text.upper(), len(text))
"""


def frames(content: bytes) -> list[dict[str, Any]]:
    """Return the events of a stream, which must be data-only frames with LF line ends."""
    assert b"\r" not in content
    parts = content.decode().split("\n\n")
    assert parts.pop() == ""
    assert all(part.startswith("data: ") and "\n" not in part for part in parts)
    return [json.loads(part.removeprefix("data: ")) for part in parts]


def keys(value: Any) -> Any:
    """Return the keys of a JSON value in their order, and those of the objects in it."""
    if isinstance(value, dict):
        return [(key, keys(item)) if isinstance(item, dict | list) else key for key, item in value.items()]
    return [keys(item) for item in value] if isinstance(value, list) else None


async def test_events_have_the_pages_keys_in_the_pages_order(chat_flow: Path) -> None:
    response = await post(chat_flow, "/run", {"inputs": {"question": "hi"}})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = frames(response.content)
    flow_run_info = ("flow_run_info", ["run_id", "status", "error", "otel_trace_id"])
    node = ["node_name", "node", "status", "error", "duration", "description", "display_name", "output"]
    output = [("outputs", ["answer"]), ("output_metadata", [("answer", ["is_stream", "status"])])]
    head = ["event", "run_id", "timestamp"]
    started, running, first, *_ = events
    *_, last, finished, completed, terminated = events
    assert keys(started) == [*head, flow_run_info]
    assert keys(running) == keys(completed) == [*head, ("node_run_infos", [node])]
    assert keys(first) == keys(last) == [*head, *output]
    assert keys(finished) == [*head, ("outputs", []), output[1]]
    assert keys(terminated)[:4] == [*head, flow_run_info]


async def test_events_have_the_pages_values(chat_flow: Path) -> None:
    events = frames((await post(chat_flow, "/run", {"inputs": {"question": "hi"}, "stream": True})).content)
    run_id, trace_id = events[0]["run_id"], events[0]["flow_run_info"]["otel_trace_id"]
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", run_id)
    assert re.fullmatch(r"0x[0-9a-f]{32}", trace_id)
    assert int(trace_id, 16) != 0
    assert events[0]["flow_run_info"] == {
        "run_id": run_id,
        "status": "Running",
        "error": None,
        "otel_trace_id": trace_id,
    }
    assert [event["event"] for event in events] == [
        "RunStarted",
        "NodeUpdated",
        *["RunOutput"] * 6,
        "NodeUpdated",
        "RunTerminated",
    ]
    for event in events:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", event["timestamp"])
        age = datetime.now(UTC) - datetime.fromisoformat(event["timestamp"])
        assert abs(age.total_seconds()) < 60
        if event["event"] == "RunOutput":
            assert re.fullmatch(rf"{run_id}_reply_[0-9a-f-]{{36}}", event["run_id"])
        else:
            assert event["run_id"] == run_id
    outputs = [event for event in events if event["event"] == "RunOutput"]
    assert [event["outputs"] for event in outputs] == [*({"answer": d} for d in ("", "You ", "said: ", "hi", "")), {}]
    streaming, done = {"is_stream": True, "status": "Streaming"}, {"is_stream": True, "status": "Finished"}
    assert [event["output_metadata"]["answer"] for event in outputs] == [*[streaming] * 5, done]
    node = {"node_name": "reply", "node": "reply", "error": None}
    hidden = {"description": None, "display_name": None, "output": None}
    assert events[1]["node_run_infos"] == [{**node, "status": "Running", "duration": 0.0, **hidden}]
    completed = events[-2]["node_run_infos"][0]
    assert completed.pop("duration") > 0
    assert completed == {**node, "status": "Completed", **hidden}
    assert events[-1]["flow_run_info"] == events[0]["flow_run_info"] | {"status": "Completed"}
    assert events[-1]["metadata"] == {"usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}}


async def test_response_config_chooses_what_is_shown_of_nodes(tmp_path: Path) -> None:
    config = {
        "include_node_description": True,
        "include_node_display_name": True,
        "include_node_output": True,
        "exclude_nodes": ["silent"],
    }
    async with client_of(write_flow(tmp_path, TWO_NODES, {"shout.py": SHOUT})) as client:
        response = await client.post("/run", json={"inputs": {"text": "hi"}, "response_config": config})
    events = frames(response.content)
    nodes = [info for event in events for info in event.get("node_run_infos", [])]
    for info in nodes:
        del info["duration"]
    shown = {
        "node_name": "shout",
        "node": "shout",
        "error": None,
        "description": "Makes it loud.",
        "display_name": "Shout",
    }
    output = {"text": "HI", "input_length": 2}
    assert nodes == [{**shown, "status": "Running", "output": None}, {**shown, "status": "Completed", "output": output}]
    whole = next(event for event in events if event["event"] == "RunOutput")
    assert whole["outputs"] == {"out": output}
    assert whole["output_metadata"] == {"out": {"is_stream": False, "status": "Finished"}}
    assert "metadata" not in events[-1]


async def test_without_a_stream_one_body_has_the_same_values(tmp_path: Path) -> None:
    async with client_of(write_flow(tmp_path, TWO_NODES, {"shout.py": SHOUT})) as client:
        body = {"inputs": {"text": "hi"}, "stream": False, "response_config": {"exclude_nodes": ["silent"]}}
        response = await client.post("/run", json=body)
    assert response.headers["content-type"] == "application/json"
    content = response.json()
    assert list(content) == ["run_id", "timestamp", "flow_run_info", "node_run_infos", "outputs", "output_metadata"]
    assert content["flow_run_info"]["run_id"] == content["run_id"]
    assert content["flow_run_info"]["status"] == "Completed"
    assert [(info["node"], info["status"]) for info in content["node_run_infos"]] == [("shout", "Completed")]
    assert content["outputs"] == {"out": {"text": "HI", "input_length": 2}}
    assert content["output_metadata"] == {"out": {"is_stream": False, "status": "Finished"}}


@pytest.mark.parametrize(
    ("stream", "accept", "media_type"),
    [
        (None, "*/*", "text/event-stream"),
        (None, "", "text/event-stream"),
        (None, "application/json", "application/json"),
        (None, "application/json, text/event-stream", "text/event-stream"),
        (True, "application/json", "text/event-stream"),
        (False, "text/event-stream", "application/json"),
    ],
)
async def test_the_body_precedes_accept(tmp_path: Path, stream: bool | None, accept: str, media_type: str) -> None:
    response = await post(
        write_flow(tmp_path, TWO_NODES, {"shout.py": SHOUT}),
        "/run",
        {"inputs": {"text": "a"}, "stream": stream},
        headers={"Accept": accept},
    )
    assert response.headers["content-type"].startswith(media_type)


async def test_a_failed_run_says_so_in_the_stream(tmp_path: Path, model_server: ModelServer) -> None:
    async with client_of(write_chat_flow(tmp_path, model_server.url, "break-off")) as client:
        stream = frames((await client.post("/run", json={"inputs": {"question": "hi"}})).content)
    failed, terminated = stream[-2:]
    info = failed["node_run_infos"][0]
    assert (info["status"], info["output"]) == ("Failed", None)
    assert terminated["flow_run_info"]["status"] == "Failed"
    error = terminated["flow_run_info"]["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert error == info["error"]
    assert (error["type"], error["param"], error["code"]) == ("node_error", "reply", "model_broke_off")
    assert error["message"] == "node 'reply': the model broke off its answer"


async def test_a_failed_run_answers_424_when_not_streaming(tmp_path: Path, model_server: ModelServer) -> None:
    async with client_of(write_chat_flow(tmp_path, model_server.url, "fail:500")) as client:
        response = await client.post("/run", json={"inputs": {"question": "hi"}, "stream": False})
    assert response.status_code == 424
    content = response.json()
    assert content["flow_run_info"]["status"] == "Failed"
    assert content["flow_run_info"]["error"]["code"] == "model_error"
    assert content["error"] == content["flow_run_info"]["error"]
    assert content["outputs"] == content["output_metadata"] == {}


async def test_a_flow_without_inputs_ignores_them(tmp_path: Path) -> None:
    dag = """
    outputs:
      out: {type: object, reference: "${shout.output.text}"}
    nodes:
    - {name: shout, type: python, source: {path: shout.py}, inputs: {text: hi}}
    """
    async with client_of(write_flow(tmp_path, dag, {"shout.py": SHOUT})) as client:
        response = await client.post("/run", json={"inputs": {"x": 1}, "stream": False})
        empty = await client.post("/run", json={"stream": False})
    assert response.json()["outputs"] == empty.json()["outputs"] == {"out": "HI"}


async def test_tracing_off_leaves_the_trace_id_empty(tmp_path: Path) -> None:
    async with client_of(write_flow(tmp_path, TWO_NODES, {"shout.py": SHOUT}), tracing=Tracing(None)) as client:
        response = await client.post("/run", json={"inputs": {"text": "hi"}})
    assert [
        event["flow_run_info"]["otel_trace_id"] for event in frames(response.content) if "flow_run_info" in event
    ] == ["", ""]
