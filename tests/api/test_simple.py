from pathlib import Path

from tests.support.flows import client_of, write_chat_flow
from tests.support.model_server import ModelServer


async def test_json_answer_holds_the_outputs_alone(tmp_path: Path, model_server: ModelServer) -> None:
    async with client_of(write_chat_flow(tmp_path, model_server.url)) as client:
        response = await client.post("/", json={"question": "hi"})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.text == '{"answer":"You said: hi"}'


async def test_stream_has_an_empty_first_and_last_frame(tmp_path: Path, model_server: ModelServer) -> None:
    async with client_of(write_chat_flow(tmp_path, model_server.url)) as client:
        response = await client.post("/", json={"question": "hi"}, headers={"Accept": "text/event-stream"})
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache, no-transform"
    assert response.content == b"".join(
        f'event: Message\ndata: {{"answer":"{delta}"}}\n\n'.encode() for delta in ("", "You ", "said: ", "hi", "")
    )
