"""The calls that Model Studio's pages make with curl and Python's HTTP, against the served command."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.chat_flow import write_full_chat_flow
from tests.support.dashscope_flow import write_dashscope_flow
from tests.support.model_server import ModelServer, running_model_server
from tests.support.serving import Served, serving

pytestmark = pytest.mark.needs("curl")
KEY = "sk-test"
APP = "/api/v1/apps/YOUR_APP_ID/completion"
TEXT = "/api/v1/services/aigc/text-generation/generation"
MULTIMODAL = "/api/v1/services/aigc/multimodal-generation/generation"
PLUGIN: dict[str, Any] = {"{your_plugin_code}": {"article_index": 2}}
TOKEN: dict[str, Any] = {"{your_plugin_code}": {"user_token": "YOUR_TOKEN"}}
IMAGE = "https://example.com/products.png"


@pytest.fixture(scope="module")
def model() -> Iterator[ModelServer]:
    with running_model_server() as server:
        yield server


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, model: ModelServer) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("dashscope")
    with serving(write_dashscope_flow(folder / "flow", model.url), folder, FLOWPOD_TOKENS=KEY) as running:
        yield running


def curl(url: str, content: dict[str, Any], *options: str, key: str = KEY) -> str:
    """Post with curl as the pages do, and return what it prints."""
    headers = ("--header", f"Authorization: Bearer {key}", "--header", "Content-Type: application/json")
    command = ["curl", "--silent", "-X", "POST", url, *headers, *options, "--data", json.dumps(content)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout


def app_body(
    prompt: str, parameters: dict[str, Any] | None = None, *, debug: bool = True, **more: Any
) -> dict[str, Any]:
    shown: dict[str, Any] = {"debug": {}} if debug else {}
    return {"input": {"prompt": prompt, **more}, "parameters": parameters or {}, **shown}


def system_message(server: ModelServer) -> str:
    return str(server.calls[-1].body["messages"][0]["content"])


def test_one_question(served: Served) -> None:
    answer = json.loads(curl(served.url + APP, app_body("Who are you?")))
    assert answer["output"]["text"] == "You said: Who are you?"
    assert answer["usage"] == {"models": [{"output_tokens": 7, "model_id": "stand-in", "input_tokens": 11}]}


def test_several_turns(served: Served, model: ModelServer) -> None:
    first = json.loads(curl(served.url + APP, app_body("I want to visit Singapore")))
    session_id = first["output"]["session_id"]
    second = json.loads(curl(served.url + APP, app_body("What are the foods there?", session_id=session_id)))
    assert second["output"]["session_id"] == session_id
    assert len(model.calls[-1].body["messages"]) == 4


def test_a_stream(served: Served) -> None:
    stream = curl(served.url + APP, app_body("Who are you?"), "--no-buffer", "--header", "X-DashScope-SSE: enable")
    first, *others, last, rest = stream.split("\n\n")
    assert first.startswith('id:1\nevent:result\n:HTTP_STATUS/200\ndata:{"output":{"session_id":"')
    assert [frame.split("\n")[0] for frame in (*others, last)] == [f"id:{number}" for number in range(2, 7)]
    assert '"finish_reason":"stop","text":"You said: Who are you?"' in last
    assert rest == ""


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (app_body("Divisions of this city", biz_params={"city": "Hangzhou"}, debug=False), "city=Hangzhou"),
        (app_body("Divisions of this city", biz_params={"city": "convention"}, debug=False), "city=convention"),
        (app_body("Convention content", biz_params={"user_defined_params": PLUGIN}), "article=2 allowed=False"),
        (
            app_body("Convention content", biz_params={"user_defined_params": PLUGIN, "user_defined_tokens": TOKEN}),
            "article=2 allowed=True",
        ),
        (app_body("A phone", {"rag_options": {"pipeline_ids": ["your_pipeline_id1"]}}), "bases=['your_pipeline_id1']"),
        (
            app_body(
                "A phone",
                {
                    "rag_options": {
                        "pipeline_ids": ["your_pipeline_id1"],
                        "metadata_filter": {"name": "Tom"},
                        "tags": "phone",
                    }
                },
            ),
            "rag={'pipeline_ids': ['your_pipeline_id1'], 'metadata_filter': {'name': 'Tom'}, 'tags': 'phone'}",
        ),
    ],
)
def test_what_a_caller_passes_on(served: Served, model: ModelServer, content: dict[str, Any], expected: str) -> None:
    app = APP.replace("YOUR_APP_ID", "{YOUR_APP_ID}")  # some samples have it so, which curl takes for a list of one
    assert json.loads(curl(served.url + app, content))["output"]["finish_reason"] == "stop"
    assert expected in system_message(model)
    # The pages' other languages leave `parameters` and `debug` out.
    assert json.loads(curl(served.url + APP, {"input": content["input"]}))["output"]["finish_reason"] == "stop"


def test_generation(served: Served) -> None:
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Who are you?"},
    ]
    content = {"model": "qwen-plus", "input": {"messages": messages}, "parameters": {"result_format": "message"}}
    answer = json.loads(curl(served.url + TEXT, content, "--location"))
    assert answer["output"]["choices"] == [
        {"finish_reason": "stop", "message": {"role": "assistant", "content": "You said: Who are you?"}}
    ]
    assert answer["usage"] == {"total_tokens": 18, "output_tokens": 7, "input_tokens": 11}


def test_multimodal_generation(tmp_path: Path, model: ModelServer) -> None:
    asked = [{"role": "user", "content": [{"image": IMAGE}, {"text": "What is shown in the image?"}]}]
    flow = write_full_chat_flow(tmp_path / "flow", model.url, "echo")
    with serving(flow, tmp_path, FLOWPOD_TOKENS=KEY) as served:
        content = {"model": "qwen3.6-plus", "input": {"messages": asked}}
        answer = json.loads(curl(served.url + MULTIMODAL, content))
    assert answer["output"]["choices"][0]["message"]["content"] == [{"text": "You said: What is shown in the image?"}]
    assert {"type": "image_url", "image_url": {"url": IMAGE, "detail": "auto"}} in model.calls[-1].messages[-1][
        "content"
    ]


def test_a_wrong_key(served: Served) -> None:
    wrong = curl(served.url + APP, app_body("hi"), key="wrong")
    assert json.loads(wrong).keys() == {"code", "message", "request_id"}
