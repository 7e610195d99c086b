"""DashScope's application call: requests, responses and streams."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.dashscope_flow import write_dashscope_flow
from tests.support.flows import client_of, post, write_chat_flow, write_flow
from tests.support.model_server import ModelServer

PATH = "/api/v1/apps/YOUR_APP_ID/completion"
GENERATION = "/api/v1/services/aigc/text-generation/generation"
PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SSE = {"X-DashScope-SSE": "enable"}
FRAME = re.compile(r"id:(\d+)\nevent:result\n:HTTP_STATUS/200\ndata:(\{.*\})")


def body(prompt: str | None = "hi", **more: Any) -> dict[str, Any]:
    prompts = {} if prompt is None else {"prompt": prompt}
    return {"input": {**prompts, **more}, "parameters": more.pop("parameters", {}), "debug": {}}


def frames(response: httpx.Response) -> list[dict[str, Any]]:
    """Check every byte of a stream; return the data of its frames."""
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    *parts, rest = response.text.split("\n\n")
    assert rest == ""
    found = []
    for number, part in enumerate(parts, 1):
        match = FRAME.fullmatch(part)
        assert match is not None, part
        assert int(match[1]) == number
        found.append(json.loads(match[2]))
    return found


def tokens_of(usage: dict[str, Any]) -> int:
    """Return the output tokens in the usage of an application's or a model's frame."""
    return sum(counts.get("output_tokens", 0) for counts in [usage, *usage.get("models", [])])


def prompt_of(server: ModelServer) -> list[dict[str, Any]]:
    """Return the messages of the last request to the model."""
    messages: list[dict[str, Any]] = server.calls[-1].body["messages"]
    return messages


async def test_a_response_without_a_stream(tmp_path: Path, model_server: ModelServer) -> None:
    async with client_of(write_dashscope_flow(tmp_path, model_server.url)) as client:
        response = await client.post(PATH, json=body("Who are you?"), headers={"X-Request-Id": "r-1"})
        without_options = await client.post(PATH, json={"input": {"prompt": "Who are you?"}})
    assert response.status_code == 200
    content = response.json()
    session_id = content["output"].pop("session_id")
    assert re.fullmatch("[0-9a-f]{32}", session_id)
    assert response.headers["chat-session-id"] == session_id
    assert content == {
        "output": {"finish_reason": "stop", "text": "You said: Who are you?"},
        "usage": {"models": [{"input_tokens": 11, "output_tokens": 7, "model_id": "stand-in"}]},
        "request_id": "r-1",
    }
    assert without_options.json()["output"]["text"] == "You said: Who are you?"


async def test_a_stream_is_cumulative_by_default(tmp_path: Path, model_server: ModelServer) -> None:
    async with client_of(write_dashscope_flow(tmp_path, model_server.url)) as client:
        response = await client.post(PATH, json=body(), headers={**SSE, "X-Request-Id": "r-1"})
    session_id = response.headers["chat-session-id"]
    texts = [("null", "You "), ("null", "You said: "), ("null", "You said: hi"), ("stop", "You said: hi")]
    usage = '{"models":[{"input_tokens":11,"output_tokens":7,"model_id":"stand-in"}]}'
    assert response.text == "".join(
        f"id:{number}\nevent:result\n:HTTP_STATUS/200\n"
        f'data:{{"output":{{"session_id":"{session_id}","finish_reason":"{reason}","text":"{text}"}},'
        f'"usage":{usage if reason == "stop" else "{}"},"request_id":"r-1"}}\n\n'
        for number, (reason, text) in enumerate(texts, 1)
    )


async def test_an_incremental_stream_has_only_new_text(tmp_path: Path, model_server: ModelServer) -> None:
    async with client_of(write_dashscope_flow(tmp_path, model_server.url)) as client:
        request = body(parameters={"incremental_output": True})
        found = frames(await client.post(PATH, json=request, headers={"Accept": "text/event-stream"}))
    assert [frame["output"]["text"] for frame in found] == ["You ", "said: ", "hi", ""]
    assert [frame["output"]["finish_reason"] for frame in found] == ["null", "null", "null", "stop"]
    assert len({(frame["output"]["session_id"], frame["request_id"]) for frame in found}) == 1


async def test_an_output_that_does_not_stream_is_one_frame(tmp_path: Path) -> None:
    dag = """
    inputs:
      question: {type: string, is_chat_input: true}
    outputs:
      answer: {type: object, reference: {said: "${inputs.question}", as: "${n.output}"}, is_chat_output: true}
    nodes:
    - {name: n, type: template, template: "text"}
    """
    async with client_of(write_flow(tmp_path, dag)) as client:
        found = frames(await client.post(PATH, json=body(), headers=SSE))
        unstreamed = (await client.post(PATH, json=body())).json()
    assert [frame["output"]["text"] for frame in found] == ['{"said":"hi","as":"text"}'] * 2
    assert unstreamed["output"]["text"] == '{"said":"hi","as":"text"}'
    assert unstreamed["usage"] == {}


async def test_biz_params_become_typed_inputs(tmp_path: Path, model_server: ModelServer) -> None:
    async with client_of(write_dashscope_flow(tmp_path, model_server.url)) as client:
        response = await client.post(PATH, json=body(biz_params={"city": "Hangzhou", "days": "3"}))
        wrong = await client.post(PATH, json=body(biz_params={"days": "many"}))
        unknown = await client.post(PATH, json=body(biz_params={"town": "Hangzhou"}))
        twice = await client.post(PATH, json=body(biz_params={"question": "another"}))
    assert response.status_code == 200
    assert "city=Hangzhou days=3" in prompt_of(model_server)[0]["content"]
    assert [found.status_code for found in (wrong, unknown, twice)] == [400, 400, 400]
    assert wrong.json()["message"] == "input 'days': expected an integer, got 'many'"
    assert "no input 'town'" in unknown.json()["message"]
    assert "is the prompt; leave it out here" in twice.json()["message"]


async def test_plugins_get_their_params_and_tokens(tmp_path: Path, model_server: ModelServer) -> None:
    for code in ("your_plugin_code", "{your_plugin_code}"):
        biz = {"user_defined_params": {code: {"article_index": 2}}}
        async with client_of(write_dashscope_flow(tmp_path, model_server.url)) as client:
            await client.post(PATH, json=body(biz_params=biz))
            assert "article=2 allowed=False" in prompt_of(model_server)[0]["content"]
            biz["user_defined_tokens"] = {"your_plugin_code": {"user_token": "YOUR_TOKEN"}}  # type: ignore[dict-item]
            await client.post(PATH, json=body(biz_params=biz))
            assert "article=2 allowed=True" in prompt_of(model_server)[0]["content"]
            await client.post(PATH, json=body())
            assert "article=None allowed=False rag=None bases=None" in prompt_of(model_server)[0]["content"]
            # Other protocols have nothing of that sort.
            await client.post("/", json={"question": "hi"})
            assert "article=None allowed=False rag=None bases=None" in prompt_of(model_server)[0]["content"]


async def test_nodes_get_the_rag_options(tmp_path: Path, model_server: ModelServer) -> None:
    options = {"pipeline_ids": ["base"], "metadata_filter": {"name": "Tom"}, "tags": "phone", "file_ids": ["doc"]}
    await post(write_dashscope_flow(tmp_path, model_server.url), PATH, body(parameters={"rag_options": options}))
    assert f"rag={options} bases=['base']" in prompt_of(model_server)[0]["content"]


async def test_images_and_files_are_inputs(tmp_path: Path, model_server: ModelServer) -> None:
    files: dict[str, Any] = {"image_list": [PIXEL], "file_list": ["https://example.com/a.pdf"]}
    async with client_of(write_dashscope_flow(tmp_path, model_server.url)) as client:
        response = await client.post(PATH, json=body(**files))
        private = await client.post(PATH, json=body(file_list=["http://127.0.0.1/a.pdf"]))
    assert response.status_code == 200
    assert "picture=True report=https://example.com/a.pdf" in prompt_of(model_server)[0]["content"]
    assert (private.status_code, private.json()["code"]) == (400, "InvalidParameter")


async def test_a_client_can_send_its_own_history(tmp_path: Path, model_server: ModelServer) -> None:
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"text": "one"}]},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": [{"image": PIXEL}, {"text": "two"}]},
    ]
    history = [("user", "one"), ("assistant", "1"), ("user", "two")]
    async with client_of(write_dashscope_flow(tmp_path, model_server.url)) as client:
        for request in (
            body(None, messages=messages),
            body("two", messages=messages[:3]),
            body("two", history=[{"user": "one", "bot": "1"}]),
        ):
            assert (await client.post(PATH, json=request)).status_code == 200
            system, *others = prompt_of(model_server)
            assert [(message["role"], message["content"]) for message in others] == history
            assert system["content"].startswith("city=" if "history" in request["input"] else "Be kind.")


async def test_parameters_of_the_model_are_passed_on(tmp_path: Path, model_server: ModelServer) -> None:
    async with client_of(write_dashscope_flow(tmp_path, model_server.url)) as client:
        await client.post(PATH, json=body(parameters={"temperature": 0.3, "top_k": 5, "seed": 7}))
    assert model_server.calls[-1].body["temperature"] == 0.3
    assert "seed" not in model_server.calls[-1].body


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "input: is required"),
        ({"input": None}, "input: input should be an object"),
        ({"input": {"prompt": "hi", "biz_params": []}}, "input.biz_params: input should be an object"),
        ({"input": {}}, "input.prompt: a prompt or messages are required"),
        ({"input": {"prompt": ""}}, "input.prompt: a prompt or messages are required"),
        ({"input": {"prompt": 1}}, "input.prompt: input should be a valid string"),
        ({"input": {"prompt": "hi", "session_id": "short"}}, "input.session_id: not a session id"),
        ({"input": {"prompt": "hi"}, "parameters": {"flow_stream_mode": "none"}}, "parameters.flow_stream_mode: "),
        ({"input": {"messages": [{"role": "assistant", "content": "hi"}]}}, "the last message must be the user's"),
        ({"input": {"messages": ["hi"]}}, "input.messages.0: "),
        *(
            ({"input": {"messages": [{"role": "user", "content": content}]}}, f"input.messages.0.content{place}: ")
            for content, place in (
                ([{"text": "hi"}, {"image": 5}], ".1"),
                ([5], ".0"),
                ([{"text": None}], ".0"),
                ([{"text": 5}], ".0"),
                ([{"image": ""}], ".0"),
                ([{"text": "hi", "image": PIXEL}], ".0"),
                ([{"audio": "https://example.com/a.mp3"}], ".0"),
                ([{"type": "video"}], ".0"),
                (5, ""),
                ({"text": "hi"}, ""),
                ([], ""),
                ("", ""),
                (None, ""),
                ([{"text": ""}], ""),
            )
        ),
        ({"input": {"prompt": "hi", "image_list": [""]}}, "input.image_list.0: "),
        ({"input": {"prompt": "hi", "image_list": [5]}}, "input.image_list.0: "),
        (
            {"input": {"prompt": "hi", "file_list": ["https://e.com/a", "https://e.com/b"]}},
            "input.file_list.1: the flow",
        ),
        ({"input": {"prompt": "hi", "biz_params": {"user_defined_tokens": {"p": "T0KEN"}}}}, "input.biz_params.user"),
    ],
)
@pytest.mark.parametrize("headers", [{}, SSE])
async def test_an_invalid_request_is_an_error_in_dashscopes_shape(
    tmp_path: Path, model_server: ModelServer, content: dict[str, Any], message: str, headers: dict[str, str]
) -> None:
    response = await post(write_dashscope_flow(tmp_path, model_server.url), PATH, content, headers=headers)
    assert response.status_code == 400
    error = response.json()
    assert error.keys() == {"code", "message", "request_id"}
    assert error["code"] == "InvalidParameter"
    assert error["message"].startswith(message)
    assert error["request_id"] == response.headers["x-request-id"]
    assert "T0KEN" not in response.text


async def test_every_other_error_has_dashscopes_shape(tmp_path: Path, model_server: ModelServer) -> None:
    flow = write_dashscope_flow(tmp_path / "flow", model_server.url)
    options = {"tokens": ("t",), "max_body_bytes": 2000, "dashscope_app_ids": "YOUR_APP_ID,other"}
    plain = write_flow(tmp_path / "plain", "nodes:\n- {name: n, type: template, template: x}\n")
    async with client_of(flow, **options) as client, client_of(plain) as plain_client:  # type: ignore[arg-type]
        token = {"Authorization": "Bearer t"}
        found = [
            await client.post(PATH, json=body()),
            await client.post(PATH, json=body(), headers={"Authorization": "Bearer wrong"}),
            await client.post(PATH.replace("YOUR_APP_ID", "third"), json=body(), headers=token),
            await client.get(PATH, headers=token),
            await client.post("/api/v1/unknown", json=body(), headers=token),
            await client.post(PATH, content=b"{", headers=token),
            await client.post(PATH, json=body("x" * 3000), headers=token),
            await plain_client.post(PATH, json=body()),
        ]
        fine = await client.post(PATH.replace("YOUR_APP_ID", "other"), json=body(), headers=token)
    assert fine.status_code == 200
    assert [(response.status_code, response.json()["code"]) for response in found] == [
        (401, "InvalidApiKey"),
        (401, "InvalidApiKey"),
        (404, "NotFound"),
        (405, "InvalidParameter"),
        (404, "NotFound"),
        (400, "InvalidParameter"),
        (413, "InvalidParameter"),
        (404, "NotFound"),
    ]
    assert all(response.json().keys() == {"code", "message", "request_id"} for response in found)


@pytest.mark.parametrize(
    ("model", "status", "code"), [("fail:500", 500, "InternalError"), ("hang", 504, "GatewayTimeout")]
)
async def test_a_run_that_fails(tmp_path: Path, model_server: ModelServer, model: str, status: int, code: str) -> None:
    async with client_of(write_chat_flow(tmp_path, model_server.url, model, ", timeout_s: 0.3")) as client:
        unstreamed = await client.post(PATH, json=body())
        stream = await client.post(PATH, json=body(), headers={**SSE, "X-Request-Id": "r-1"})
    assert (unstreamed.status_code, unstreamed.json()["code"]) == (status, code)
    # DashScope's client repeats every other 5xx, and a flow that has run must not run again.
    assert unstreamed.headers["x-should-retry"] == "false"
    assert stream.status_code == 200
    message = unstreamed.json()["message"]
    assert stream.text == (
        f"id:1\nevent:error\n:HTTP_STATUS/{status}\nstatus:{status}\n"
        f"data:{json.dumps({'code': code, 'message': message, 'request_id': 'r-1'}, separators=(',', ':'))}\n\n"
    )


async def test_a_failing_stream_ends_with_an_error_frame(tmp_path: Path, model_server: ModelServer) -> None:
    response = await post(write_chat_flow(tmp_path, model_server.url, "break-off"), PATH, body(), headers=SSE)
    first, error, rest = response.text.split("\n\n")
    assert '"text":"only ha"' in first
    assert error.startswith("id:2\nevent:error\n:HTTP_STATUS/500\nstatus:500\ndata:{")
    assert rest == ""


async def test_usage_is_reported_per_model(tmp_path: Path, model_server: ModelServer) -> None:
    dag = """
    inputs:
      question: {type: string, is_chat_input: true}
    outputs:
      answer: {type: string, reference: "${second.output}", is_chat_output: true}
    nodes:
    - {name: first, type: llm, source: {path: p.jinja2}, connection: model, inputs: {model: echo, q: "${inputs.question}"}}
    - {name: second, type: llm, source: {path: p.jinja2}, connection: model, inputs: {model: two-answers, q: "${first.output}"}}
    - {name: third, type: llm, source: {path: p.jinja2}, connection: model, inputs: {model: length, q: "${inputs.question}"}}
    """
    flow = write_flow(
        tmp_path,
        dag,
        {
            "p.jinja2": "{{q}}",
            "connections.yaml": f"model: {{type: open_ai, base_url: '{model_server.url}', max_retries: 0}}\n",
        },
    )
    async with client_of(flow) as client:
        unstreamed = (await client.post(PATH, json=body())).json()
        found = frames(await client.post(PATH, json=body(), headers=SSE))
        thoughts = frames(await client.post(PATH, json=body(parameters={"has_thoughts": True}), headers=SSE))
        generated = frames(await client.post(GENERATION, json=body(), headers=SSE))
    last = found[-1]
    for streamed in (found, thoughts, generated):
        assert streamed[-2]["usage"] != {}  # the first model has reported its token counts
        assert [tokens_of(frame["usage"]) for frame in streamed] == sorted(
            tokens_of(frame["usage"]) for frame in streamed
        )
    assert tokens_of(thoughts[0]["usage"]) == 0 < tokens_of(thoughts[-2]["usage"]) <= tokens_of(thoughts[-1]["usage"])
    assert unstreamed["usage"] == {"models": [{"input_tokens": 33, "output_tokens": 21, "model_id": "stand-in"}]}
    assert last["usage"] == {"models": [{"input_tokens": 22, "output_tokens": 16, "model_id": "stand-in"}]}


@pytest.mark.parametrize("incremental", [True, False])
@pytest.mark.parametrize("has_thoughts", [True, False])
async def test_a_cumulative_stream_is_proportional_to_a_long_text(
    tmp_path: Path, model_server: ModelServer, incremental: bool, has_thoughts: bool
) -> None:
    full_text = "".join(f"w{number} " for number in range(4000))
    content = body(parameters={"incremental_output": incremental, "has_thoughts": has_thoughts})
    response = await post(write_chat_flow(tmp_path, model_server.url, "words:4000"), PATH, content, headers=SSE)
    found = frames(response)
    text = "".join(frame["output"]["text"] for frame in found) if incremental else found[-1]["output"]["text"]
    assert text == full_text
    # Repeating the text for every chunk would send 50 MB, or 100 MB with the thoughts.
    assert len(response.content) < (4_000_000 if incremental else 1_000 * len(full_text))
    assert len(found) > 500
