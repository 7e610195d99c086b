import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from runtime.errors import NodeError
from runtime.flow.model import Connection
from runtime.nodes.base import Chunk, Result, SpecProblem, Usage
from runtime.nodes.openai_chat import OpenAIChat
from tests.support.model_server import SCENARIOS, ModelServer

KEY = "sk-very-secret"
ASK = [{"role": "user", "content": "hi"}]
USAGE = Usage(11, 7)


def connection(base_url: str, **fields: Any) -> Connection:
    defaults: dict[str, Any] = {
        "api_key": KEY,
        "organization": "",
        "model": "",
        "timeout_s": 20,
        "max_retries": 0,
        "stream_usage": True,
    }
    return Connection("mine", "open_ai", {**defaults, "base_url": base_url, **fields})


@asynccontextmanager
async def client(base_url: str, **fields: Any) -> AsyncIterator[OpenAIChat]:
    chat = OpenAIChat(connection(base_url, **fields))
    try:
        yield chat
    finally:
        await chat.close()


async def collect(chat: OpenAIChat, model: str, texts: list[str]) -> None:
    """Add the text of each chunk to `texts`, as long as they come."""
    async for part in chat.chat(ASK, {"model": model}, stream=True):
        assert isinstance(part, Chunk)
        texts.append(part.text)


async def parts_of(chat: OpenAIChat, model: str, stream: bool, **options: Any) -> tuple[list[Chunk], Result]:
    *chunks, result = [part async for part in chat.chat(ASK, {"model": model}, stream=stream, **options)]
    assert isinstance(result, Result)
    return [chunk for chunk in chunks if isinstance(chunk, Chunk)], result


async def answer(base_url: str, model: str, stream: bool, **fields: Any) -> tuple[list[Chunk], Result]:
    async with client(base_url, **fields) as chat:
        return await parts_of(chat, model, stream)


TOLERATED = [
    ("echo", ["You ", "said: ", "hi"], Result("You said: hi", USAGE, "stand-in", "stop")),
    ("words:3", ["w0 ", "w1 ", "w2 "], Result("w0 w1 w2 ", USAGE, "stand-in", "stop")),
    ("words:0", [], Result("", USAGE, "stand-in", "stop")),
    ("no-done", ["all ", "here"], Result("all here", None, "stand-in", "stop")),
    ("no-finish", ["all here"], Result("all here", None, "stand-in", "stop")),
    ("odd-but-fine", ["fi", "né"], Result("finé", USAGE, "stand-in", "stop")),
    ("reasoning", ["", "", "forty-two"], Result("forty-two", None, "stand-in", "stop")),
    ("length", ["cut off"], Result("cut off", USAGE, "stand-in", "length")),
    ("two-answers", ["fir", "st"], Result("first", Usage(0, 2), "stand-in", "stop")),
    ("half-an-emoji", ["\ud83d"], Result("\ud83d", None, "stand-in", "stop")),
    ("silent-after-finish", ["all here"], Result("all here", None, "stand-in", "stop")),
    ("json-to-stream", ["You said: hi"], Result("You said: hi", USAGE, "stand-in", "stop")),
]
BAD = [
    (
        "ends-early",
        ["only ha"],
        "model_broke_off",
        "broke off its answer: no finish_reason and no [DONE] before the end",
    ),
    ("break-off", ["only ha"], "model_broke_off", "broke off its answer: "),
    ("rubbish", ["so far "], "model_bad_answer", "sent what is not a chat completion: 'this is not JSON'"),
    ("parts", [], "model_bad_answer", "sent what is not a chat completion: "),
    ("error-in-stream", ["so far "], "model_error", "reported an error: out of tokens"),
    ("flat-error", [], "model_error", "reported an error: too fast"),
    ("silent", ["so far "], "model_timeout", "was silent for 0.5 s (the connection's timeout_s)"),
    ("html", [], "model_bad_answer", 'sent what is not a chat completion: "<html>a proxy\'s page</html>"'),
    ("fail:400", [], "model_error", "answered 400: refused with 400"),
    ("fail:401", [], "model_error", "answered 401: refused with 401"),
    ("fail:429", [], "model_error", "answered 429: refused with 429"),
    ("fail:500", [], "model_error", "answered 500: refused with 500"),
    ("hang", [], "model_timeout", "was silent for 0.5 s (the connection's timeout_s)"),
]


@pytest.mark.parametrize(("model", "texts", "result"), TOLERATED)
async def test_stream_is_read(model_server: ModelServer, model: str, texts: list[str], result: Result) -> None:
    chunks, found = await answer(model_server.url, model, True, timeout_s=1 if "silent" in model else 20)
    assert [chunk.text for chunk in chunks] == texts
    assert found == result


@pytest.mark.parametrize("model", ["echo", "no-done", "length", "json-to-stream"])
async def test_whole_answer_is_read_as_one_chunk(model_server: ModelServer, model: str) -> None:
    chunks, result = await answer(model_server.url, model, False)
    assert chunks == [Chunk("You said: hi")]
    assert result == Result("You said: hi", USAGE, "stand-in", "stop")
    assert "stream_options" not in model_server.calls[-1].body


async def test_reasoning_is_apart_from_the_text(model_server: ModelServer) -> None:
    chunks, result = await answer(model_server.url, "reasoning", True)
    assert [chunk.reasoning for chunk in chunks] == ["let me ", "think", ""]
    assert result.value == "forty-two"


@pytest.mark.parametrize(("model", "texts", "code", "message"), BAD)
async def test_failed_stream_says_where_and_why(
    model_server: ModelServer, model: str, texts: list[str], code: str, message: str
) -> None:
    found: list[str] = []
    async with client(model_server.url, timeout_s=0.5 if model in ("silent", "hang") else 20) as chat:
        with pytest.raises(NodeError) as caught:
            await collect(chat, model, found)
    assert found == texts
    assert caught.value.code == code
    assert caught.value.message.startswith(f"connection 'mine' ({model_server.url}): the model {message}")
    assert KEY not in caught.value.message


@pytest.mark.parametrize(
    ("model", "code", "message"),
    [(model, code, message) for model, _, code, message in BAD if model not in SCENARIOS],
)
async def test_failed_whole_answer_says_where_and_why(
    model_server: ModelServer, model: str, code: str, message: str
) -> None:
    with pytest.raises(NodeError) as caught:
        await answer(model_server.url, model, False, timeout_s=0.5 if model == "hang" else 20)
    assert caught.value.code == code
    assert caught.value.message.startswith(f"connection 'mine' ({model_server.url}): the model {message}")
    assert KEY not in caught.value.message


def test_every_scenario_is_tried() -> None:
    assert set(SCENARIOS) - {"endless"} <= {case[0] for case in TOLERATED} | {case[0] for case in BAD}


@pytest.mark.parametrize(
    ("model", "retries", "calls", "fails"),
    [
        ("fail-once:500:chat", 1, 2, False),
        ("fail-once:429:chat", 1, 2, False),
        ("fail-once:503:chat", 0, 1, True),
        ("fail:502", 1, 2, True),
        ("fail:400", 2, 1, True),
        ("fail:401", 2, 1, True),
        ("hang", 1, 2, True),
        ("ends-early", 2, 1, True),
        ("break-off", 2, 1, True),
        ("rubbish", 2, 1, True),
        ("error-in-stream", 2, 1, True),
        ("silent", 2, 1, True),
    ],
)
async def test_call_is_repeated_only_before_its_first_token(
    model_server: ModelServer, model: str, retries: int, calls: int, fails: bool
) -> None:
    before = len(model_server.calls_of(model))
    timeout_s = 0.5 if model in ("hang", "silent") else 20
    try:
        await answer(model_server.url, model, True, max_retries=retries, timeout_s=timeout_s)
    except NodeError:
        assert fails
    else:
        assert not fails
    assert len(model_server.calls_of(model)) - before == calls


@dataclass
class Relay:
    """A TCP relay in front of the model that counts connections."""

    url: str
    connections: int = 0


@asynccontextmanager
async def relay_to(url: str) -> AsyncIterator[Relay]:
    port = int(url.split(":")[2].split("/")[0])
    tasks: set[asyncio.Task[None]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65536):
            writer.write(piece)
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay.connections += 1
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", port)
        tasks.update({asyncio.create_task(copy(reader, to_writer)), asyncio.create_task(copy(to_reader, writer))})

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        relay = Relay(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
        yield relay
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize(("model", "stream"), [("echo", True), ("echo", False), ("no-done", True), ("fail:400", True)])
async def test_connection_is_used_again(model_server: ModelServer, model: str, stream: bool) -> None:
    async with relay_to(model_server.url) as relay, client(relay.url) as chat:
        for _ in range(3):
            try:
                await parts_of(chat, model, stream)
            except NodeError:
                assert model == "fail:400"
        assert relay.connections == 1


async def test_calls_at_once_do_not_wait_for_each_other(model_server: ModelServer) -> None:
    async with client(model_server.url) as chat:
        answers = await asyncio.gather(*(parts_of(chat, f"words:{count}:0.01", True) for count in range(1, 30)))
    assert [len(chunks) for chunks, _ in answers] == list(range(1, 30))


async def test_stream_that_is_left_ends_the_call(model_server: ModelServer) -> None:
    async with client(model_server.url) as chat:
        async with aclosing(chat.chat(ASK, {"model": "endless"}, stream=True)) as parts:
            assert await anext(parts) == Chunk("more ")
        call = model_server.calls_of("endless")[-1]
        assert await asyncio.to_thread(call.over.wait, 10)
        assert call.ended == "left"


async def test_request_carries_parameters_headers_and_key(model_server: ModelServer) -> None:
    traceparent = f"00-{'a' * 32}-{'b' * 16}-01"
    async with client(model_server.url, organization="org-1") as chat:
        parameters = {"model": "echo", "temperature": 0.5, "seed": 7, "enable_thinking": False}
        parts = chat.chat(ASK, parameters, stream=True, headers={"traceparent": traceparent})
        assert [part async for part in parts]
    call = model_server.calls[-1]
    assert call.body == {**parameters, "messages": ASK, "stream": True, "stream_options": {"include_usage": True}}
    assert call.headers["traceparent"] == traceparent
    assert call.headers["authorization"] == f"Bearer {KEY}"
    assert call.headers["openai-organization"] == "org-1"


async def test_model_of_the_connection_is_called_when_none_is_named(model_server: ModelServer) -> None:
    async with client(model_server.url, model="words:1") as chat:
        first, *_ = [part async for part in chat.chat(ASK, {}, stream=True)]
    assert first == Chunk("w0 ")


async def test_token_counts_are_not_asked_for_where_that_is_switched_off(model_server: ModelServer) -> None:
    _, result = await answer(model_server.url, "echo", True, stream_usage=False)
    assert result.usage is None
    assert "stream_options" not in model_server.calls[-1].body


async def test_server_without_a_key_is_called(model_server: ModelServer) -> None:
    _, result = await answer(model_server.url, "echo", True, api_key="")
    assert result.value == "You said: hi"


@pytest.mark.parametrize("stream", [True, False])
async def test_refused_connection_is_named(stream: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    with pytest.raises(NodeError) as caught:
        await answer(url, "echo", stream)
    assert caught.value.code == "model_unreachable"
    assert caught.value.message.startswith(f"connection 'mine' ({url}): cannot be reached: ")
    assert KEY not in caught.value.message


@pytest.mark.parametrize("model", ["fail:401", "ends-early"])
async def test_credentials_of_the_address_are_not_shown(model_server: ModelServer, model: str) -> None:
    url = model_server.url.replace("http://", "http://someone:pass-word@")
    with pytest.raises(NodeError) as caught:
        await answer(f"{url}?token=query-secret", model, True)
    assert model_server.url in caught.value.message
    for secret in ("someone", "pass-word", "query-secret"):
        assert secret not in caught.value.message


@pytest.mark.parametrize(
    "url", ["localhost:8000/v1", "http://", "http://host:port/v1", "http://[::1/v1", "ftp://host/v1"]
)
def test_base_url_that_is_no_address_is_refused_when_the_flow_is_built(url: str) -> None:
    with pytest.raises(SpecProblem, match="connection 'mine': its base_url is no address"):
        OpenAIChat(connection(url))


def test_ipv6_address_is_fine() -> None:
    OpenAIChat(connection("http://[::1]:8000/v1"))
