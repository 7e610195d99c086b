"""The endpoints of stored sessions under `/chat`."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.flows import client_of, write_flow

DAG = """
inputs:
  question: {type: string, is_chat_input: true}
  chat_history: {type: list, is_chat_history: true}
outputs:
  answer: {type: string, reference: "${reply.output}", is_chat_output: true}
variables:
  count: {type: int, default: 0}
  name: {type: string}
nodes:
- name: reply
  type: template
  inputs: {question: "${inputs.question}"}
  template: "re: {{ question }}"
- name: count
  type: assign
  inputs: {one: 1}
  assignments: [{variable: session.count, operation: increase, input: one}]
"""


def session_id(name: str) -> str:
    return name.ljust(32, "-")


def as_user(name: str) -> dict[str, str]:
    return {"Chat-User-Id": name}


@asynccontextmanager
async def chatting(folder: Path, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(write_flow(folder / "flow", DAG), data=folder, **settings) as client:
        yield client


async def ask(client: httpx.AsyncClient, session: str, question: str, user: str | None = None) -> None:
    headers = {"Chat-Session-Id": session_id(session)} | (as_user(user) if user else {})
    response = await client.post("/", json={"question": question}, headers=headers)
    assert response.status_code == 200, response.text


async def ids(client: httpx.AsyncClient, query: str = "", headers: dict[str, str] | None = None) -> list[str]:
    response = await client.get(f"/chat/sessions{query}", headers=headers)
    return [item["session_id"].rstrip("-") for item in response.json()["data"]]


async def test_a_session_has_its_variables_and_turns(tmp_path: Path) -> None:
    async with chatting(tmp_path) as client:
        await ask(client, "a", "What is\n the time?", "ann")
        await ask(client, "a", "And now?")
        shown = (await client.get(f"/chat/sessions/{session_id('a')}")).json()
    turns = shown.pop("turns")
    created, updated = shown.pop("created_at"), shown.pop("updated_at")
    assert created.endswith("Z")
    assert created < updated
    assert shown == {
        "session_id": session_id("a"),
        "user_id": "ann",
        "title": "What is the time?",
        "last_turn": 2,
        "variables": {"count": 2, "name": None},
    }
    assert turns["next_cursor"] is None
    first, second = turns["data"]
    assert (first["turn"], first["status"], first["error"]) == (1, "Completed", None)
    assert first["inputs"] == {"question": "What is\n the time?"}
    assert second["outputs"] == {"answer": "re: And now?"}
    assert list(first) == [
        "turn",
        "run_id",
        "status",
        "inputs",
        "outputs",
        "error",
        "otel_trace_id",
        "started_at",
        "finished_at",
    ]


async def test_sessions_are_listed_in_pages(tmp_path: Path) -> None:
    async with chatting(tmp_path) as client:
        for number in range(5):
            await ask(client, f"s{number}", "hi", "ann" if number % 2 else None)
        pages, query = [], "?limit=2"
        while True:
            answer = (await client.get(f"/chat/sessions{query}")).json()
            pages.append([item["session_id"].rstrip("-") for item in answer["data"]])
            if answer["next_cursor"] is None:
                break
            query = f"?limit=2&cursor={answer['next_cursor']}"
        assert pages == [["s4", "s3"], ["s2", "s1"], ["s0"]]
        assert await ids(client, "?user=ann") == ["s3", "s1"]
        assert await ids(client, headers=as_user("ann")) == ["s3", "s1"]
        assert await ids(client, "?user=nobody") == []


async def test_turns_are_listed_in_pages(tmp_path: Path) -> None:
    async with chatting(tmp_path) as client:
        for number in range(5):
            await ask(client, "a", f"q{number}")
        path = f"/chat/sessions/{session_id('a')}"
        first = (await client.get(f"{path}?limit=2")).json()["turns"]
        second = (await client.get(f"{path}/turns?limit=2&cursor={first['next_cursor']}")).json()
        third = (await client.get(f"{path}/turns?limit=2&cursor={second['next_cursor']}")).json()
    numbers = [[turn["turn"] for turn in page["data"]] for page in (first, second, third)]
    assert numbers == [[1, 2], [3, 4], [5]]
    assert third["next_cursor"] is None


async def test_an_export_has_one_line_of_json_per_turn(tmp_path: Path) -> None:
    async with chatting(tmp_path) as client:
        for number in range(3):
            await ask(client, "a", f"q{number}")
        response = await client.get(f"/chat/sessions/{session_id('a')}/export")
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.headers["content-disposition"] == f'attachment; filename="{session_id("a")}.jsonl"'
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert [line["inputs"]["question"] for line in lines] == ["q0", "q1", "q2"]


async def test_variables_are_read_and_set(tmp_path: Path) -> None:
    path = f"/chat/sessions/{session_id('a')}/variables"
    async with chatting(tmp_path) as client:
        await ask(client, "a", "hi")
        assert (await client.get(path)).json() == {"count": 1, "name": None}
        assert (await client.patch(path, json={"count": "41", "name": "Ann"})).json() == {"count": 41, "name": "Ann"}
        await ask(client, "a", "hi")
        assert (await client.get(path)).json() == {"count": 42, "name": "Ann"}
        unknown = await client.patch(path, json={"x": 1})
        wrong = await client.patch(path, json={"count": "many"})
        large = await client.patch(path, content=b'{"count": 1e300}')
        nowhere = await client.patch(path.replace("a--", "b--"), json={"count": 1})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (400, "unknown_variable")
    assert unknown.json()["error"]["message"] == "the flow has no session variable 'x'; its variables: count, name"
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "count")
    assert (large.status_code, large.json()["error"]["param"]) == (400, "count")
    assert nowhere.status_code == 404


async def test_a_deletion_returns_what_was_deleted(tmp_path: Path) -> None:
    def deleted(sessions: int, turns: int) -> dict[str, Any]:
        return {"deleted": {"sessions": sessions, "turns": turns}}

    async with chatting(tmp_path) as client:
        for session, user in (("a", "ann"), ("a", "ann"), ("b", "ann"), ("c", "bob"), ("d", None)):
            await ask(client, session, "hi", user)
        assert (await client.delete(f"/chat/sessions/{session_id('a')}")).json() == deleted(1, 2)
        assert (await client.delete(f"/chat/sessions/{session_id('a')}")).status_code == 404
        assert (await client.delete("/chat/sessions?user=ann")).json() == deleted(1, 1)
        assert (await client.delete("/chat/sessions")).status_code == 400
        assert (await client.delete("/chat/turns?before=2020-01-01")).json() == deleted(0, 0)
        assert (await client.delete("/chat/turns?before=2100-01-01", headers=as_user("bob"))).json() == deleted(1, 1)
        assert await ids(client) == ["d"]
        assert (await client.delete("/chat/turns?before=2100-01-01T00:00:00%2B02:00")).json() == deleted(1, 1)
        stats = (await client.get("/chat/stats")).json()
    assert (stats["sessions"], stats["turns"]) == (0, 0)
    assert stats["bytes"] > 0


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("session", ["a", "other", "x y/%00"])
async def test_an_unknown_session_or_another_users_is_not_found(tmp_path: Path, method: str, session: str) -> None:
    async with chatting(tmp_path) as client:
        await ask(client, "a", "hi", "ann")
        response = await client.request(method, f"/chat/sessions/{session_id(session)}", headers=as_user("bob"))
        assert await ids(client) == ["a"]
    assert response.status_code == 404
    assert "ann" not in response.text


@pytest.mark.parametrize(
    ("request_line", "param"),
    [
        ("GET /chat/sessions?limit=0", "limit"),
        ("GET /chat/sessions?limit=101", "limit"),
        ("GET /chat/sessions?limit=x", "limit"),
        ("GET /chat/sessions?cursor=x", "cursor"),
        ("GET /chat/sessions?cursor=WyJ4IiwgInkiXQ", "cursor"),
        ("GET /chat/sessions?user=", "user"),
        ("GET /chat/sessions?sort=title", "sort"),
        ("GET /chat/stats?x=1", "x"),
        ("DELETE /chat/turns", "before"),
        ("DELETE /chat/turns?before=yesterday", "before"),
        ("DELETE /chat/turns?before=0001-01-01T00:00:00%2B14:00", "before"),
        ("DELETE /chat/sessions?user=bob", "user"),
    ],
)
async def test_an_invalid_query_parameter_is_named(tmp_path: Path, request_line: str, param: str) -> None:
    method, path = request_line.split(" ", 1)
    async with chatting(tmp_path) as client:
        response = await client.request(method, path, headers=as_user("ann"))
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_stored_sessions_need_the_token(tmp_path: Path) -> None:
    async with chatting(tmp_path, tokens=("t",)) as client:
        assert (await client.get("/chat/sessions")).status_code == 401


async def test_a_flow_without_a_history_gives_the_reason(tmp_path: Path) -> None:
    plain = "inputs: {x: {type: string}}\nnodes:\n- {name: n, type: template, template: hi}\noutputs: {o: {reference: '${n.output}'}}"
    async with client_of(write_flow(tmp_path / "plain", plain), data=tmp_path) as client:
        standard = await client.get("/chat/sessions")
    async with client_of(write_flow(tmp_path / "flow", DAG)) as client:
        off = await client.get("/chat/sessions")
    assert (standard.status_code, off.status_code) == (404, 404)
    assert "it has no chat input" in standard.text
    assert "FLOWPOD_HISTORY is off" in off.text
