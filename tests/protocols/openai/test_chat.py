import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.flows import client_of, post, write_chat_flow, write_flow
from tests.support.model_server import ModelServer

PATH = "/v1/chat/completions"


def ask(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "anything", "messages": [{"role": "user", "content": text}], **more}


def chunks(response: httpx.Response) -> list[Any]:
    """Return the data of a stream's frames, JSON decoded."""
    parts = response.text.split("\n\n")
    assert parts.pop() == ""
    assert all(part.startswith("data: ") and "\n" not in part for part in parts)
    texts = [part.removeprefix("data: ") for part in parts]
    return [text if text == "[DONE]" else json.loads(text) for text in texts]


async def test_a_stream_is_a_list_of_constant_chunks(chat_flow: Path) -> None:
    response = await post(chat_flow, PATH, ask("hi", stream=True))
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *parts, done = chunks(response)
    assert done == "[DONE]"
    assert [part["choices"][0]["delta"] for part in parts] == [
        {"role": "assistant", "content": ""},
        {"content": "You "},
        {"content": "said: "},
        {"content": "hi"},
        {"content": ""},
    ]
    assert [part["choices"][0]["finish_reason"] for part in parts] == [None, None, None, None, "stop"]
    assert all(part["choices"][0]["index"] == 0 for part in parts)
    constant = [{key: part[key] for key in ("id", "object", "created", "model", "usage")} for part in parts]
    assert all(values == constant[0] for values in constant)
    assert constant[0]["id"].startswith("chatcmpl-")
    assert (constant[0]["object"], constant[0]["model"], constant[0]["usage"]) == (
        "chat.completion.chunk",
        "echo",
        None,
    )


@pytest.mark.parametrize(
    ("options", "with_usage"),
    [({"include_usage": True}, True), ({"include_usage": False}, False), ({}, False), (None, False)],
)
async def test_usage_is_sent_on_request(chat_flow: Path, options: dict[str, bool] | None, with_usage: bool) -> None:
    *parts, done = chunks(await post(chat_flow, PATH, ask("hi", stream=True, stream_options=options)))
    assert done == "[DONE]"
    usage = [part for part in parts if not part["choices"]]
    assert len(usage) == int(with_usage)
    if usage:
        assert usage == [parts[-1]]
        assert parts[-1]["usage"] == {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


async def test_a_completion_without_a_stream(chat_flow: Path) -> None:
    content = (await post(chat_flow, PATH, ask("hi"))).json()
    assert content.pop("id").startswith("chatcmpl-")
    assert content.pop("created") > 1_700_000_000
    assert content == {
        "object": "chat.completion",
        "model": "echo",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "You said: hi"},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
        "system_fingerprint": None,
    }


async def test_reasoning_and_finish_reason_are_sent(tmp_path: Path, model_server: ModelServer) -> None:
    async with client_of(write_chat_flow(tmp_path / "a", model_server.url, "reasoning")) as client:
        reasoning = chunks(await client.post(PATH, json=ask("hi", stream=True)))
    async with client_of(write_chat_flow(tmp_path / "b", model_server.url, "length")) as client:
        length = chunks(await client.post(PATH, json=ask("hi", stream=True)))
    unstreamed = (await post(write_chat_flow(tmp_path / "c", model_server.url, "reasoning"), PATH, ask("hi"))).json()
    assert [part["choices"][0]["delta"] for part in reasoning[1:4]] == [
        {"reasoning_content": "let me "},
        {"reasoning_content": "think"},
        {"content": "forty-two"},
    ]
    assert length[-2]["choices"][0]["finish_reason"] == "length"
    assert unstreamed["choices"][0]["message"] == {
        "role": "assistant",
        "content": "forty-two",
        "reasoning_content": "let me think",
    }


async def test_an_error_in_a_stream_is_an_event(tmp_path: Path, model_server: ModelServer) -> None:
    async with client_of(write_chat_flow(tmp_path, model_server.url, "break-off")) as client:
        *_, text, error, done = chunks(await client.post(PATH, json=ask("hi", stream=True)))
    assert text["choices"][0]["delta"] == {"content": "only ha"}
    assert list(error) == ["error"]
    assert (error["error"]["code"], done) == ("model_broke_off", "[DONE]")


async def test_a_failed_run_without_a_stream_is_424(tmp_path: Path, model_server: ModelServer) -> None:
    response = await post(write_chat_flow(tmp_path, model_server.url, "fail:429"), PATH, ask("hi"))
    assert (response.status_code, response.json()["error"]["type"]) == (424, "node_error")


async def test_system_messages_become_instructions_only(chat_flow: Path, model_server: ModelServer) -> None:
    messages = [
        {"role": "system", "content": "Speak Latin."},
        {"role": "developer", "content": [{"type": "text", "text": "And softly."}]},
        {"role": "user", "content": "instructions?"},
    ]
    response = await post(chat_flow, PATH, {"messages": messages})
    assert response.json()["choices"][0]["message"]["content"] == "You said: instructions?"
    sent = next(c for c in model_server.calls if c.question == "instructions?").body["messages"]
    assert sent[0] == {"role": "system", "content": "Be brief. Speak Latin.\n\nAnd softly."}
    assert len(sent) == 2


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"content": "hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": "hi"}], "stream": "maybe"}, "stream"),
        ({"messages": [{"role": "user", "content": "hi"}], "temperature": "warm"}, "temperature"),
        ({"messages": [{"role": "user", "content": "hi"}], "seed": 1.5}, "seed"),
        ({"messages": [{"role": "user", "content": "hi"}], "inputs": "none"}, "inputs"),
        ({"messages": [{"role": "user", "content": "hi"}], "inputs": {"question": "hi"}}, "inputs.question"),
        ({"messages": [{"role": "user", "content": "hi"}], "inputs": {"other": "hi"}}, "other"),
    ],
)
async def test_bad_bodies_name_the_field(chat_flow: Path, body: dict[str, Any], param: str) -> None:
    response = await post(chat_flow, PATH, body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_models_are_the_service_and_default(chat_flow: Path) -> None:
    async with client_of(chat_flow) as client:
        content = (await client.get("/v1/models")).json()
    assert content["object"] == "list"
    assert [model["id"] for model in content["data"]] == ["test", "default"]
    assert all(model["object"] == "model" and isinstance(model["created"], int) for model in content["data"])


async def test_a_flow_without_a_chat_input_has_no_openai_api(tmp_path: Path) -> None:
    dag = """
    inputs:
      text: {type: string}
    outputs:
      out: {type: string, reference: "${inputs.text}"}
    nodes:
    - {name: prompt, type: prompt, source: {path: p.jinja2}}
    """
    async with client_of(write_flow(tmp_path, dag, {"p.jinja2": "hi"})) as client:
        answers = [await client.post(PATH, json=ask("hi")), await client.get("/v1/models")]
    for response in answers:
        assert (response.status_code, response.json()["error"]["code"]) == (404, "not_a_chat_flow")
        assert "is_chat_input" in response.json()["error"]["message"]


async def test_the_model_name_defaults_to_the_service_name(tmp_path: Path) -> None:
    dag = """
    inputs:
      question: {type: string, is_chat_input: true}
    outputs:
      answer: {type: object, reference: "${count.output}", is_chat_output: true}
    nodes:
    - {name: count, type: python, source: {path: count.py}, inputs: {question: "${inputs.question}"}}
    """
    code = """
    def invoke(question):
        return {"length": len(question)}
    """
    content = (await post(write_flow(tmp_path, dag, {"count.py": code}), PATH, ask("hi"))).json()
    assert content["model"] == "test"
    assert content["choices"][0]["message"]["content"] == '{"length":2}'
