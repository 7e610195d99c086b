"""The APIs of models, each held to the same answers, good and bad."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import pytest

from flowpod.errors import BuildError, NodeError
from flowpod.flow.model import Connection
from flowpod.models.base import Chunk, Model, ModelRequest, Result, Usage
from flowpod.models.openai_chat import ChatCompletionsModel
from flowpod.models.registry import ModelRegistry
from tests.support.model_server import SCENARIOS, Call, ModelServer

KEY = "sk-very-secret"
ASK = [{"role": "user", "content": "hi"}]
USAGE = Usage(11, 7)


Api = Literal["chat", "responses", "dashscope", "multimodal"]
APIS: tuple[Api, ...] = ("chat", "responses", "dashscope", "multimodal")
each_api = pytest.mark.parametrize("api", APIS)

WHAT = {
    "chat": "a chat completion",
    "responses": "an answer of the Responses API",
    "dashscope": "an answer of DashScope",
    "multimodal": "an answer of DashScope",
}
END = {
    "chat": "no finish_reason and no [DONE]",
    "responses": "no response.completed",
    "dashscope": "no finish_reason",
    "multimodal": "no finish_reason",
}


def connection(base_url: str, api: Api = "chat", /, **fields: Any) -> Connection:
    native = api in ("dashscope", "multimodal")
    defaults: dict[str, Any] = {
        "api_key": KEY,
        "organization": "",
        "workspace": "",
        "model": "",
        "timeout_s": 20,
        "max_retries": 0,
        "stream_usage": True,
        "api": {"dashscope": "text"}.get(api, api),
    }
    return Connection("mine", "dashscope" if native else "open_ai", {**defaults, "base_url": base_url, **fields})


@asynccontextmanager
async def client(base_url: str, api: Api = "chat", /, **fields: Any) -> AsyncIterator[Model]:
    models = ModelRegistry({"mine": connection(base_url, api, **fields)})
    try:
        yield models.model_of("mine")
    finally:
        await models.close()


async def collect(chat: Model, model: str, texts: list[str]) -> None:
    """Add the text of each chunk to `texts`, as long as they come."""
    async for part in chat.answer(ModelRequest(ASK, {"model": model}, True)):
        assert isinstance(part, Chunk)
        texts += [chunk.text for chunk in part.split()]


async def parts_of(chat: Model, model: str, stream: bool) -> tuple[list[Chunk], Result]:
    *chunks, result = [part async for part in chat.answer(ModelRequest(ASK, {"model": model}, stream))]
    assert isinstance(result, Result)
    return [chunk for part in chunks if isinstance(part, Chunk) for chunk in part.split()], result


async def answer(
    base_url: str, model: str, stream: bool, api: Api = "chat", **fields: Any
) -> tuple[list[Chunk], Result]:
    async with client(base_url, api, **fields) as chat:
        return await parts_of(chat, model, stream)


def expected_result(result: Result, api: Api, model: str) -> Result:
    """Return what is expected of an API: DashScope's answers do not name their model, a cut one of Responses neither."""
    if api in ("dashscope", "multimodal"):
        return replace(result, model=model)
    return replace(result, model="") if api == "responses" and model == "no-finish" else result


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
    ("huge-counts", ["all here"], Result("all here", Usage(0, 0), "stand-in", "stop")),
    ("half-an-emoji", ["\ud83d"], Result("\ud83d", None, "stand-in", "stop")),
    ("silent-after-finish", ["all here"], Result("all here", None, "stand-in", "stop")),
    ("json-to-stream", ["You said: hi"], Result("You said: hi", USAGE, "stand-in", "stop")),
]
BAD = [
    ("ends-early", ["only ha"], "model_broke_off", "broke off its answer: END before the end"),
    ("break-off", ["only ha"], "model_broke_off", "broke off its answer: "),
    ("rubbish", ["so far "], "model_bad_answer", "answered with something other than WHAT: 'this is not JSON'"),
    ("parts", [], "model_bad_answer", "answered with something other than WHAT: "),
    ("error-in-stream", ["so far "], "model_error", "reported an error: out of tokens"),
    ("flat-error", [], "model_error", "reported an error: too fast"),
    ("flat-error-without-output", [], "model_error", "reported an error: too fast"),
    ("silent", ["so far "], "model_timeout", "was silent for 0.5 s (the connection's timeout_s)"),
    ("html", [], "model_bad_answer", 'answered with something other than WHAT: "<html>a proxy\'s page</html>"'),
    ("fail:400", [], "model_error", "answered 400: refused with 400"),
    ("fail:401", [], "model_error", "answered 401: refused with 401"),
    ("fail:429", [], "model_error", "answered 429: refused with 429"),
    ("fail:500", [], "model_error", "answered 500: refused with 500"),
    ("hang", [], "model_timeout", "was silent for 0.5 s (the connection's timeout_s)"),
]


def message_of(text: str, api: Api) -> str:
    return text.replace("WHAT", WHAT[api]).replace("END", END[api])


@each_api
@pytest.mark.parametrize(("model", "texts", "result"), TOLERATED)
async def test_a_stream(model_server: ModelServer, model: str, texts: list[str], result: Result, api: Api) -> None:
    if api == "responses" and model == "two-answers":
        return  # one request has one answer there
    chunks, found = await answer(model_server.url, model, True, api, timeout_s=1 if "silent" in model else 20)
    assert [chunk.text for chunk in chunks] == texts
    assert found == expected_result(result, api, model)


@each_api
@pytest.mark.parametrize("model", ["echo", "no-done", "length", "json-to-stream"])
async def test_whole_answer_is_read_as_one_chunk(model_server: ModelServer, model: str, api: Api) -> None:
    chunks, result = await answer(model_server.url, model, False, api)
    assert chunks == [Chunk("You said: hi")]
    assert result == expected_result(Result("You said: hi", USAGE, "stand-in", "stop"), api, model)
    assert "stream_options" not in model_server.calls[-1].body


@each_api
async def test_reasoning_is_apart_from_the_text(model_server: ModelServer, api: Api) -> None:
    chunks, result = await answer(model_server.url, "reasoning", True, api)
    assert [chunk.reasoning for chunk in chunks] == ["let me ", "think", ""]
    assert result.value == "forty-two"
    chunks, result = await answer(model_server.url, "reasoning", False, api)
    assert chunks == [Chunk("forty-two", "let me think")]
    assert result.value == "forty-two"


@each_api
@pytest.mark.parametrize(("model", "texts", "code", "message"), BAD)
@pytest.mark.fault("a model fails, breaks off or goes silent")
async def test_failed_stream_says_where_and_why(
    model_server: ModelServer, model: str, texts: list[str], code: str, message: str, api: Api
) -> None:
    found: list[str] = []
    async with client(model_server.url, api, timeout_s=0.5 if model in ("silent", "hang") else 20) as chat:
        with pytest.raises(NodeError) as caught:
            await collect(chat, model, found)
    assert found == texts
    assert caught.value.code == code
    assert caught.value.message.startswith(
        f"connection 'mine' ({model_server.url}): the model {message_of(message, api)}"
    )
    assert KEY not in caught.value.message


@each_api
@pytest.mark.parametrize(
    ("model", "code", "message"), [(model, code, message) for model, _, code, message in BAD if model not in SCENARIOS]
)
@pytest.mark.fault("a model fails, breaks off or goes silent")
async def test_failed_answer_says_why(model_server: ModelServer, model: str, code: str, message: str, api: Api) -> None:
    with pytest.raises(NodeError) as caught:
        await answer(model_server.url, model, False, api, timeout_s=0.5 if model == "hang" else 20)
    assert caught.value.code == code
    assert caught.value.message.startswith(
        f"connection 'mine' ({model_server.url}): the model {message_of(message, api)}"
    )
    assert KEY not in caught.value.message


@each_api
@pytest.mark.parametrize(
    ("model", "retries", "calls", "fails"),
    [
        ("fail-once:500", 1, 2, False),
        ("fail-once:429", 1, 2, False),
        ("fail-once:503", 0, 1, True),
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
@pytest.mark.fault("a model fails before its first token")
async def test_call_is_repeated_only_before_its_first_token(
    model_server: ModelServer, model: str, retries: int, calls: int, fails: bool, api: Api
) -> None:
    model = f"{model}:{api}" if model.startswith("fail-once") else model
    before = len(model_server.calls_of(model))
    timeout_s = 0.5 if model in ("hang", "silent") else 20
    try:
        await answer(model_server.url, model, True, api, max_retries=retries, timeout_s=timeout_s)
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


@each_api
@pytest.mark.parametrize(("model", "stream"), [("echo", True), ("echo", False), ("no-done", True), ("fail:400", True)])
async def test_connection_is_used_again(model_server: ModelServer, model: str, stream: bool, api: Api) -> None:
    async with relay_to(model_server.url) as relay, client(relay.url, api) as chat:
        for _ in range(3):
            try:
                await parts_of(chat, model, stream)
            except NodeError:
                assert model == "fail:400"
        assert relay.connections == 1


@each_api
async def test_calls_at_once_do_not_wait_for_each_other(model_server: ModelServer, api: Api) -> None:
    async with client(model_server.url, api) as chat:
        answers = await asyncio.gather(*(parts_of(chat, f"words:{count}:0.01", True) for count in range(1, 30)))
    assert [len(chunks) for chunks, _ in answers] == list(range(1, 30))


@each_api
async def test_stream_that_is_left_ends_the_call(model_server: ModelServer, api: Api) -> None:
    async with client(model_server.url, api) as chat:
        async with aclosing(chat.answer(ModelRequest(ASK, {"model": "endless"}, True))) as parts:
            first = await anext(parts)
        assert isinstance(first, Chunk)
        assert first.text.startswith("more ")
        call = model_server.calls_of("endless")[-1]
        assert await asyncio.to_thread(call.over.wait, 10)
        assert call.ended == "left"


async def test_request_carries_parameters_headers_and_key(model_server: ModelServer) -> None:
    traceparent = f"00-{'a' * 32}-{'b' * 16}-01"
    async with client(model_server.url, organization="org-1") as chat:
        parameters = {"model": "echo", "temperature": 0.5, "seed": 7, "enable_thinking": False}
        parts = chat.answer(ModelRequest(ASK, parameters, True, {"traceparent": traceparent}))
        assert [part async for part in parts]
    call = model_server.calls[-1]
    assert call.body == {**parameters, "messages": ASK, "stream": True, "stream_options": {"include_usage": True}}
    assert call.headers["traceparent"] == traceparent
    assert call.headers["authorization"] == f"Bearer {KEY}"
    assert call.headers["openai-organization"] == "org-1"


@each_api
async def test_model_of_the_connection_is_called_when_none_is_named(model_server: ModelServer, api: Api) -> None:
    async with client(model_server.url, api, model="words:1") as chat:
        first, *_ = [part async for part in chat.answer(ModelRequest(ASK, {}, True))]
    assert first == Chunk("w0 ")


async def test_token_counts_are_not_asked_for_where_that_is_switched_off(model_server: ModelServer) -> None:
    _, result = await answer(model_server.url, "echo", True, stream_usage=False)
    assert result.usage is None
    assert "stream_options" not in model_server.calls[-1].body


@each_api
async def test_server_without_a_key_is_called(model_server: ModelServer, api: Api) -> None:
    _, result = await answer(model_server.url, "echo", True, api, api_key="")
    assert result.value == "You said: hi"


@each_api
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.fault("a model's server cannot be reached")
async def test_refused_connection_is_named(stream: bool, api: Api) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    with pytest.raises(NodeError) as caught:
        await answer(url, "echo", stream, api)
    assert caught.value.code == "model_unreachable"
    assert caught.value.message.startswith(f"connection 'mine' ({url}): cannot be reached: ")
    assert KEY not in caught.value.message


@each_api
@pytest.mark.parametrize("model", ["fail:401", "ends-early"])
async def test_credentials_of_the_address_are_not_shown(model_server: ModelServer, model: str, api: Api) -> None:
    url = model_server.url.replace("http://", "http://someone:pass-word@")
    with pytest.raises(NodeError) as caught:
        await answer(f"{url}?token=query-secret", model, True, api)
    assert model_server.url in caught.value.message
    for secret in ("someone", "pass-word", "query-secret"):
        assert secret not in caught.value.message


@pytest.mark.parametrize(
    "url", ["localhost:8000/v1", "http://", "http://host:port/v1", "http://[::1/v1", "ftp://host/v1"]
)
def test_base_url_that_is_no_address_is_refused_when_the_flow_is_built(url: str) -> None:
    with pytest.raises(BuildError, match="connection 'mine': its base_url is not an address"):
        ChatCompletionsModel(connection(url))


def test_ipv6_address_is_fine() -> None:
    ChatCompletionsModel(connection("http://[::1]:8000/v1"))


IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}}
TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": [{"type": "text", "text": "what is"}, {"type": "text", "text": "this?"}]},
    {
        "role": "assistant",
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
    {"role": "user", "content": [IMAGE, {"type": "text", "text": "hi"}]},
]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]


async def sent(server: ModelServer, kind: Api, messages: Any, parameters: dict[str, Any], **fields: Any) -> Call:
    """Return the call that a streamed request makes."""
    async with client(server.url, kind, **fields) as chat:
        headers = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
        assert [part async for part in chat.answer(ModelRequest(messages, parameters, True, headers))]
    call = server.calls[-1]
    assert call.headers["traceparent"] == headers["traceparent"]
    assert call.headers["authorization"] == f"Bearer {KEY}"
    return call


async def test_dashscope_gets_its_own_request(model_server: ModelServer) -> None:
    parameters = {"model": "echo", "temperature": 0.5, "max_completion_tokens": 9, "n": 1, "user": "", "seed": 7}
    call = await sent(model_server, "dashscope", TALK[:2] + ASK, parameters, workspace="ws-1")
    assert call.path == "/v1/services/aigc/text-generation/generation"
    assert call.headers["x-dashscope-sse"] == "enable"
    assert call.headers["x-dashscope-workspace"] == "ws-1"
    assert call.body == {
        "model": "echo",
        "input": {"messages": [TALK[0], {"role": "user", "content": "what is\nthis?"}, *ASK]},
        "parameters": {
            "temperature": 0.5,
            "max_tokens": 9,
            "seed": 7,
            "result_format": "message",
            "incremental_output": True,
        },
    }


@pytest.mark.parametrize(
    ("api", "messages"), [("auto", TALK), ("multimodal", TALK), ("multimodal", ASK), ("auto", ASK)]
)
async def test_dashscope_api_fits_the_prompt(
    model_server: ModelServer, api: str, messages: list[dict[str, Any]]
) -> None:
    call = await sent(model_server, "multimodal", messages, {"model": "echo"}, api=api)
    if (api, messages) == ("auto", ASK):
        assert call.path == "/v1/services/aigc/text-generation/generation"
        return
    assert call.path == "/v1/services/aigc/multimodal-generation/generation"
    last = [{"image": "https://example.com/a.png"}, {"text": "hi"}] if messages is TALK else [{"text": "hi"}]
    assert call.body["input"]["messages"][-1] == {"role": "user", "content": last}


async def test_responses_get_their_own_request(model_server: ModelServer) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "s", "schema": {}}}
    parameters = {"model": "echo", "max_tokens": 9, "n": 1, "response_format": schema, "reasoning_effort": "low"}
    call = await sent(model_server, "responses", TALK, parameters)
    assert call.path == "/v1/responses"
    assert call.body == {
        "model": "echo",
        "stream": True,
        "store": False,
        "max_output_tokens": 9,
        "reasoning": {"effort": "low"},
        "text": {"format": {"type": "json_schema", "name": "s", "schema": {}}},
        "input": [
            {"role": "system", "content": "Be kind."},
            {
                "role": "user",
                "content": [{"type": "input_text", "text": "what is"}, {"type": "input_text", "text": "this?"}],
            },
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "a cat"},
            {
                "role": "user",
                "content": [
                    {"type": "input_image", "image_url": "https://example.com/a.png", "detail": "low"},
                    {"type": "input_text", "text": "hi"},
                ],
            },
        ],
    }


async def test_responses_get_lists_of_parts_by_who_says_them(model_server: ModelServer) -> None:
    talk = [
        {"role": "assistant", "content": [{"type": "text", "text": "a cat?"}]},
        TALK[2],
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "a cat"}, IMAGE]},
        *ASK,
    ]
    call = await sent(model_server, "responses", talk, {"model": "echo"})
    assert call.body["input"] == [
        {"role": "assistant", "content": [{"type": "output_text", "text": "a cat?"}]},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {
            "type": "function_call_output",
            "call_id": "c1",
            "output": [
                {"type": "input_text", "text": "a cat"},
                {"type": "input_image", "image_url": "https://example.com/a.png", "detail": "low"},
            ],
        },
        *ASK,
    ]


FUNCTIONS = [{"name": "f", "parameters": {}}]
ANSWERED = [*ASK, {"role": "function", "name": "f", "content": "a cat"}, *ASK]


async def called(server: ModelServer, api: Api, choice: Any) -> tuple[Result, dict[str, Any]]:
    """Return what comes of a call with functions, and what the model got."""
    parameters = {"model": "echo", "functions": FUNCTIONS, **({"function_call": choice} if choice else {})}
    async with client(server.url, api) as chat:
        (result,) = [part async for part in chat.answer(ModelRequest(ANSWERED, parameters, True))]
    assert isinstance(result, Result)
    return result, server.calls[-1].body


@each_api
async def test_a_call_of_a_function_is_the_message(model_server: ModelServer, api: Api) -> None:
    result, _ = await called(model_server, api, "auto")
    assert result.value["function_call"] == {"name": "f", "arguments": "{}"}
    assert result.value["tool_calls"] is None
    assert result.finish_reason == ("stop" if api == "chat" else "function_call")


async def test_dashscope_gets_functions_as_tools(model_server: ModelServer) -> None:
    _, body = await called(model_server, "dashscope", {"name": "f"})
    parameters = body["parameters"]
    assert parameters["tools"] == [{"type": "function", "function": FUNCTIONS[0]}]
    assert parameters["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert not parameters.keys() & {"functions", "function_call"}
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert body["input"]["messages"][1:3] == [
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "a cat"},
    ]


@pytest.mark.parametrize(
    ("choice", "chosen"), [("auto", "auto"), ({"name": "f"}, {"type": "function", "name": "f"}), (None, None)]
)
async def test_responses_get_functions_as_tools(model_server: ModelServer, choice: Any, chosen: Any) -> None:
    _, body = await called(model_server, "responses", choice)
    assert (body["tools"], body.get("tool_choice")) == ([{"type": "function", **FUNCTIONS[0]}], chosen)
    assert not body.keys() & {"functions", "function_call"}
    assert body["input"][1:3] == [
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "a cat"},
    ]


async def test_responses_are_stored_upstream_only_where_the_node_says_so(model_server: ModelServer) -> None:
    assert (await sent(model_server, "responses", ASK, {"model": "echo"})).body["store"] is False
    assert (await sent(model_server, "responses", ASK, {"model": "echo", "store": True})).body["store"] is True


@each_api
async def test_a_call_of_a_tool_is_the_message(model_server: ModelServer, api: Api) -> None:
    async with client(model_server.url, api) as chat:
        parameters = {"model": "echo", "tools": TOOLS, "tool_choice": "auto"}
        (result,) = [part async for part in chat.answer(ModelRequest(ASK, parameters, True))]
    assert isinstance(result, Result)
    (call,) = result.value["tool_calls"]
    assert (call["id"], call["type"], call["function"]["name"]) == ("c1", "function", "f")
    assert result.value["role"] == "assistant"
    offered = model_server.calls[-1].body
    if api == "responses":
        assert offered["tools"] == [{"type": "function", "name": "f", "parameters": {}}]
    else:
        assert offered.get("parameters", offered)["tools"] == TOOLS


@each_api
@pytest.mark.parametrize("stream", [True, False])
async def test_a_text_is_continued(model_server: ModelServer, api: Api, stream: bool) -> None:
    async with client(model_server.url, api) as chat:
        parts = [
            part
            async for part in chat.answer(
                ModelRequest("hi", {"model": "echo", "echo": False, "max_tokens": 16}, stream)
            )
        ]
    assert isinstance(parts[-1], Result)
    assert parts[-1].value == "You said: hi"
    assert model_server.calls[-1].messages == ASK


@each_api
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("model", ["whole-error", "whole-flat-error"])
@pytest.mark.fault("a model fails, breaks off or goes silent")
async def test_an_error_in_one_piece_is_an_error(model_server: ModelServer, api: Api, stream: bool, model: str) -> None:
    with pytest.raises(NodeError, match="the model reported an error: out of tokens"):
        await answer(model_server.url, model, stream, api)
