"""OpenAI's Responses: their events, how they are stored, and how one continues another, also on another instance."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from flowpod.background.queue import RunQueue
from flowpod.storage.sessions.service import HistoryService
from tests.support.background import PATIENCE_S, write_sleepy_flow
from tests.support.chat_flow import write_full_chat_flow
from tests.support.flows import SESSION, client_of, post, write_chat_flow
from tests.support.model_server import Call, ModelServer

PATH = "/v1/responses"
PICTURE = "data:image/png;base64,iVBORw0KGgo="
UNKNOWN = f"resp_{'0' * 32}"
Pair = tuple[httpx.AsyncClient, httpx.AsyncClient]


@asynccontextmanager
async def instances(folder: Path, server: ModelServer, history_url: str, model: str = "echo") -> AsyncIterator[Pair]:
    flow = write_chat_flow(folder / "flow", server.url, model)
    async with client_of(flow, database=history_url) as one, client_of(flow, database=history_url) as two:
        yield one, two


async def create(client: httpx.AsyncClient, text: Any, **more: Any) -> dict[str, Any]:
    response = await client.post(PATH, json={"model": "any", "input": text, **more})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def show(client: httpx.AsyncClient, response_id: str) -> dict[str, Any]:
    response = await client.get(f"{PATH}/{response_id}")
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def wait_for(client: httpx.AsyncClient, response_id: str, *statuses: str) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE_S):
        while (found := await show(client, response_id))["status"] not in statuses:
            await asyncio.sleep(0.05)
    return found


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """Return a stream's events; checks that both type fields agree and that the numbers are consecutive."""
    found = []
    for part in response.text.split("\n\n")[:-1]:
        name, data = [line for line in part.splitlines() if not line.startswith(":")]
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    numbers = [event["sequence_number"] for event in found]
    assert numbers == list(range(numbers[0], numbers[0] + len(found)))
    return found


def text_of(response: dict[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"])


def call_of(server: ModelServer, question: str) -> Call:
    return next(call for call in reversed(server.calls) if call.question == question)


def sent_history(server: ModelServer, question: str) -> list[str]:
    """Return the texts that the model got between the system message and a question."""
    return [str(message["content"]) for message in call_of(server, question).body["messages"][1:-1]]


TEXT_EVENTS = [
    "response.created",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.delta",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]


@pytest.mark.parametrize("store", [True, False])
async def test_a_stream_has_all_events_in_order(tmp_path: Path, chat_flow: Path, store: bool) -> None:
    async with client_of(chat_flow, data=tmp_path / "data") as client:
        body = {"model": "any", "input": "hi", "stream": True, "store": store, "metadata": {"a": "b"}}
        response = await client.post(PATH, json=body)
        got = events(response)
        shown = await client.get(f"{PATH}/{got[0]['response']['id']}")
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert [event["type"] for event in got] == TEXT_EVENTS
    assert "".join(event.get("delta", "") for event in got) == got[7]["text"] == "You said: hi"
    assert {event["item_id"] for event in got if "item_id" in event} == {got[2]["item"]["id"]}
    assert (got[0]["response"]["status"], got[2]["item"]["status"], got[2]["item"]["content"]) == (
        "in_progress",
        "in_progress",
        [],
    )
    last = got[-1]["response"]
    assert (last["status"], last["store"], last["metadata"]) == ("completed", store, {"a": "b"})
    assert last["output"] == [got[-2]["item"]]
    assert last["output"][0]["content"] == [
        {"type": "output_text", "text": "You said: hi", "annotations": [], "logprobs": []}
    ]
    assert last["usage"]["total_tokens"] == 18
    assert shown.status_code == (200 if store else 404)
    assert not store or shown.json() == last


async def test_a_json_answer_equals_the_streamed_response(tmp_path: Path, chat_flow: Path) -> None:
    async with client_of(chat_flow, data=tmp_path / "data") as client:
        whole = await create(client, "hi")
        response = await client.post(PATH, json={"model": "any", "input": "hi", "stream": True})
        assert await show(client, whole["id"]) == whole
    streamed = events(response)[-1]["response"]

    def without_ids(response: dict[str, Any]) -> str:
        return json.dumps(response | {"created_at": 0}).replace(response["id"].removeprefix("resp_"), "ID")

    assert without_ids(whole) == without_ids(streamed)


async def test_reasoning_is_a_separate_item(tmp_path: Path, model_server: ModelServer) -> None:
    flow = write_chat_flow(tmp_path / "flow", model_server.url, "reasoning")
    async with client_of(flow, data=tmp_path / "data") as client:
        response = await client.post(PATH, json={"model": "any", "input": "hi", "stream": True})
        whole = await create(client, "hi")
    got = events(response)
    assert [event["type"].removeprefix("response.") for event in got[2:10]] == [
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
        "output_item.added",
    ]
    for answer in (got[-1]["response"], whole):
        thought, message = answer["output"]
        assert thought["summary"] == [{"type": "summary_text", "text": "let me think"}]
        assert (thought["type"], thought["status"], message["content"][0]["text"]) == (
            "reasoning",
            "completed",
            "forty-two",
        )


@pytest.mark.parametrize("store", [True, False])
async def test_a_failed_run_is_a_failed_response(tmp_path: Path, model_server: ModelServer, store: bool) -> None:
    flow = write_chat_flow(tmp_path / "flow", model_server.url, "break-off")
    async with client_of(flow, data=tmp_path / "data") as client:
        body = {"model": "any", "input": "hi", "store": store}
        got = events(await client.post(PATH, json=body | {"stream": True}))
    flow = write_chat_flow(tmp_path / "failing", model_server.url, "fail:500")
    whole = await post(flow, PATH, body, data=tmp_path / "data")
    assert [event["type"] for event in got[-4:]] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.failed",
    ]
    last = got[-1]["response"]
    assert (last["status"], last["output"][0]["status"]) == ("failed", "incomplete")
    assert "broke off" in last["error"]["message"]
    assert (whole.status_code, whole.json()["error"].keys()) == (424, {"message", "type", "param", "code"})


async def test_a_truncated_answer_is_incomplete(tmp_path: Path, model_server: ModelServer) -> None:
    flow = write_chat_flow(tmp_path / "flow", model_server.url, "length")
    got = events(await post(flow, PATH, {"model": "any", "input": "hi", "stream": True}, data=tmp_path / "data"))
    last = got[-1]["response"]
    assert got[-1]["type"] == "response.incomplete"
    assert (last["status"], last["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert text_of(last) == "cut off"


async def test_a_continuation_stays_in_its_session(tmp_path: Path, model_server: ModelServer, history_url: str) -> None:
    async with instances(tmp_path, model_server, history_url) as (one, two):
        names = [f"{n} {tmp_path.name}" for n in "abc"]
        previous, sessions = None, set()
        for name, client in zip(names, (one, two, one), strict=True):
            response = await client.post(
                PATH,
                json={"model": "any", "input": name, "previous_response_id": previous, "instructions": f"I {name}"},
            )
            previous = response.json()["id"]
            sessions.add(response.headers["chat-session-id"])
        assert len(sessions) == 1
        turns = (await two.get(f"/chat/sessions/{sessions.pop()}/turns")).json()["data"]
    assert [turn["inputs"]["question"] for turn in turns] == names
    expected = [text for name in names[:2] for text in (name, f"You said: {name}")]
    assert sent_history(model_server, names[2]) == expected
    assert call_of(model_server, names[2]).body["messages"][0]["content"] == f"Be brief. I {names[2]}"


async def test_continuing_an_older_response_branches(
    tmp_path: Path, model_server: ModelServer, history_url: str
) -> None:
    async with instances(tmp_path, model_server, history_url) as (one, two):
        a, b, c, d, e = [f"{n} {tmp_path.name}" for n in "abcde"]
        first = await create(one, a)
        second = await create(one, b, previous_response_id=first["id"])
        await create(one, c, previous_response_id=second["id"])
        branch = await create(two, d, previous_response_id=first["id"])
        await create(two, e, previous_response_id=branch["id"])
        sessions = (await two.get("/chat/sessions")).json()["data"]
        turns = [
            [turn["inputs"]["question"] for turn in answer.json()["data"]]
            for answer in [await two.get(f"/chat/sessions/{one['session_id']}/turns") for one in sessions]
        ]
    assert sorted(turns) == [[a, b, c], [a, d, e]]
    assert sent_history(model_server, e) == [a, f"You said: {a}", d, f"You said: {d}"]
    assert [session["last_turn"] for session in sessions] == [3, 3]


async def test_concurrent_continuations_do_not_mix(tmp_path: Path, model_server: ModelServer, history_url: str) -> None:
    async with instances(tmp_path, model_server, history_url) as pair:
        first = await create(pair[0], "first")
        names = [f"{n} {uuid.uuid4()}" for n in range(6)]
        replies = await asyncio.gather(
            *(create(pair[n % 2], name, previous_response_id=first["id"]) for n, name in enumerate(names))
        )
        after = [f"after {name}" for name in names]
        await asyncio.gather(
            *(create(pair[n % 2], after[n], previous_response_id=reply["id"]) for n, reply in enumerate(replies))
        )
    for name, question in zip(names, after, strict=True):
        assert sent_history(model_server, name) == ["first", "You said: first"]
        assert sent_history(model_server, question) == ["first", "You said: first", name, f"You said: {name}"]


async def test_turns_that_a_client_sends_are_stored(tmp_path: Path, chat_flow: Path, model_server: ModelServer) -> None:
    a, b, c = [f"{n} {tmp_path.name}" for n in "abc"]
    async with client_of(chat_flow, data=tmp_path / "data") as client:
        brought = [
            {"role": "developer", "content": "be kind"},
            {"role": "user", "content": [{"type": "input_text", "text": a}]},
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "fine"}]},
            {"role": "user", "content": b},
        ]
        first = await create(client, brought)
        await create(client, c, previous_response_id=first["id"])
        unstored = await create(client, f"u {c}", previous_response_id=first["id"], store=False)
        assert (await client.get(f"{PATH}/{unstored['id']}")).status_code == 404
    assert sent_history(model_server, b) == [a, "fine"]
    assert call_of(model_server, b).body["messages"][0]["content"] == "Be brief. be kind"
    for question in (c, f"u {c}"):
        assert sent_history(model_server, question) == [a, "fine", b, f"You said: {b}"]


async def test_an_unstored_continuation_keeps_to_the_history_limits(tmp_path: Path, model_server: ModelServer) -> None:
    flow = write_chat_flow(tmp_path / "flow", model_server.url, more="history: {rounds: 10, tokens: 30}")
    names = [f"{n} {tmp_path.name[-20:]}" for n in "abcde"]
    async with client_of(flow, data=tmp_path / "data") as client:
        previous = None
        for name in names[:3]:
            previous = (await create(client, name, previous_response_id=previous))["id"]
        body = {"input": names[3], "previous_response_id": previous, "store": False}
        assert (await client.post(PATH, json=body)).status_code == 200
        none = {"Chat-History-Rounds": "0"}
        assert (await client.post(PATH, json=body | {"input": names[4]}, headers=none)).status_code == 200
    assert sent_history(model_server, names[3]) == [names[2], f"You said: {names[2]}"]
    assert sent_history(model_server, names[4]) == []


async def test_sessions_that_no_client_named_expire_with_their_responses(tmp_path: Path, chat_flow: Path) -> None:
    async with client_of(chat_flow, data=tmp_path / "data", single_turn_days=1e-9, run_days=1e-9) as client:
        for headers in ({}, {"Chat-Session-Id": SESSION}):
            first = (await client.post(PATH, json={"input": "a"}, headers=headers)).json()
            await create(client, "b", previous_response_id=first["id"])
        history, queue = service_behind(client)
        await queue.reader.delete_expired()
        await history._retention.delete_expired()
        listed = (await client.get("/chat/sessions")).json()["data"]
    assert [(session["session_id"], session["last_turn"]) for session in listed] == [(SESSION, 2)]


def service_behind(client: httpx.AsyncClient) -> tuple[HistoryService, RunQueue]:
    service = client._transport.app._service  # type: ignore[attr-defined]
    return service.history, service.run_queue


async def test_input_items_may_be_references(tmp_path: Path, chat_flow: Path, model_server: ModelServer) -> None:
    a, b = [f"{n} {tmp_path.name}" for n in "ab"]
    async with client_of(chat_flow, data=tmp_path / "data") as client:
        item = (await create(client, a))["output"][0]["id"]
        await create(
            client,
            [{"role": "user", "content": a}, {"type": "item_reference", "id": item}, {"role": "user", "content": b}],
        )
    assert sent_history(model_server, b) == [a, f"You said: {a}"]


async def test_referenced_reasoning_items_are_left_out(tmp_path: Path, model_server: ModelServer) -> None:
    flow, question = write_chat_flow(tmp_path / "flow", model_server.url, "reasoning"), f"q {tmp_path.name}"
    async with client_of(flow, data=tmp_path / "data") as client:
        thoughts, message = (await create(client, "hi"))["output"]
        references = [{"type": "item_reference", "id": item["id"]} for item in (thoughts, message)]
        await create(client, [{"role": "user", "content": "hi"}, *references, {"role": "user", "content": question}])
    assert sent_history(model_server, question) == ["hi", message["content"][0]["text"]]


async def test_invalid_references_and_too_much_text_are_refused(tmp_path: Path, chat_flow: Path) -> None:
    async with client_of(chat_flow, data=tmp_path / "data", max_body_bytes=5000) as client:
        run = (await client.post("/run", json={"inputs": {"question": "x"}, "background": True})).json()["run_id"]
        response = await create(client, "x" * 3000)
        item = response["output"][0]["id"]
        invented = [response["id"], f"msg_{response['id'].removeprefix('resp_')}_7", f"msg_{run.replace('-', '')}_0"]
        answers = [
            await client.post(
                PATH,
                json={
                    "input": [*({"type": "item_reference", "id": one} for one in ids), {"content": "x", "role": "user"}]
                },
            )
            for ids in ([invented[0]], [item, invented[1]], [invented[2]], [item, item])
        ]
    assert [(answer.status_code, answer.json()["error"]["param"]) for answer in answers] == [
        (404, "input.0.id"),
        (404, "input.1.id"),
        (404, "input.0.id"),
        (413, None),
    ]


async def test_images_and_more_inputs_reach_the_flow(tmp_path: Path, model_server: ModelServer) -> None:
    flow = write_full_chat_flow(tmp_path / "flow", model_server.url)
    question = f"echo {uuid.uuid4()}"
    content = [{"type": "input_text", "text": question}, {"type": "input_image", "image_url": PICTURE, "detail": "low"}]
    async with client_of(flow, data=tmp_path / "data") as client:
        await create(client, [{"role": "user", "content": content}], inputs={"city": "Rome"}, max_output_tokens=7)
    call = call_of(model_server, question)
    assert call.body["messages"][0]["content"] == "They live in Rome."
    assert call.body["messages"][-1]["content"][1]["image_url"]["url"] == PICTURE
    assert call.body["max_tokens"] == 7


@pytest.mark.parametrize("model", ["echo", "reasoning"])
async def test_a_stream_is_the_same_when_read_again(tmp_path: Path, model_server: ModelServer, model: str) -> None:
    flow = write_chat_flow(tmp_path / "flow", model_server.url, model)
    async with client_of(flow, data=tmp_path / "data") as client:
        live = events(await client.post(PATH, json={"input": "hi", "stream": True}))
        path, stream = f"{PATH}/{live[0]['response']['id']}", {"stream": "true"}
        again = events(await client.get(path, params=stream))
        later = [events(await client.get(path, params=stream | {"starting_after": n})) for n in range(len(live) - 1)]
    assert again == live
    assert later == [live[n + 1 :] for n in range(len(live) - 1)]


@pytest.mark.parametrize("stream", [False, True])
async def test_in_the_background(tmp_path: Path, model_server: ModelServer, history_url: str, stream: bool) -> None:
    async with instances(tmp_path, model_server, history_url) as (one, two):
        body = {"model": "any", "input": "hi", "background": True, "stream": stream}
        response = await one.post(PATH, json=body, headers={"Idempotency-Key": "k"})
        begun = events(response)[0]["response"] if stream else response.json()
        assert (begun["status"], begun["background"]) == ("in_progress" if stream else "queued", True)
        ended = await wait_for(two, begun["id"], "completed")
        assert text_of(ended) == "You said: hi"
        again = await two.post(PATH, json=body, headers={"Idempotency-Key": "k"})
        replays = [
            await two.get(f"{PATH}/{begun['id']}", params={"stream": "true", "starting_after": n}) for n in (0, 4)
        ]
    assert begun["id"] in again.text
    first, later = [events(replay) for replay in replays]
    assert (first[0]["sequence_number"], later[0]["sequence_number"]) == (1, 5)
    assert first[-1] == later[-1]
    assert first[-1]["response"] == ended
    if stream:
        assert events(response)[1:] == first


@pytest.mark.parametrize(
    ("path", "asked"), [("/run", {"inputs": {"question": "hi"}}), (PATH, {"input": "hi"})], ids=["run", "response"]
)
async def test_a_reused_key_is_refused(tmp_path: Path, chat_flow: Path, path: str, asked: dict[str, Any]) -> None:
    body = asked | {"background": True}
    headers = {"Idempotency-Key": "k", "Chat-Session-Id": SESSION}
    async with client_of(chat_flow, data=tmp_path / "data") as client:
        first = await client.post(path, json=body, headers=headers)
        reused = [
            await client.post(path, json=body, headers=headers | {"Chat-Session-Id": "t" * 32}),
            await client.post(path, json=body, headers=headers | {"Chat-History-Rounds": "1"}),
            await client.post(path, json=body | {"more": 1}, headers=headers),
        ]
        other_user = await client.post(path, json=body, headers=headers | {"Chat-User-Id": "ann"})
        again = await client.post(path, json=body, headers=headers)
    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in reused] == [
        (400, "idempotency_key_reused")
    ] * 3
    name = "run_id" if path == "/run" else "id"
    assert first.json()[name] == again.json()[name] != other_user.json()[name]


async def test_a_background_response_is_cancelled(tmp_path: Path, model_server: ModelServer, history_url: str) -> None:
    key = f"{tmp_path.name}{len(history_url)}"
    async with instances(tmp_path, model_server, history_url, f"steps:9:{key}") as (one, two):
        begun = await create(one, "hi", background=True)
        await wait_for(two, begun["id"], "in_progress")
        deleted = await two.delete(f"{PATH}/{begun['id']}")
        reply = await two.post(PATH, json={"input": "more", "previous_response_id": begun["id"]})
        cancelled = await two.post(f"{PATH}/{begun['id']}/cancel")
        late = await two.post(PATH, json={"input": "more", "previous_response_id": begun["id"]})
        again = await one.post(f"{PATH}/{begun['id']}/cancel")
        replay = events(await one.get(f"{PATH}/{begun['id']}", params={"stream": "true"}))
    assert (cancelled.json()["status"], cancelled.json()["error"]["code"]) == ("cancelled", "canceled")
    assert again.json() == cancelled.json() == replay[-1]["response"]
    assert replay[-1]["type"] == "response.failed"
    assert [answer.status_code for answer in (deleted, reply, late)] == [400, 400, 400]
    assert "has not ended" in reply.json()["error"]["message"]
    assert "ended as Canceled" in late.json()["error"]["message"]


async def test_a_deleted_response_is_gone_with_its_turn(tmp_path: Path, chat_flow: Path) -> None:
    async with client_of(chat_flow, data=tmp_path / "data") as client:
        first = await create(client, "hi")
        deleted = await client.delete(f"{PATH}/{first['id']}")
        answers = [
            await client.get(f"{PATH}/{first['id']}"),
            await client.delete(f"{PATH}/{first['id']}"),
            await client.post(PATH, json={"input": "x", "previous_response_id": first["id"]}),
        ]
        stats = (await client.get("/chat/stats")).json()
    assert deleted.json() == {"id": first["id"], "object": "response", "deleted": True}
    assert [answer.status_code for answer in answers] == [404, 404, 404]
    assert stats["turns"] == 0


async def test_users_see_their_own(tmp_path: Path, chat_flow: Path) -> None:
    async with client_of(chat_flow, data=tmp_path / "data") as client:
        first = await create(client, "hi", user="ann")
        path, bob = f"{PATH}/{first['id']}", {"Chat-User-Id": "bob"}
        answers = [
            await client.get(path, headers=bob),
            await client.delete(path, headers=bob),
            await client.post(f"{path}/cancel", headers=bob),
            await client.post(PATH, json={"input": "x", "previous_response_id": first["id"]}, headers=bob),
            await client.post(
                PATH, json={"input": "x", "previous_response_id": first["id"], "store": False}, headers=bob
            ),
        ]
        assert (await client.get(path, headers={"Chat-User-Id": "ann"})).status_code == 200
    assert [answer.status_code for answer in answers] == [404] * 5


async def test_a_session_may_be_named(tmp_path: Path, chat_flow: Path, model_server: ModelServer) -> None:
    a, b = [f"{n} {tmp_path.name}" for n in "ab"]
    async with client_of(chat_flow, data=tmp_path / "data") as client:
        for question in (a, b):
            response = await client.post(PATH, json={"input": question}, headers={"Chat-Session-Id": SESSION})
            assert response.headers["chat-session-id"] == SESSION
    assert sent_history(model_server, b) == [a, f"You said: {a}"]


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, "input"),
        ({"input": []}, 400, "input"),
        ({"input": 5}, 400, "input"),
        ({"input": [5]}, 400, "input"),
        ({"input": [{"role": "alien", "content": "x"}]}, 400, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}, 400, "input"),
        ({"input": [{"role": "assistant", "content": "x"}]}, 400, "input.0.role"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, 400, "input"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, 404, "input.0.id"),
        ({"input": "x", "previous_response_id": "resp_1"}, 404, "previous_response_id"),
        ({"input": "x", "previous_response_id": UNKNOWN}, 404, "previous_response_id"),
        ({"input": "x", "previous_response_id": UNKNOWN, "store": False}, 404, "previous_response_id"),
        ({"input": "x", "conversation": "conv_1"}, 400, "conversation"),
        ({"input": "x", "background": True, "store": False}, 400, "store"),
        ({"input": "x", "inputs": {"question": "y"}}, 400, "inputs.question"),
        ({"input": "x", "inputs": {"nome": "y"}}, 400, "nome"),
    ],
)
async def test_a_wrong_request(tmp_path: Path, chat_flow: Path, body: dict[str, Any], status: int, param: str) -> None:
    response = await post(chat_flow, PATH, body, data=tmp_path / "data")
    assert (response.status_code, response.json()["error"]["param"]) == (status, param), response.text


async def test_what_is_not_a_response_is_not_found(tmp_path: Path, chat_flow: Path) -> None:
    async with client_of(chat_flow, data=tmp_path / "data") as client:
        run = (await client.post("/run", json={"inputs": {"question": "x"}, "background": True})).json()["run_id"]
        ids = ["x", UNKNOWN, f"resp_{run.replace('-', '')}"]
        answers = [await client.get(f"{PATH}/{name}") for name in ids]
        after = await client.get(f"{PATH}/{UNKNOWN}", params={"starting_after": "x"})
    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in answers] == [
        (404, "response_not_found")
    ] * 3
    assert after.status_code == 400


async def test_without_a_database_responses_are_not_stored(chat_flow: Path) -> None:
    async with client_of(chat_flow) as client:
        answer = await create(client, "hi")
        refused = [
            await client.post(PATH, json={"input": "x", "background": True}),
            await client.post(PATH, json={"input": "x", "previous_response_id": answer["id"]}),
            await client.get(f"{PATH}/{answer['id']}"),
        ]
    assert (text_of(answer), answer["store"]) == ("You said: hi", False)
    assert [response.status_code for response in refused] == [400, 404, 404]


async def test_a_flow_without_chat_has_no_responses(tmp_path: Path) -> None:
    response = await post(write_sleepy_flow(tmp_path / "flow"), PATH, {"input": "x"}, data=tmp_path / "data")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_a_chat_flow")
