"""A node kind is one record: one that a test adds works everywhere without a further line."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from flowpod.flow.document.flow import flow_json_schema
from flowpod.nodes import KINDS
from tests.support.chorus_kind import CHORUS
from tests.support.flows import client_of, problems_of, write_flow
from tests.support.model_server import ModelServer
from tests.support.serving import ROOT, environment, start_server, wait_until_ready

DAG = """
inputs:
  question: {type: string, is_chat_input: true}
outputs:
  answer: {type: string, reference: "${sing.output}", is_chat_output: true}
nodes:
- {name: sing, type: chorus, singer: alto, connection: model, inputs: {verse: "${inputs.question}"}}
"""
PROGRAM = (sys.executable, "-m", "tests.support.chorus_kind")


@pytest.fixture
def with_chorus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "chorus", CHORUS)


def write(folder: Path, server: ModelServer, old: str = "", new: str = "") -> Path:
    connections = f"model: {{type: open_ai, base_url: '{server.url}', max_retries: 0}}\n"
    return write_flow(folder, DAG.replace(old, new), {"connections.yaml": connections})


def command(*arguments: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    program = [*PROGRAM, *arguments]
    return subprocess.run(
        program, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("old", "new", "key", "message"),
    [
        ("connection: model", "connection: nobody", "nodes[0].connection", "there is no connection 'nobody'"),
        (", connection: model", "", "nodes[0].connection", "a chorus needs a connection"),
        ("verse:", "line:", "nodes[0].inputs", "there is no input 'verse' here"),
        ("singer: alto", "singer: [alto]", "nodes[0].singer", "input should be a valid string"),
        ("singer: alto", "singer: missing", "nodes[0].type", "need chorus_sheets: pip install 'flowpod[music]'"),
        ("type: chorus", "type: choir", "nodes[0].type", "there is no node kind 'choir'; the kinds are llm, python"),
    ],
)
@pytest.mark.usefixtures("with_chorus")
def test_wrong_keys_are_named(
    tmp_path: Path, model_server: ModelServer, old: str, new: str, key: str, message: str
) -> None:
    (problem,) = problems_of(write(tmp_path, model_server, old, new))
    assert problem.key == key
    assert message in problem.message


@pytest.mark.usefixtures("with_chorus")
def test_an_unset_variable_of_its_connection_is_a_problem_of_the_environment(tmp_path: Path) -> None:
    connections = "model: {type: open_ai, api_key: '${env:CHORUS_KEY}'}\n"
    (problem,) = problems_of(write_flow(tmp_path, DAG, {"connections.yaml": connections}))
    assert (problem.severity, problem.key) == ("environment", "nodes[0].connection")


@pytest.mark.usefixtures("with_chorus")
def test_schema_describes_it() -> None:
    schema = flow_json_schema(KINDS)
    options = schema["$defs"]["ChorusOptions"]
    assert options["properties"]["type"]["const"] == "chorus"
    assert options["description"] == "Asks a model once and lets it answer in chorus."
    assert {"$ref": "#/$defs/ChorusOptions"} in schema["properties"]["nodes"]["items"]["anyOf"]


def test_every_kind_has_the_name_of_its_entry() -> None:
    assert all(kind.name == name for name, kind in KINDS.items())


async def thoughts(client: httpx.AsyncClient, *, stream: bool) -> list[dict[str, Any]]:
    """Return the node of each thought in the last frame, or in the body."""
    body = {"input": {"prompt": "la"}, "parameters": {"has_thoughts": True}}
    headers = {"X-DashScope-SSE": "enable"} if stream else {}
    response = await client.post("/api/v1/apps/any/completion", json=body, headers=headers)
    text = response.text.rpartition("data:")[2] if stream else response.text
    return [json.loads(thought["response"]) for thought in json.loads(text)["output"]["thoughts"]]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.usefixtures("with_chorus")
async def test_dashscope_shows_it_in_thoughts(tmp_path: Path, model_server: ModelServer, stream: bool) -> None:
    async with client_of(write(tmp_path, model_server)) as client:
        (node,) = await thoughts(client, stream=stream)
    assert (node["nodeId"], node["nodeType"], node["nodeStatus"]) == ("sing", "Chorus", "success")
    assert node["nodeResult"] == "w0 w1 "


@pytest.mark.usefixtures("with_chorus")
async def test_score_streams_it(tmp_path: Path, model_server: ModelServer) -> None:
    async with client_of(write(tmp_path, model_server)) as client:
        response = await client.post("/score", json={"question": "la"}, headers={"Accept": "text/event-stream"})
    assert response.text.split("\n\n")[:2] == ['data: {"answer":""}', 'data: {"answer":"w0 "}']


def test_it_is_checked_served_and_traced(tmp_path: Path, model_server: ModelServer) -> None:
    flow = write(tmp_path / "flow", model_server)
    checked = command("check", str(flow), tmp_path=tmp_path)
    assert (checked.returncode, checked.stdout) == (0, f"{flow}: no problems\n")
    with start_server(flow, tmp_path, program=PROGRAM) as served:
        wait_until_ready(served)
        run = httpx.post(f"{served.url}/run", json={"inputs": {"question": "la"}, "stream": False}).json()
        assert run["outputs"] == {"answer": "w0 w1 "}
        assert model_server.calls_of("words:2")[-1].messages == [{"role": "user", "content": "alto: la"}]
        (trace,) = httpx.get(f"{served.url}/traces/{run['run_id']}").json()["runs"]
    (node,) = trace["spans"][0]["children"]
    assert node["attributes"]["openinference.span.kind"] == "AGENT"
    assert node["attributes"]["flowpod.node.type"] == "chorus"
    assert [child["attributes"]["openinference.span.kind"] for child in node["children"]] == ["LLM"]
