"""DashScope's model calls: text generation and multimodal generation."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.protocols.dashscope.test_application import PIXEL, SSE, frames, prompt_of
from tests.support.chat_flow import write_full_chat_flow
from tests.support.flows import SESSION, client_of, post, write_chat_flow
from tests.support.model_server import ModelServer

TEXT = "/api/v1/services/aigc/text-generation/generation"
MULTIMODAL = "/api/v1/services/aigc/multimodal-generation/generation"
MESSAGES = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}]
USAGE = {"total_tokens": 18, "output_tokens": 7, "input_tokens": 11}


def body(messages: Any = MESSAGES, **parameters: Any) -> dict[str, Any]:
    return {"model": "qwen-plus", "input": {"messages": messages}, "parameters": parameters}


async def test_text_generation_without_a_stream(chat_flow: Path, model_server: ModelServer) -> None:
    async with client_of(chat_flow) as client:
        message = await client.post(TEXT, json=body(result_format="message"), headers={"X-Request-Id": "r-1"})
        messages = prompt_of(model_server)
        text = await client.post(TEXT, json={"input": {"prompt": "hi"}})
    choice = {"finish_reason": "stop", "message": {"role": "assistant", "content": "You said: hi"}}
    assert message.json() == {"output": {"choices": [choice]}, "usage": USAGE, "request_id": "r-1"}
    assert messages == [{"role": "system", "content": "Be brief. Be kind."}, {"role": "user", "content": "hi"}]
    assert text.json()["output"] == {"text": "You said: hi", "finish_reason": "stop"}


@pytest.mark.parametrize(
    ("incremental", "texts"),
    [(False, ["You ", "You said: ", "You said: hi", "You said: hi"]), (True, ["You ", "said: ", "hi", ""])],
)
async def test_streams(chat_flow: Path, incremental: bool, texts: list[str]) -> None:
    async with client_of(chat_flow) as client:
        options = {"incremental_output": incremental}
        message = frames(await client.post(TEXT, json=body(result_format="message", **options), headers=SSE))
        text = frames(await client.post(TEXT, json=body(**options), headers=SSE))
        parts = frames(await client.post(MULTIMODAL, json=body(**options), headers=SSE))
    assert [frame["output"]["choices"][0]["message"]["content"] for frame in message] == texts
    assert [frame["output"]["text"] for frame in text] == texts
    assert [frame["output"]["choices"][0]["message"]["content"] for frame in parts] == [[{"text": t}] for t in texts]
    for found in (message, parts):
        assert [frame["output"]["choices"][0]["finish_reason"] for frame in found] == ["null"] * 3 + ["stop"]
    assert text[-1]["usage"] == USAGE


async def test_reasoning_and_the_finish_reason_are_sent(tmp_path: Path, model_server: ModelServer) -> None:
    async with client_of(write_chat_flow(tmp_path / "a", model_server.url, "reasoning")) as client:
        content = body(result_format="message", incremental_output=True)
        streamed = frames(await client.post(TEXT, json=content, headers=SSE))
        unstreamed = (await client.post(TEXT, json=content)).json()
    length = frames(await post(write_chat_flow(tmp_path / "b", model_server.url, "length"), TEXT, body(), headers=SSE))
    messages = [frame["output"]["choices"][0]["message"] for frame in streamed]
    assert [message.get("reasoning_content", "") for message in messages] == ["let me ", "think", "", ""]
    assert unstreamed["output"]["choices"][0]["message"] == {
        "role": "assistant",
        "content": "forty-two",
        "reasoning_content": "let me think",
    }
    assert length[-1]["output"] == {"text": "cut off", "finish_reason": "length"}


async def test_the_flow_gets_images_inputs_and_history(tmp_path: Path, model_server: ModelServer) -> None:
    messages = [
        {"role": "user", "content": [{"text": "one"}]},
        {"role": "assistant", "content": [{"text": "1"}]},
        {"role": "user", "content": [{"image": PIXEL}, {"text": "two"}]},
    ]
    async with client_of(write_full_chat_flow(tmp_path, model_server.url, "echo"), data=tmp_path) as client:
        headers = {"Chat-Session-Id": SESSION}
        content = body(messages, inputs={"city": "Ulm"}, temperature=0.4)
        response = await client.post(MULTIMODAL, json=content, headers=headers)
        twice = await client.post(MULTIMODAL, json=body(messages, inputs={"question": "x"}))
        sessions = (await client.get("/chat/sessions")).json()["data"]
    assert response.json()["output"]["choices"][0]["message"]["content"] == [{"text": "You said: two"}]
    system, one, answer, two = model_server.calls[-1].body["messages"]
    assert [system["content"], one["content"], answer["content"]] == ["They live in Ulm.", "one", "1"]
    assert two["content"] == [
        {"type": "text", "text": "two"},
        {"type": "image_url", "image_url": {"url": PIXEL, "detail": "auto"}},
    ]
    assert model_server.calls[-1].body["temperature"] == 0.4
    assert twice.status_code == 400
    assert [session["session_id"] for session in sessions] == [SESSION]


async def test_errors_have_dashscopes_shape(tmp_path: Path, model_server: ModelServer) -> None:
    async with client_of(write_chat_flow(tmp_path, model_server.url, "fail:500"), tokens=("t",)) as client:
        refused = await client.post(TEXT, json=body())
        token = {"Authorization": "Bearer t"}
        failed = await client.post(MULTIMODAL, json=body(), headers=token)
        stream = await client.post(TEXT, json=body(), headers={**token, **SSE})
        wrong = await client.post(TEXT, json=body([]), headers=token)
    assert [(r.status_code, r.json()["code"]) for r in (refused, failed, wrong)] == [
        (401, "InvalidApiKey"),
        (500, "InternalError"),
        (400, "InvalidParameter"),
    ]
    assert failed.headers["x-should-retry"] == "false"
    opening, data = stream.text.split("data:")
    assert opening == "id:1\nevent:error\n:HTTP_STATUS/500\nstatus:500\n"
    assert json.loads(data)["code"] == "InternalError"
