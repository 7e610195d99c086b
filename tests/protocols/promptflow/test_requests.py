"""promptflow's serving: request bodies, and the endpoints other than `/score`."""

from pathlib import Path
from typing import Any

import pytest

from flowpod import __version__
from tests.protocols.native.test_conversations import new, sent_for, session, stored
from tests.support.flows import client_of, post, service_of, write_chat_flow, write_flow
from tests.support.model_server import ModelServer
from tests.support.score import ECHO, STREAM, TOOL, caller_of, echo_flow, error_of


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"other": 1}', "Required input fields ['text', 'history'] are missing"),
        (b'{"text": "hi"}', "Required input fields ['history'] are missing"),
        (b'{"text": "hi", "history": "x"}', "input 'history': expected a list"),
        (b"[1]", "the body must be a JSON object, not a list"),
        (
            b"hi",
            "the body is not JSON, and only a flow with a single input accepts text; this one has text, n, history",
        ),
        (b"", "the body is not JSON, and only a flow with a single input accepts text; this one has text, n, history"),
    ],
)
async def test_a_bad_body_is_400_in_promptflows_shape(tmp_path: Path, content: bytes, message: str) -> None:
    dag = ECHO.replace("outputs:", "  n: {type: int, default: 3}\n  history: {type: list}\noutputs:", 1)
    flow = write_flow(tmp_path, dag, {"echo.py": TOOL + "def echo(text): return text"})
    response = await post(flow, "/score", content=content)
    assert response.status_code == 400
    error = error_of(response)
    assert error["code"] == "UserError"
    assert error["message"].startswith(message)


@pytest.mark.parametrize(
    ("content", "status", "expected"),
    [
        (b"plain text", 200, {"out": "plain text"}),
        ("\u00e9t\u00e9 {".encode(), 200, {"out": "\u00e9t\u00e9 {"}),
        (b"", 200, {"out": ""}),
        (b'{"text": "json"}', 200, {"out": "json"}),
        (b'{"text": "json", "unknown": 1}', 200, {"out": "json"}),
        (b"\xff\xfe", 400, None),
        (b"17", 400, None),
    ],
)
async def test_text_is_the_value_of_a_single_input(tmp_path: Path, content: bytes, status: int, expected: Any) -> None:
    response = await post(echo_flow(tmp_path), "/score", content=content)
    assert response.status_code == status
    if expected:
        assert response.json() == expected


async def test_a_flow_without_inputs_ignores_the_body(tmp_path: Path) -> None:
    dag = 'outputs:\n  out: {type: string, reference: "${f.output}"}\nnodes:\n- {name: f, type: python, source: {path: f.py}}'
    flow = write_flow(tmp_path, dag, {"f.py": TOOL + "def f() -> str: return 'done'"})
    assert (await post(flow, "/score", content=b"[not json")).json() == {"out": "done"}


def chat_without_default(folder: Path, url: str) -> Path:
    flow = write_chat_flow(folder, url)
    dag = (flow / "flow.dag.yaml").read_text()
    (flow / "flow.dag.yaml").write_text(dag.replace("type: list, default: [], ", "type: list, "))
    return flow


async def test_a_chat_history_without_default_is_required(tmp_path: Path, model_server: ModelServer) -> None:
    question = new("q")
    pair = {"inputs": {"question": "before"}, "outputs": {"answer": "then"}}
    async with client_of(chat_without_default(tmp_path, model_server.url)) as client:
        refused = await client.post("/score", json={"question": question})
        taken = await client.post("/score", json={"question": question, "chat_history": [pair]})
    assert refused.status_code == 400
    expected = "Required input fields ['chat_history'] are missing"
    assert error_of(refused) == {"code": "UserError", "message": expected}
    assert (taken.status_code, sent_for(model_server, question)) == (200, ["before", "then", question])


async def test_an_assigned_session_can_be_continued(tmp_path: Path, model_server: ModelServer) -> None:
    """A caller that names its session gets the stored history, even if the flow requires a history."""
    one, two = new("one"), new("two")
    async with client_of(chat_without_default(tmp_path / "flow", model_server.url), data=tmp_path) as client:
        first = await client.post("/score", json={"question": one, "chat_history": []}, headers=STREAM)
        name = first.headers["chat-session-id"]
        second = await client.post("/score", json={"question": two}, headers=session(name))
    assert second.headers["chat-session-id"] == name
    assert sent_for(model_server, two) == [one, f"You said: {one}", two]
    assert [row[:3] for row in stored(tmp_path)] == [(name, 1, "Completed"), (name, 2, "Completed")]


@pytest.mark.parametrize(
    ("given", "own", "client"),
    [
        ({"x-request-id": "r"}, "r", None),
        ({"x-ms-client-request-id": "c"}, "c", "c"),
        ({"x-request-id": "r", "x-ms-client-request-id": "c"}, "r", "c"),
        ({"x-request-id": "\u00e9", "x-ms-client-request-id": "c"}, "c", "c"),
    ],
)
async def test_request_ids_are_returned(tmp_path: Path, given: dict[str, str], own: str, client: str | None) -> None:
    async with client_of(echo_flow(tmp_path)) as caller:
        headers = [(name.encode(), value.encode()) for name, value in given.items()]
        response = await caller.post("/score", json={"text": "hi"}, headers=headers)
    assert response.headers["x-request-id"] == own
    assert response.headers.get("x-ms-client-request-id") == client


async def test_limits_have_promptflows_error_shape(tmp_path: Path) -> None:
    async with client_of(echo_flow(tmp_path), max_body_bytes=10) as client:
        score = await client.post("/score", json={"text": "x" * 20})
        feedback = await client.post("/feedback", content=b"x" * 20)
        bad = await client.post("/score", json={}, headers=session("short"))
    assert (score.status_code, feedback.status_code, bad.status_code) == (413, 413, 400)
    assert error_of(score)["code"] == error_of(feedback)["code"] == error_of(bad)["code"] == "UserError"


async def test_a_closing_service_is_a_system_error(tmp_path: Path) -> None:
    async with service_of(echo_flow(tmp_path)) as service:
        await service.finish(grace_s=0)
        async with caller_of(service) as client:
            response = await client.post("/score", json={"text": "hi"})
    assert (response.status_code, error_of(response)["code"]) == (503, "SystemError")
    assert "retry-after" in response.headers


async def test_health_alone_needs_no_token(tmp_path: Path) -> None:
    async with client_of(echo_flow(tmp_path), tokens=("one",)) as client:
        health = await client.get("/health")
        closed = [
            await client.get("/version"),
            await client.get("/swagger.json"),
            await client.post("/feedback", json={}),
            await client.post("/score", json={"text": "hi"}),
        ]
        version = await client.get("/version", headers={"Authorization": "Bearer one"})
    assert health.json() == {"status": "Healthy", "version": __version__}
    assert {response.status_code for response in closed} == {401}
    assert version.json() == {"status": "Healthy", "build_info": "", "version": __version__}
