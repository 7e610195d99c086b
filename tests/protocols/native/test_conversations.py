"""Sessions as clients see them: who gets which history, and what is stored."""

import asyncio
import sqlite3
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.flows import SESSION, client_of, post, write_chat_flow
from tests.support.mariadb import running_mariadb
from tests.support.model_server import ModelServer

CHAT = "/v1/chat/completions"


def sent_for(model_server: ModelServer, question: str) -> list[str]:
    """Return the contents of the messages that the model got with this question, less the system's."""
    call = next(c for c in model_server.calls if c.question == question)
    return [message["content"] for message in call.body["messages"][1:]]


def stored(folder: Path) -> list[tuple[Any, ...]]:
    with sqlite3.connect(folder / "chat_history.db") as database:
        rows = database.execute(
            "SELECT session_id, turn, status, inputs, outputs FROM langstudio_chat_history_test ORDER BY id"
        ).fetchall()
    database.close()
    return rows


def new(text: str) -> str:
    return f"{text}-{uuid.uuid4()}"


def session(name: str) -> dict[str, str]:
    return {"Chat-Session-Id": name}


async def test_one_session_id_makes_a_conversation(tmp_path: Path, chat_flow: Path, model_server: ModelServer) -> None:
    one, two, three = new("one"), new("two"), new("three")
    async with client_of(chat_flow, data=tmp_path) as client:
        first = await client.post("/", json={"question": one}, headers=session(SESSION))
        second = await client.post("/run", json={"inputs": {"question": two}}, headers=session(SESSION))
        await client.post(CHAT, json={"messages": [{"role": "user", "content": three}]}, headers=session(SESSION))
        other = new("other")
        await client.post("/", json={"question": other}, headers=session("t" * 32))
    assert first.headers["chat-session-id"] == second.headers["chat-session-id"] == SESSION
    assert sent_for(model_server, two) == [one, f"You said: {one}", two]
    assert sent_for(model_server, three) == [one, f"You said: {one}", two, f"You said: {two}", three]
    assert sent_for(model_server, other) == [other]
    assert [row[:3] for row in stored(tmp_path)] == [
        (SESSION, 1, "Completed"),
        (SESSION, 2, "Completed"),
        (SESSION, 3, "Completed"),
        ("t" * 32, 1, "Completed"),
    ]
    assert stored(tmp_path)[0][3:] == (f'{{"question":"{one}"}}', f'{{"answer":"You said: {one}"}}')


async def test_a_client_can_continue_its_assigned_session(
    tmp_path: Path, chat_flow: Path, model_server: ModelServer
) -> None:
    one, two = new("one"), new("two")
    async with client_of(chat_flow, data=tmp_path) as client:
        first = await client.post("/", json={"question": one})
        await client.post("/", json={"question": two}, headers=session(first.headers["chat-session-id"]))
    assert sent_for(model_server, two) == [one, f"You said: {one}", two]


async def test_an_openai_request_without_a_session_stores_nothing(tmp_path: Path, chat_flow: Path) -> None:
    response = await post(chat_flow, CHAT, {"messages": [{"role": "user", "content": "hi"}]}, data=tmp_path)
    assert response.headers["chat-session-id"]
    assert stored(tmp_path) == []


async def test_a_clients_own_history_takes_precedence(
    tmp_path: Path, chat_flow: Path, model_server: ModelServer
) -> None:
    one, two, three = new("one"), new("two"), new("three")
    messages = [
        {"role": "user", "content": "mine"},
        {"role": "assistant", "content": "yours"},
        {"role": "user", "content": two},
    ]
    history = [{"inputs": {"question": "given"}, "outputs": {"answer": "taken"}}]
    async with client_of(chat_flow, data=tmp_path) as client:
        await client.post("/", json={"question": one}, headers=session(SESSION))
        await client.post(CHAT, json={"messages": messages}, headers=session(SESSION))
        await client.post("/", json={"question": three, "chat_history": history}, headers=session(SESSION))
    assert sent_for(model_server, two) == ["mine", "yours", two]
    assert sent_for(model_server, three) == ["given", "taken", three]
    assert [row[:3] for row in stored(tmp_path)] == [(SESSION, turn, "Completed") for turn in (1, 2, 3)]


async def test_failed_turns_are_stored_but_not_prompted(
    tmp_path: Path, chat_flow: Path, model_server: ModelServer
) -> None:
    good, bad, last = new("good"), new("bad"), new("last")
    await post(chat_flow, "/", {"question": good}, headers=session(SESSION), data=tmp_path)
    async with client_of(write_chat_flow(tmp_path / "flow", model_server.url, "rubbish"), data=tmp_path) as client:
        await client.post("/", json={"question": bad}, headers={**session(SESSION), "Accept": "text/event-stream"})
    await post(chat_flow, "/", {"question": last}, headers=session(SESSION), data=tmp_path)
    assert sent_for(model_server, last) == [good, f"You said: {good}", last]
    assert [row[2] for row in stored(tmp_path)] == ["Completed", "Failed", "Completed"]


async def test_another_users_session_is_not_found(tmp_path: Path, chat_flow: Path) -> None:
    def headers(user: str) -> dict[str, str]:
        return {**session(SESSION), "Chat-User-Id": user}

    async with client_of(chat_flow, data=tmp_path) as client:
        await client.post("/", json={"question": "hi"}, headers=headers("ann"))
        bob = await client.post("/", json={"question": "hi"}, headers=headers("bob"))
        ann = await client.post("/", json={"question": "hi"}, headers=headers("ann"))
        nobody = await client.post("/", json={"question": "hi"}, headers=session(SESSION))
    assert (bob.status_code, ann.status_code, nobody.status_code) == (404, 200, 200)
    assert bob.json()["error"]["code"] == "session_not_found"
    assert "ann" not in bob.text


async def test_only_the_last_rounds_go_into_the_prompt(tmp_path: Path, model_server: ModelServer) -> None:
    questions = [new(str(number)) for number in range(4)]
    flow = write_chat_flow(tmp_path / "flow", model_server.url, more="history: {rounds: 2}")
    async with client_of(flow, data=tmp_path) as client:
        for question in questions:
            await client.post("/", json={"question": question}, headers=session(SESSION))
    _, one, two, last = questions
    assert sent_for(model_server, last) == [one, f"You said: {one}", two, f"You said: {two}", last]


async def test_a_request_says_how_many_rounds_it_wants(tmp_path: Path, model_server: ModelServer) -> None:
    questions = [new(str(number)) for number in range(3)]
    none, all_of_them = new("none"), new("all")
    flow = write_chat_flow(tmp_path / "flow", model_server.url, more="history: {rounds: 1}")
    async with client_of(flow, data=tmp_path) as client:
        for question in questions:
            await client.post("/", json={"question": question}, headers=session(SESSION))
        for question, rounds in ((none, "0"), (all_of_them, "1000")):
            headers = session(SESSION) | {"Chat-History-Rounds": rounds}
            await client.post(CHAT, json={"messages": [{"role": "user", "content": question}]}, headers=headers)
        wrong = [
            await client.post("/", json={"question": "x"}, headers={"Chat-History-Rounds": rounds})
            for rounds in ("-1", "1001", "many", "", "9" * 5000)
        ]
    assert sent_for(model_server, questions[2]) == [questions[1], f"You said: {questions[1]}", questions[2]]
    assert sent_for(model_server, none) == [none]
    assert len(sent_for(model_server, all_of_them)) == 9
    assert {(r.status_code, r.json()["error"]["param"]) for r in wrong} == {(400, "Chat-History-Rounds")}


async def test_the_newest_turns_that_fit_go_into_the_prompt(tmp_path: Path, model_server: ModelServer) -> None:
    one, two, three = (f"{name}-{uuid.uuid4()}" for name in ("one", "two", "three"))
    # A turn is {"question":"..."}{"answer":"You said: ..."}: 84 to 92 bytes and twice the name.
    flow = write_chat_flow(tmp_path / "flow", model_server.url, more="history: {tokens: 40}")
    async with client_of(flow, data=tmp_path) as client:
        for question in (one, two, three):
            await client.post("/", json={"question": question}, headers=session(SESSION))
    assert sent_for(model_server, three) == [two, f"You said: {two}", three]


async def test_without_a_history_nothing_is_kept(chat_flow: Path, model_server: ModelServer) -> None:
    one, two = new("one"), new("two")
    async with client_of(chat_flow) as client:
        await client.post("/", json={"question": one}, headers=session(SESSION))
        await client.post("/", json={"question": two}, headers=session(SESSION))
    assert sent_for(model_server, two) == [two]


@pytest.mark.needs("mariadbd")
async def test_a_database_that_goes_away_stops_stored_sessions_only(tmp_path: Path, chat_flow: Path) -> None:
    history = [{"inputs": {"question": "a"}, "outputs": {"answer": "b"}}]
    with running_mariadb(tmp_path) as server:
        url = server.new_database("d")
        async with client_of(chat_flow, database=url, history_write_timeout_s=0.1) as client:
            before = await client.post("/", json={"question": "hi"}, headers=session(SESSION))
            server.stop()
            named = await client.post("/", json={"question": "hi"}, headers=session(SESSION))
            own = await client.post("/", json={"question": "hi", "chat_history": history}, headers=session(SESSION))
            free = await client.post("/run", json={"inputs": {"question": "hi"}, "stream": False})
            ready = await client.get("/readyz")
            listed = await client.get("/chat/sessions")
            server.start()
            async with asyncio.timeout(20):
                while (await client.get("/readyz")).json() != {"status": "ready"}:
                    await asyncio.sleep(0.02)
            after = await client.post("/", json={"question": "hi"}, headers=session(SESSION))
    assert (before.status_code, after.status_code) == (200, 200)
    assert (named.status_code, named.json()["error"]["code"]) == (503, "history_unavailable")
    assert int(named.headers["retry-after"]) > 0
    assert (own.status_code, free.status_code, ready.status_code) == (200, 200, 200)
    assert ready.json() == {"status": "ready", "history": "out of reach"}
    assert (listed.status_code, listed.json()["error"]["code"]) == (503, "history_unavailable")
    assert own.json() == {"answer": "You said: hi"}
    assert free.json()["metadata"]["history"] == "deferred"


@pytest.mark.needs("mariadbd")
async def test_while_the_database_is_away_nobody_gets_into_anothers_session(tmp_path: Path, chat_flow: Path) -> None:
    mine, own = session(SESSION) | {"Chat-User-Id": "ann"}, {"question": "bob's", "chat_history": []}
    with running_mariadb(tmp_path) as server:
        async with client_of(chat_flow, database=server.new_database("d"), history_write_timeout_s=0.1) as client:
            await client.post("/", json={"question": "ann's"}, headers=mine)
            server.stop()
            bob = await client.post("/", json=own, headers=session(SESSION) | {"Chat-User-Id": "bob"})
            server.start()
            async with asyncio.timeout(30):
                while "history" in (await client.get("/readyz")).json():
                    await asyncio.sleep(0.02)
            await client.post("/", json={"question": "ann's second"}, headers=mine)
            async with asyncio.timeout(30):
                while len(turns := (await client.get(f"/chat/sessions/{SESSION}/turns")).json()["data"]) < 2:
                    await asyncio.sleep(0.05)
    assert bob.status_code == 200
    assert [turn["inputs"]["question"] for turn in turns] == ["ann's", "ann's second"]


async def test_spaces_at_the_end_make_no_other_user(tmp_path: Path, chat_flow: Path) -> None:
    async with client_of(chat_flow, data=tmp_path) as client:
        await client.post("/", json={"question": "hi"}, headers=session(SESSION) | {"Chat-User-Id": "ann"})
        body = {"messages": [{"role": "user", "content": "hi"}], "user": "ann "}
        ignored = await client.post(CHAT, json=body, headers=session("t" * 32))
        sessions = (await client.get("/chat/sessions?user=ann%20%20")).json()["data"]
    assert ignored.status_code == 200
    assert [(item["session_id"], item["user_id"]) for item in sessions] == [(SESSION, "ann")]


@pytest.mark.parametrize("path", ["/", "/run", CHAT])
async def test_the_turn_is_stored_before_the_end_is_told(tmp_path: Path, chat_flow: Path, path: str) -> None:
    def body(question: str) -> dict[str, Any]:
        bodies: dict[str, dict[str, Any]] = {
            "/": {"question": question},
            "/run": {"inputs": {"question": question}},
            CHAT: {"messages": [{"role": "user", "content": question}], "stream": True},
        }
        return bodies[path]

    async with client_of(chat_flow, data=tmp_path) as client:
        for turn in range(1, 6):
            headers = {**session(SESSION), "Accept": "text/event-stream"}
            response: httpx.Response = await client.post(path, json=body(f"q{turn}"), headers=headers)
            assert (response.status_code, len(stored(tmp_path))) == (200, turn)
