import json
from pathlib import Path

from tests.support.flows import client_of, post, write_chat_flow, write_flow
from tests.support.model_server import ModelServer


async def test_a_json_response_has_only_the_outputs(chat_flow: Path) -> None:
    response = await post(chat_flow, "/", {"question": "hi"})
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    assert response.text == '{"answer":"You said: hi"}'


async def test_stream_has_an_empty_first_and_last_frame(chat_flow: Path) -> None:
    response = await post(chat_flow, "/", {"question": "hi"}, headers={"Accept": "text/event-stream"})
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache, no-transform"
    assert response.content == b"".join(
        f'event: Message\ndata: {{"answer":"{delta}"}}\n\n'.encode() for delta in ("", "You ", "said: ", "hi", "")
    )


async def test_an_output_that_does_not_stream_is_one_frame(tmp_path: Path) -> None:
    dag = """
    outputs:
      text: {type: string, reference: "${talk.output}"}
      number: {type: int, reference: "${count.output}"}
    nodes:
    - {name: talk, type: python, source: {path: talk.py}}
    - {name: count, type: python, source: {path: count.py}, inputs: {text: "${talk.output}"}}
    """
    talk_code = """
    async def invoke():
        yield "ab"
    """
    count_code = """
    def invoke(text):
        return len(text)
    """
    async with client_of(write_flow(tmp_path, dag, {"talk.py": talk_code, "count.py": count_code})) as client:
        response = await client.post("/", json={}, headers={"Accept": "text/event-stream"})
        single = await client.post("/", json={})
    assert response.text == "".join(
        f"event: Message\ndata: {data}\n\n" for data in ('{"text":""}', '{"text":"ab"}', '{"text":""}', '{"number":2}')
    )
    assert single.json() == {"text": "ab", "number": 2}


async def test_a_failing_stream_ends_with_an_error_frame(tmp_path: Path, model_server: ModelServer) -> None:
    async with client_of(write_chat_flow(tmp_path, model_server.url, "error-in-stream")) as client:
        response = await client.post("/", json={"question": "hi"}, headers={"Accept": "text/event-stream"})
    assert response.status_code == 200
    *messages, last = response.text.removesuffix("\n\n").split("\n\n")
    assert messages == ['event: Message\ndata: {"answer":""}', 'event: Message\ndata: {"answer":"so far "}']
    name, data = last.split("\n")
    assert name == "event: Error"
    error = json.loads(data.removeprefix("data: "))["error"]
    assert error["message"] == "node 'reply': the model returned an error"
    assert (error["type"], error["param"], error["code"]) == ("node_error", "reply", "model_error")


async def test_a_failure_without_a_stream_is_424(tmp_path: Path, model_server: ModelServer) -> None:
    response = await post(write_chat_flow(tmp_path, model_server.url, "fail:503"), "/", {"question": "hi"})
    assert (response.status_code, response.json()["error"]["code"]) == (424, "model_error")
    assert response.json()["error"]["message"] == "node 'reply': the model answered with status 503"


async def test_reasoning_is_not_sent(tmp_path: Path, model_server: ModelServer) -> None:
    async with client_of(write_chat_flow(tmp_path, model_server.url, "reasoning")) as client:
        response = await client.post("/", json={"question": "hi"}, headers={"Accept": "text/event-stream"})
    assert response.text.count("event: Message") == 3
    assert "think" not in response.text
