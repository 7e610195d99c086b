"""Requests as chat applications send them, which cannot be driven here: the files in `recorded`."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.chat_flow import write_full_chat_flow
from tests.support.flows import client_of
from tests.support.model_server import ModelServer
from tests.support.serving import ROOT, turns

FOLDER = ROOT / "tests" / "clients" / "recorded"
RECORDS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


@pytest.mark.parametrize("name", RECORDS)
async def test_a_recorded_request_is_answered(tmp_path: Path, model_server: ModelServer, name: str) -> None:
    record = RECORDS[name]
    flow = write_full_chat_flow(tmp_path / "flow", model_server.url, "echo")
    async with client_of(flow, data=tmp_path / "data", openwebui_sessions="on") as client:
        models = (await client.get("/v1/models", headers=record["headers"])).json()
        assert [model["id"] for model in models["data"]] == ["test", "default"]
        response = await client.post("/v1/chat/completions", json=record["body"], headers=record["headers"])
    assert response.status_code == 200, response.text
    answer = streamed(response.text) if record["body"]["stream"] else whole(response.json())
    last = record["body"]["messages"][-1]["content"]
    text = last if isinstance(last, str) else last[0]["text"]
    assert answer == f"You said: {text}"
    assert bool(turns(tmp_path, "test")) is record["stored"]
    asks_for_usage = not record["body"]["stream"] or "stream_options" in record["body"]
    assert ('"total_tokens":18' in response.text) is asks_for_usage


def whole(body: dict[str, Any]) -> str:
    assert body["choices"][0]["message"]["role"] == "assistant"
    return str(body["choices"][0]["message"]["content"])


def streamed(text: str) -> str:
    *frames, done, end = text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    choices = [choice for frame in frames for choice in json.loads(frame.removeprefix("data: "))["choices"]]
    assert choices[-1]["finish_reason"] == "stop"
    return "".join(choice["delta"]["content"] for choice in choices)
