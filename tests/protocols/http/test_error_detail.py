"""What callers see of a node's failure: a reason, and neither addresses, paths, files nor lines, in any protocol."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.flows import client_of, write_flow
from tests.telemetry.test_tracing import recording

FAULT = "an error that names addresses, files or lines"
SESSION = {"Chat-Session-Id": "s" * 32}
FLOW = """
inputs:
  question: {type: string, is_chat_input: true}
  chat_history: {type: list, default: [], is_chat_history: true}
outputs:
  answer: {type: string, reference: "${reply.output}", is_chat_output: true}
nodes:
- {name: work, type: python, source: {path: work.py}, inputs: {how: "${inputs.question}"}}
- name: reply
  type: llm
  source: {type: code, path: reply.jinja2}
  connection: model
  inputs: {model: any, question: "${work.output}"}
"""
CODE = """
import sqlite3
import httpx2

class Refused(Exception):
    pass

def invoke(how: str) -> str:
    if how == "author":
        raise Refused("there is no such city")
    if how == "file":
        open("/srv/internal/cities.csv")
    if how == "library":
        httpx2.get("http://127.0.0.1:9/internal")
    if how == "database":
        sqlite3.connect(":memory:").execute("SELECT * FROM internal_table")
    if how == "words":
        raise RuntimeError("no answer from http://10.0.0.3:8000/v1, 10.0.0.3:8000 or db.internal:5432 (/srv/app/a.csv)")
    return how
"""
REASONS = {
    "model": "the model cannot be reached",
    "template": "its template failed",
    "author": "there is no such city",
    "file": "No such file or directory",
    "library": "ConnectError",
    "database": "OperationalError",
    "words": "no answer from [address], [address] or [address] ([path])",
}
INTERNAL = ("127.0.0.1", "10.0.0.3", "db.internal", "internal_table", "/srv", "work.py", "reply.jinja2", ", line ")


def flow_in(folder: Path) -> Path:
    prompt = "# user:\n{{ question.missing.attribute if question == 'template' else question }}\n"
    connections = "model: {type: open_ai, base_url: 'http://127.0.0.1:9/v1', max_retries: 0}\n"
    return write_flow(folder / "flow", FLOW, {"work.py": CODE, "reply.jinja2": prompt, "connections.yaml": connections})


Ask = Callable[[httpx.AsyncClient, str], Awaitable[str]]
SURFACES: dict[str, Ask] = {}


def post(
    name: str, path: str, body: Callable[[str], Any], *, stream: bool = False, headers: dict[str, str] | None = None
) -> None:
    """Add a surface that answers a POST."""

    async def ask(client: httpx.AsyncClient, how: str) -> str:
        content = body(how) | ({"stream": True} if stream else {})
        return (await client.post(path, json=content, headers=headers)).text

    SURFACES[name] = ask


SSE = {"Accept": "text/event-stream"}
DASHSCOPE = "/api/v1/apps/any/completion"
GENERATION = "/api/v1/services/aigc/text-generation/generation"


def messages(how: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": how}]}


post("simple", "/", lambda how: {"question": how})
post("simple stream", "/", lambda how: {"question": how}, headers=SSE)
post("run", "/run", lambda how: {"inputs": {"question": how}, "stream": False})
post("run stream", "/run", lambda how: {"inputs": {"question": how}}, stream=True)
post("chat", "/v1/chat/completions", messages)
post("chat stream", "/v1/chat/completions", messages, stream=True)
post("responses", "/v1/responses", lambda how: {"input": how})
post("responses stream", "/v1/responses", lambda how: {"input": how}, stream=True)
post("dashscope", DASHSCOPE, lambda how: {"input": {"prompt": how}})
post(
    "dashscope stream",
    DASHSCOPE,
    lambda how: {"input": {"prompt": how}, "parameters": {"has_thoughts": True}},
    headers={"X-DashScope-SSE": "enable"},
)
post("generation", GENERATION, lambda how: {"model": "any", "input": messages(how)})
post("score", "/score", lambda how: {"question": how, "chat_history": []})
post("score stream", "/score", lambda how: {"question": how, "chat_history": []}, headers=SSE)


async def background_run(client: httpx.AsyncClient, how: str) -> str:
    run = (await client.post("/run", json={"inputs": {"question": how}, "background": True})).json()
    events = await client.get(f"/runs/{run['run_id']}/events")
    return events.text + (await client.get(f"/runs/{run['run_id']}")).text


async def stored_response(client: httpx.AsyncClient, how: str) -> str:
    response = (await client.post("/v1/responses", json={"input": how})).json()
    return (await client.get(f"/v1/responses/{response['id']}")).text


async def session(client: httpx.AsyncClient, how: str) -> str:
    await client.post("/", json={"question": how}, headers=SESSION)
    exported = await client.get(f"/chat/sessions/{SESSION['Chat-Session-Id']}/export")
    return exported.text + (await client.get(f"/chat/sessions/{SESSION['Chat-Session-Id']}")).text


SURFACES |= {"background run": background_run, "stored response": stored_response, "session": session}


@pytest.mark.fault(FAULT)
@pytest.mark.parametrize("surface", SURFACES)
async def test_callers_get_a_plain_reason(tmp_path: Path, surface: str) -> None:
    async with client_of(flow_in(tmp_path), data=tmp_path / "data") as client:
        for how, reason in REASONS.items():
            shown = await SURFACES[surface](client, how)
            assert reason in shown
            assert [internal for internal in INTERNAL if internal in shown] == []


@pytest.mark.fault(FAULT)
@pytest.mark.parametrize(
    ("how", "internal"),
    [
        ("model", "http://127.0.0.1:9/v1"),
        ("file", "/srv/internal/cities.csv"),
        ("database", "internal_table"),
        ("author", "(work.py, line 9)"),
    ],
)
async def test_the_log_and_the_trace_have_everything(
    tmp_path: Path, how: str, internal: str, caplog: pytest.LogCaptureFixture
) -> None:
    tracing, exporter = recording()
    with caplog.at_level("INFO"):
        async with client_of(flow_in(tmp_path), tracing=tracing) as client:
            await client.post("/", json={"question": how})
    assert internal in caplog.text
    failed = [span.status.description or "" for span in exporter.get_finished_spans() if span.name in ("work", "reply")]
    assert internal in failed[-1]
    assert internal in (exporter.get_finished_spans()[-1].status.description or "")  # the run's


async def test_callers_get_everything_with_full_detail(tmp_path: Path) -> None:
    async with client_of(flow_in(tmp_path), error_detail="full") as client:
        for how, internal in {"model": "http://127.0.0.1:9/v1", "author": "(work.py, line 9)", "file": "/srv/"}.items():
            assert internal in (await client.post("/", json={"question": how})).text
            assert (internal in (await SURFACES["score"](client, how))) == (how != "author")  # as promptflow has it
