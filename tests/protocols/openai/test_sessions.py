"""Sessions and users of OpenAI's API, named by Flowpod's headers or by those of chat clients."""

import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from flowpod.telemetry.span_provider import SpanProvider
from flowpod.telemetry.tracing import Tracing
from tests.support.flows import SESSION, client_of, write_flow
from tests.support.model_server import ModelServer
from tests.support.serving import turns

PATH = "/v1/chat/completions"
CHAT = "0f8fad5b-d9cb-469f-a165-70867728950e"


async def ask(client: httpx.AsyncClient, text: str, headers: dict[str, str], **more: Any) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": text}], **more}
    response = await client.post(PATH, json=body, headers=headers)
    response.raise_for_status()
    return response


def sent(server: ModelServer, question: str) -> list[str]:
    """Return the texts that the model was sent with `question` as the last."""
    messages = next(call.body["messages"] for call in server.calls if call.question == question)
    return [message["content"] for message in messages[1:]]


@pytest.mark.parametrize(
    ("headers", "settings", "session", "stored"),
    [
        ({}, {}, None, 0),
        ({"Chat-Session-Id": SESSION}, {}, SESSION, 2),
        ({"X-OpenWebUI-Chat-Id": CHAT}, {}, CHAT, 0),
        ({"X-OpenWebUI-Chat-Id": CHAT}, {"openwebui_sessions": "on"}, CHAT, 2),
        ({"X-OpenWebUI-Chat-Id": CHAT, "Chat-Session-Id": SESSION}, {}, SESSION, 2),
        ({"X-OpenWebUI-Chat-Id": "local"}, {"openwebui_sessions": "on"}, None, 0),
        ({"X-OpenWebUI-Chat-Id": "a b " * 10 + "c"}, {"openwebui_sessions": "on"}, None, 0),
    ],
)
async def test_session_headers_decide_what_is_stored(
    tmp_path: Path,
    chat_flow: Path,
    model_server: ModelServer,
    headers: dict[str, str],
    settings: dict[str, Any],
    session: str | None,
    stored: int,
) -> None:
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    async with client_of(chat_flow, data=tmp_path / "data", **settings) as client:
        answers = [await ask(client, text, headers) for text in (first, second)]
    ids = {answer.headers["chat-session-id"] for answer in answers}
    assert ids == {session} if session else len(ids) == 2
    assert len(turns(tmp_path, "test")) == stored
    assert sent(model_server, second) == ([first, f"You said: {first}", second] if stored else [second])


@pytest.mark.parametrize(
    "text",
    [
        "### Task:\nGive a title.\n<chat_history>\nUSER: hi\n</chat_history>",
        "Based on the chat history, give this conversation a name.",
    ],
)
@pytest.mark.parametrize("name", ["Chat-Session-Id", "X-OpenWebUI-Chat-Id"])
async def test_a_side_request_is_not_part_of_the_history(
    tmp_path: Path, chat_flow: Path, model_server: ModelServer, text: str, name: str
) -> None:
    headers = {name: CHAT}
    text = f"{text} {uuid.uuid4()}"
    async with client_of(chat_flow, data=tmp_path / "data", openwebui_sessions="on") as client:
        await ask(client, "hi", headers)
        assert (await ask(client, text, headers)).headers["chat-session-id"] == CHAT
        assert sent(model_server, text) == [text]
        await ask(client, last := str(uuid.uuid4()), headers)
    assert turns(tmp_path, "test") == ["Completed", "Completed"]
    assert sent(model_server, last) == ["hi", "You said: hi", last]


@pytest.mark.parametrize(
    ("headers", "body", "user"),
    [
        ({}, {}, ""),
        ({}, {"user": "ann"}, "ann"),
        ({}, {"user": 5}, ""),
        ({}, {"user": "a" * 256}, ""),
        ({"X-OpenWebUI-User-Id": "bob"}, {"user": "ann"}, "bob"),
        ({"X-OpenWebUI-User-Id": "b" * 256}, {"user": "ann"}, "ann"),
        ({"Chat-User-Id": "cid", "X-OpenWebUI-User-Id": "bob"}, {"user": "ann"}, "cid"),
    ],
)
async def test_a_client_sets_its_user(tmp_path: Path, headers: dict[str, str], body: dict[str, Any], user: str) -> None:
    dag = """
    inputs: {q: {type: string, is_chat_input: true}}
    outputs: {a: {type: string, reference: "${n.output}", is_chat_output: true}}
    nodes:
    - name: n
      type: template
      inputs: {user: "${sys.user_id}", session: "${sys.session_id}"}
      template: "{{ user }} {{ session }}"
    """
    async with client_of(write_flow(tmp_path, dag)) as client:
        response = await ask(client, "hi", {**headers, "X-OpenWebUI-Chat-Id": CHAT}, **body)
    assert response.json()["choices"][0]["message"]["content"] == f"{user} {CHAT}"


async def test_the_chat_id_is_on_the_traces(chat_flow: Path) -> None:
    exporter, provider = InMemorySpanExporter(), SpanProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    async with client_of(chat_flow, tracing=Tracing(provider)) as client:
        await ask(client, "hi", {"X-OpenWebUI-Chat-Id": CHAT})
    named = [
        span.attributes["session.id"]
        for span in exporter.get_finished_spans()
        if span.attributes and "session.id" in span.attributes
    ]
    assert set(named) == {CHAT}


async def test_a_session_of_another_user_is_not_found(tmp_path: Path, chat_flow: Path) -> None:
    async with client_of(chat_flow, data=tmp_path / "data", openwebui_sessions="on") as client:
        headers = {"X-OpenWebUI-Chat-Id": CHAT}
        await ask(client, "hi", {**headers, "X-OpenWebUI-User-Id": "ann"})
        body = {"messages": [{"role": "user", "content": "hi"}]}
        response = await client.post(PATH, json=body, headers={**headers, "X-OpenWebUI-User-Id": "bob"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "session_not_found")
