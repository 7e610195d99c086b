"""Behaviour common to all requests: tokens, ids, limits and the error shape."""

import re
from pathlib import Path

import httpx
import pytest

from tests.support.flows import SESSION, client_of, post, write_chat_flow, write_flow
from tests.support.model_server import ModelServer

FLOW = """
inputs:
  text: {type: string, default: hi}
outputs:
  out: {type: string, reference: "${prompt.output}"}
nodes:
- {name: prompt, type: prompt, source: {path: p.jinja2}, inputs: {text: "${inputs.text}"}}
"""


def flow_in(folder: Path) -> Path:
    return write_flow(folder, FLOW, {"p.jinja2": "{{ text }}"})


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("Bearer one", 200),
        ("bearer two", 200),
        ("one", 200),
        ("Bearer  two", 200),
        (None, 401),
        ("", 401),
        ("Bearer", 401),
        ("Bearer three", 401),
        ("Bearer on", 401),
        ("Basic one", 401),
    ],
)
async def test_each_of_several_tokens_is_accepted(tmp_path: Path, authorization: str | None, status: int) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    response = await post(flow_in(tmp_path), "/", {}, headers=headers, tokens=("one", "two"))
    assert response.status_code == status
    if status == 401:
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.json()["error"]["type"] == "authentication_error"
        assert "x-request-id" in response.headers


async def test_a_token_that_is_not_ascii_is_rejected(tmp_path: Path) -> None:
    response = await post(
        flow_in(tmp_path),
        "/",
        {},
        headers=[(b"Authorization", "Bearer \u00e9\u00ff".encode("latin-1"))],
        tokens=("one",),
    )
    assert response.status_code == 401


async def test_health_needs_no_token(tmp_path: Path) -> None:
    async with client_of(flow_in(tmp_path), tokens=("one",)) as client:
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        assert (await client.get("/readyz")).json() == {"status": "ready"}
        assert (await client.get("/nothing")).status_code == 401


@pytest.mark.parametrize(
    ("given", "kept"),
    [("abc-123", True), ("with space", True), ("x" * 128, True), ("x" * 129, False), ("t\u00e9", False), ("", False)],
)
async def test_a_request_id_is_kept_or_generated(tmp_path: Path, given: str, kept: bool) -> None:
    response = await post(flow_in(tmp_path), "/", {}, headers=[(b"X-Request-Id", given.encode())])
    assert (response.headers["x-request-id"] == given) is kept
    assert response.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/", "/run"])
@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
async def test_every_response_has_its_session_id(tmp_path: Path, path: str, accept: str) -> None:
    async with client_of(flow_in(tmp_path)) as client:
        assigned = await client.post(path, json={}, headers={"Accept": accept})
        given = await client.post(path, json={}, headers={"Accept": accept, "Chat-Session-Id": SESSION})
        bad = await client.post(path, json={"nothing": 1, "inputs": {"a": 1}}, headers={"Chat-Session-Id": SESSION})
    assert re.fullmatch(r"[A-Za-z0-9_:-]{32,255}", assigned.headers["chat-session-id"])
    assert given.headers["chat-session-id"] == bad.headers["chat-session-id"] == SESSION
    assert bad.status_code == 400


@pytest.mark.parametrize("session", ["short", "x" * 256, "x" * 31 + "!", "x" * 31 + " x"])
async def test_an_invalid_session_id_is_rejected(tmp_path: Path, session: str) -> None:
    response = await post(flow_in(tmp_path), "/", {}, headers={"Chat-Session-Id": session})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "Chat-Session-Id")
    assert "chat-session-id" not in response.headers


@pytest.mark.parametrize(
    ("path", "body", "message", "param"),
    [
        ("/", b"", "the body is empty; it must be a JSON object", None),
        ("/", b"[1]", "the body must be a JSON object, not a list", None),
        ("/", b'"x"', "the body must be a JSON object, not a string", None),
        ("/", b"null", "the body must be a JSON object, not null", None),
        ("/", b'{"text": ', "the body is not valid JSON: ", None),
        ("/", b'{"other": 1}', "the flow has no input 'other'; its inputs: text", "other"),
        ("/run", b'{"inputs": []}', "inputs: input should be a valid dictionary", "inputs"),
        ("/run", b'{"stream": 3}', "stream: input should be a valid boolean", "stream"),
        (
            "/run",
            b'{"response_config": {"exclude_nodes": "x"}}',
            "response_config.exclude_nodes: input should be",
            "response_config.exclude_nodes",
        ),
        ("/run", b'{"inputs": {"other": 1}}', "the flow has no input 'other'", "other"),
        ("/run", b"\xff\xfe", "the body is not valid JSON", None),
    ],
)
async def test_a_bad_body_is_reported(tmp_path: Path, path: str, body: bytes, message: str, param: str | None) -> None:
    response = await post(flow_in(tmp_path), path, content=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert error["message"].startswith(message)
    assert (error["type"], error["param"]) == ("invalid_request_error", param)


async def test_a_body_over_the_limit_is_413(tmp_path: Path) -> None:
    async def chunks() -> object:
        for _ in range(10):
            yield b" " * 50

    async with client_of(flow_in(tmp_path), max_body_bytes=100) as client:
        declared = await client.post("/", content=b" " * 101)
        undeclared = await client.post("/", content=chunks())  # type: ignore[arg-type]
        fits = await client.post("/", json={"text": "ok"})
    assert (declared.status_code, undeclared.status_code, fits.status_code) == (413, 413, 200)
    assert declared.json()["error"]["code"] == "body_too_large"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "unknown_path"),
        ("GET", "/", 405, "method_not_allowed"),
        ("GET", "/run", 405, "method_not_allowed"),
        ("DELETE", "/healthz", 405, "method_not_allowed"),
    ],
)
async def test_unknown_paths_and_methods_are_errors(
    tmp_path: Path, method: str, path: str, status: int, code: str
) -> None:
    async with client_of(flow_in(tmp_path)) as client:
        response = await client.request(method, path)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert "x-request-id" in response.headers


async def test_too_many_runs_are_429_and_a_closing_service_is_503(tmp_path: Path, model_server: ModelServer) -> None:
    from flowpod.engine.request import RunRequest
    from flowpod.serving.app import create_app
    from flowpod.settings import Settings
    from tests.support.flows import service_of

    async with service_of(write_chat_flow(tmp_path, model_server.url, "endless"), max_runs=1) as service:
        transport = httpx.ASGITransport(create_app(service, Settings(), ()))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            run = await service.start(RunRequest({"question": "hi"}, SESSION))
            busy = await client.post("/", json={"question": "hi"})
            run.leave()
            await run.finished()
            await service.finish(grace_s=0)
            closing = await client.post("/", json={"question": "hi"})
            ready = await client.get("/readyz")
            alive = await client.get("/healthz")
    assert (busy.status_code, busy.json()["error"]["type"]) == (429, "rate_limit_error")
    assert (closing.status_code, closing.json()["error"]["code"]) == (503, "shutting_down")
    assert (ready.status_code, alive.status_code) == (503, 200)
    assert all(int(response.headers["retry-after"]) > 0 for response in (busy, closing, ready))
    assert closing.headers["connection"] == "close"


async def test_an_output_that_is_not_json_becomes_its_repr(tmp_path: Path) -> None:
    dag = """
    outputs:
      odd: {type: object, reference: "${odd.output}"}
    nodes:
    - {name: odd, type: python, source: {path: odd.py}}
    """
    code = """
    class Odd:
        def __repr__(self):
            return "<odd>"

    def invoke():
        return {"a": Odd(), "b": {1, }, "c": b"x", "d": 2**70, 3: "e"}
    """
    response = await post(write_flow(tmp_path, dag, {"odd.py": code}), "/", {})
    assert response.json() == {"odd": {"a": "<odd>", "b": [1], "c": "b'x'", "d": "1180591620717411303424", "3": "e"}}


@pytest.mark.parametrize("user", ["ann", "\u00e9t\u00e9 \U0001f600", "x" * 255])
async def test_a_user_id_is_free_text(tmp_path: Path, chat_flow: Path, user: str) -> None:
    async with client_of(chat_flow, data=tmp_path) as client:
        response = await client.post("/", json={"question": "hi"}, headers=[(b"Chat-User-Id", user.encode())])
        long = await client.post("/", json={"question": "hi"}, headers={"Chat-User-Id": "x" * 256})
    assert response.status_code == 200
    assert (long.status_code, long.json()["error"]["param"]) == (400, "Chat-User-Id")
