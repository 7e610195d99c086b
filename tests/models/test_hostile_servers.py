"""Model servers that send too much, or no HTTP: each call fails with one code and one plain reason."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from flowpod.errors import NodeError
from flowpod.models.answer_reader import MAX_RESPONSE_BYTES
from flowpod.models.base import ModelRequest, Result
from flowpod.models.openai_chat import ChatCompletionsModel
from tests.models.test_model_apis import ASK, BAD, TOLERATED, Api, answer, client, collect, each_api
from tests.support.model_server import SCENARIOS, WHOLE, ModelServer

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
NOT_HTTP = {
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "binary": bytes(range(256)) * 10,
    "a long header": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"".join(b"X%d: a\r\n" % number for number in range(10_000)),
    "a long reason": b"HTTP/1.1 200 " + b"a" * 1_000_000 + b"\r\n\r\n",
    "an invalid chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\ndata:\r\nzz\r\n",
    "two lengths": OK + b"Content-Length: 5\r\nContent-Length: 7\r\n\r\nhello",
    "a negative length": OK + b"Content-Length: -5\r\n\r\nhello",
    "many encodings": OK + b"Content-Encoding: " + b", ".join([b"gzip"] * 50) + b"\r\nContent-Length: 1\r\n\r\nx",
    "an error of an invalid encoding": b"HTTP/1.1 500 no\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello",
}
TOO_LARGE = [
    ("long-line", ["so far "], "an event has more than"),
    ("long-event", ["so far "], "an event has more than"),
    ("large-json", [], "its answer has more than"),
    ("compressed", [], "its answer has more than"),
]
OTHER = [
    ("deep", ["so far "], "model_error", "the model reported an error: [[[["),
    ("deeper", ["so far "], "model_bad_answer", "the model answered with something other than"),
    ("large-error", [], "model_error", "the model answered 500: xxx"),
    ("compressed-error", [], "model_error", "the model answered 500: xxx"),
    ("not-compressed", [], "model_invalid_http", "the model's server sent bytes that are not valid HTTP: "),
    ("retry-after", [], "model_error", "the model answered 429: busy"),
    ("redirects", [], "model_too_many_redirects", "the model's server redirects more than 5 times"),
]


async def failure_of(server: ModelServer, model: str, api: Api, texts: list[str], **fields: int) -> NodeError:
    async with client(server.url, api, **fields) as chat:
        with pytest.raises(NodeError) as caught:
            await collect(chat, model, texts)
    assert len(caught.value.message) < 3000
    return caught.value


@pytest.mark.fault("a model sends an event or an answer that is too long")
@each_api
@pytest.mark.parametrize(("model", "texts", "message"), TOO_LARGE)
async def test_too_long_an_answer_is_refused(
    model_server: ModelServer, model: str, texts: list[str], message: str, api: Api
) -> None:
    found: list[str] = []
    error = await failure_of(model_server, model, api, found)
    assert (error.code, found) == ("model_response_too_large", texts)
    assert f"{message} {MAX_RESPONSE_BYTES} bytes" in error.message


@pytest.mark.fault("a model sends what cannot be read")
@each_api
@pytest.mark.parametrize(("model", "texts", "code", "message"), OTHER)
async def test_what_cannot_be_read_has_one_code(
    model_server: ModelServer, model: str, texts: list[str], code: str, message: str, api: Api
) -> None:
    found: list[str] = []
    error = await failure_of(model_server, model, api, found, max_retries=1 if model == "retry-after" else 0)
    assert (error.code, found) == (code, texts)
    assert message in error.message
    if model == "retry-after":
        assert len(model_server.calls_of(model)) == 1, "a wait of centuries is no retry"
        model_server.calls.clear()


async def test_every_scenario_is_used() -> None:
    used = {model for model, *_ in (*TOLERATED, *BAD, *TOO_LARGE, *OTHER)}
    assert SCENARIOS.keys() | WHOLE.keys() == used & (SCENARIOS.keys() | WHOLE.keys()) | {
        "endless",
        "endless-reasoning",
    }


@asynccontextmanager
async def raw_server(content: bytes) -> AsyncIterator[str]:
    """Serve the same bytes to every request."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(content)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


@pytest.mark.fault("a model's server sends bytes that are not HTTP")
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", NOT_HTTP)
async def test_bytes_that_are_not_http_are_named(name: str, stream: bool) -> None:
    async with raw_server(NOT_HTTP[name]) as url:
        with pytest.raises(NodeError) as caught:
            await answer(url, "any", stream)
    assert caught.value.code == "model_invalid_http"
    assert caught.value.message.startswith(
        f"connection 'mine' ({url}): the model's server sent bytes that are not valid HTTP: "
    )


async def test_a_stream_that_is_compressed_is_read_and_limited() -> None:
    for text, fails in (
        (b'data: {"choices": [{"delta": {"content": "hi"}, "finish_reason": "stop"}]}\n\n', False),
        (b"x" * 10**8, True),
    ):
        body = gzip.compress(text)
        async with raw_server(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body) as url:
            if fails:
                with pytest.raises(NodeError, match="an event has more than"):
                    await answer(url, "any", True)
            else:
                assert (await answer(url, "any", True))[1].value == "hi"


@pytest.mark.parametrize(
    "content",
    [
        b'{"choices": [{"message": {"content": "x"}}], "model": ["m"]}',
        b'{"choices": [{"message": {"content": "x"}}], "model": "%b"}' % (b"m" * 1000),
        b'{"choices": [{"message": {"content": "x"}, "finish_reason": {"a": 1}}]}',
        b'{"choices": [{"message": {"content": "x", "tool_calls": %b1%b}}]}' % (b"[" * 250, b"]" * 250),
        b'{"choices": %b}' % (b"9" * 5000),
    ],
)
def test_values_of_another_type_are_no_answer(content: bytes) -> None:
    reader = ChatCompletionsModel.reader("here", "m", "tools")
    reader.feed_body(content)
    with pytest.raises(NodeError, match="something other than a chat completion"):
        reader.read_whole()


async def test_reasoning_without_end_is_read_as_it_comes(model_server: ModelServer) -> None:
    async with client(model_server.url) as chat:
        count = 0
        async for part in chat.answer(ModelRequest(ASK, {"model": "endless-reasoning"}, True)):
            assert not isinstance(part, Result)
            count += part.size
            if count > 10**6:
                break
