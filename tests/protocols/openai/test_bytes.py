"""The bytes of chat completions, checked for what breaks clients.

Each check names what goes wrong without it, measured with openai's clients, the AI SDK (Chatbox, Cherry Studio) and
LangChain.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.flows import client_of, post, write_chat_flow
from tests.support.model_server import ModelServer

PATH = "/v1/chat/completions"
FINE = ["echo", "words:0", "words:300", "reasoning", "length", "odd-but-fine", "no-finish", "two-answers"]
BROKEN = ["fail:500", "html", "break-off", "ends-early", "rubbish", "error-in-stream", "flat-error"]


async def stream_of(tmp_path: Path, server: ModelServer, model: str, **options: Any) -> bytes:
    body = {"model": "any", "messages": [{"role": "user", "content": "hi"}], "stream": True, **options}
    response = await post(write_chat_flow(tmp_path, server.url, model), PATH, body)
    # A JSON body as the answer to a stream request shows as an empty answer, without any error.
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    return response.content


def chunks_of(stream: bytes) -> list[dict[str, Any]]:
    """Return the chunks of a stream, whose frames are checked."""
    assert b"\r" not in stream
    # An event without its blank line is dropped without a word.
    *frames, done, rest = stream.decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    for frame in frames:
        # One line each; an empty one is a JSON error in every client.
        assert frame.startswith("data: {")
        assert "\n" not in frame
    return [json.loads(frame.removeprefix("data: ")) for frame in frames]


def check_chunks(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Check what every chunk with a choice has; return the choices."""
    constant = {(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks}
    assert len(constant) == 1
    assert all(chunk["object"] == "chat.completion.chunk" and chunk["usage"] is None for chunk in chunks)
    # The AI SDK fails on a chunk without choices, LangChain on null.
    assert all(len(chunk["choices"]) == 1 for chunk in chunks)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert all(choice["index"] == 0 for choice in choices)
    # Without a delta on the last chunk LangChain loses its finish_reason.
    assert all(isinstance(choice["delta"], dict) for choice in choices)
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    for choice in choices[1:]:
        assert choice["delta"]
        assert choice["delta"].keys() <= {"content", "reasoning_content"}
        assert all(isinstance(text, str) for text in choice["delta"].values())
    return choices


@pytest.mark.parametrize("model", FINE)
@pytest.mark.parametrize("include_usage", [True, False, None])
async def test_whole_stream(tmp_path: Path, model_server: ModelServer, model: str, include_usage: bool | None) -> None:
    options = {} if include_usage is None else {"stream_options": {"include_usage": include_usage}}
    chunks = chunks_of(await stream_of(tmp_path, model_server, model, **options))
    if include_usage:
        # Last, alone, and only when it is asked for: a chunk with no choices breaks some clients.
        usage = chunks.pop()
        assert usage["choices"] == []
        assert usage["usage"].keys() == {"prompt_tokens", "completion_tokens", "total_tokens"}
        assert {name: usage[name] for name in ("id", "created", "model", "object")} == {
            name: chunks[0][name] for name in ("id", "created", "model", "object")
        }
    choices = check_chunks(chunks)
    # Without a finish_reason the AI SDK reports an error.
    assert [choice["finish_reason"] for choice in choices[:-1]] == [None] * (len(choices) - 1)
    assert choices[-1]["finish_reason"] == ("length" if model == "length" else "stop")
    assert choices[-1]["delta"] == {"content": ""}


@pytest.mark.parametrize("model", BROKEN)
async def test_a_stream_that_fails(tmp_path: Path, model_server: ModelServer, model: str) -> None:
    *chunks, last = chunks_of(await stream_of(tmp_path, model_server, model, stream_options={"include_usage": True}))
    choices = check_chunks(chunks)
    assert all(choice["finish_reason"] is None for choice in choices)
    # A flat error is passed over in silence, one that is mere text has no message to show.
    assert last.keys() == {"error"}
    assert last["error"].keys() == {"message", "type", "param", "code"}
    assert last["error"]["message"].startswith("node 'reply': ")


@pytest.mark.parametrize("model", ["echo", "reasoning", "length"])
async def test_a_completion_has_a_role_and_text(tmp_path: Path, model_server: ModelServer, model: str) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}]}
    async with client_of(write_chat_flow(tmp_path, model_server.url, model)) as client:
        message = (await client.post(PATH, json=body)).json()["choices"][0]["message"]
    assert message["role"] == "assistant"
    assert isinstance(message["content"], str)


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Authorization": "Bearer wrong"}, {}, 401),
        ({"Authorization": "Bearer secret"}, {"messages": []}, 400),
        ({"Authorization": "Bearer secret", "Chat-Session-Id": "short"}, {}, 400),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_has_a_status_that_clients_do_not_retry_and_openais_shape(
    chat_flow: Path, headers: dict[str, str], body: dict[str, Any], status: int, stream: bool
) -> None:
    content = {"messages": [{"role": "user", "content": "hi"}], "stream": stream, **body}
    response = await post(chat_flow, PATH, content, headers=headers, tokens=("secret",))
    assert (response.status_code, response.headers["content-type"]) == (status, "application/json")
    assert response.json().keys() == {"error"}
    assert response.json()["error"].keys() == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"]
