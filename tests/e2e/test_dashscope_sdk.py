"""The real dashscope package against the served command: both of its clients for applications, and those of models.

The calls are those of Model Studio's pages on calling applications, on passing parameters through, and on text
generation; only the address and the key are others.
"""

import asyncio
import re
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import dashscope
import dashscope.aigc.generation
import pytest
from dashscope.api_entities.aio_session import close_shared_aio_session
from dashscope.api_entities.http_request import close_shared_sync_session
from dashscope.v2.client import AsyncClient, Client
from dashscope.v2.errors import AuthenticationError, BadRequestError, DashScopeError, InternalServerError, NotFoundError

from tests.support.chat_flow import write_full_chat_flow
from tests.support.dashscope_flow import PLUGINS, write_dashscope_flow
from tests.support.flows import write_chat_flow
from tests.support.model_server import ModelServer, running_model_server
from tests.support.serving import ROOT, Served, serving

# What they return is declared as one of two things, by an argument.
Application: Any = dashscope.Application
Generation: Any = dashscope.Generation
AioGeneration: Any = dashscope.aigc.generation.AioGeneration
MultiModalConversation: Any = dashscope.MultiModalConversation

KEY = "sk-test"
PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
MESSAGES = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": "Who are you?"}]
HEX = re.compile("[0-9a-f]{32}")


@pytest.fixture(scope="module")
def model() -> Iterator[ModelServer]:
    with running_model_server() as server:
        yield server


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, model: ModelServer) -> Iterator[Served]:
    """The flow with a city, a plugin and retrieval options, behind a token."""
    folder = tmp_path_factory.mktemp("dashscope")
    flow = write_dashscope_flow(folder / "flow", model.url)
    with serving(flow, folder, FLOWPOD_TOKENS=KEY, FLOWPOD_DASHSCOPE_APP_IDS="YOUR_APP_ID") as running:
        yield running


@pytest.fixture
def base_url(served: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Point the classic clients at the server."""
    url = f"{served.url}/api/v1"
    monkeypatch.setattr(dashscope, "base_http_api_url", url)
    monkeypatch.setattr(dashscope, "api_key", KEY)
    yield url
    close_shared_sync_session()


@pytest.fixture
def client(base_url: str) -> Iterator[Client]:
    with Client(api_key=KEY, base_url=base_url) as made:
        yield made


def call(prompt: str = "Who are you?", **more: Any) -> Any:
    return Application.call(app_id="YOUR_APP_ID", prompt=prompt, **more)


def system_message(server: ModelServer) -> str:
    """Return what the flow told its model."""
    return str(server.calls[-1].body["messages"][0]["content"])


def test_one_question(base_url: str) -> None:
    response = call()
    assert (response.status_code, response.output.text) == (HTTPStatus.OK, "You said: Who are you?")
    assert (response.output.finish_reason, response.output.thoughts) == ("stop", None)
    assert HEX.fullmatch(response.output.session_id)
    (usage,) = response.usage.models
    assert (usage.model_id, usage.input_tokens, usage.output_tokens) == ("stand-in", 11, 7)
    assert response.request_id


def test_several_turns(base_url: str, model: ModelServer) -> None:
    first = call("I want to visit Singapore")
    second = call("What are the attractions and foods there?", session_id=first.output.session_id)
    assert (second.status_code, second.output.session_id) == (HTTPStatus.OK, first.output.session_id)
    assert [message["content"] for message in model.calls[-1].body["messages"][1:]] == [
        "I want to visit Singapore",
        "You said: I want to visit Singapore",
        "What are the attractions and foods there?",
    ]


@pytest.mark.parametrize(
    ("incremental", "texts"),
    [
        (None, ["You ", "You said: ", "You said: Hello", "You said: Hello"]),
        (True, ["You ", "said: ", "Hello", ""]),
        # The package asks for pieces here, and puts them together itself.
        (False, ["You ", "You said: ", "You said: Hello", "You said: Hello"]),
    ],
)
def test_a_stream(base_url: str, incremental: bool | None, texts: list[str]) -> None:
    responses = list(call("Hello", stream=True, incremental_output=incremental))
    assert all(response.status_code == HTTPStatus.OK for response in responses)
    assert [response.output.text for response in responses] == texts
    assert [response.output.finish_reason for response in responses] == ["null", "null", "null", "stop"]
    assert len({(response.request_id, response.output.session_id) for response in responses}) == 1
    assert responses[-1].usage.models[0].output_tokens == 7


def test_the_callers_parameters(base_url: str, model: ModelServer) -> None:
    for city in ("Singapore", "Hangzhou"):
        assert call("Divisions of this city", biz_params={"city": city}).status_code == HTTPStatus.OK
        assert f"city={city}" in system_message(model)
    for plugin in PLUGINS:
        biz: dict[str, Any] = {"user_defined_params": {plugin: {"article_index": 2}}}
        assert call("Convention content", biz_params=biz).status_code == HTTPStatus.OK
        assert "article=2 allowed=False" in system_message(model)
        biz["user_defined_tokens"] = {plugin: {"user_token": "YOUR_TOKEN"}}
        assert call("Convention content", biz_params=biz).status_code == HTTPStatus.OK
        assert "article=2 allowed=True" in system_message(model)
    assert call("A phone", rag_options={"pipeline_ids": ["base"], "tags": ["phone"]}).status_code == HTTPStatus.OK
    assert "bases=['base']" in system_message(model)
    assert call("A file", file_list=["https://example.com/a.pdf"]).status_code == HTTPStatus.OK
    assert "picture=False report=https://example.com/a.pdf" in system_message(model)
    assert call("A picture", image_list=[PIXEL]).status_code == HTTPStatus.OK
    assert "picture=True report=None" in system_message(model)
    assert call("Two files", file_list=["https://example.com/a.pdf"] * 2).code == "InvalidParameter"


def test_messages_and_history(base_url: str, model: ModelServer) -> None:
    talk = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "1"}]
    for more in ({"messages": talk}, {"history": [{"user": "one", "bot": "1"}]}):
        assert call("two", **more).output.text == "You said: two"
        assert [message["content"] for message in model.calls[-1].body["messages"][1:]] == ["one", "1", "two"]


def test_thoughts_and_messages_of_nodes(base_url: str) -> None:
    *others, last = call(stream=True, has_thoughts=True, flow_stream_mode="full_thoughts")
    assert [thought.response[:2] for thought in last.output.thoughts] == ['{"', '{"']
    assert last.output.text == "You said: Who are you?"
    for mode in ("message_format", "message_format_plus"):
        *others, last = call(stream=True, flow_stream_mode=mode)
        assert {response.output.workflow_message["node_type"] for response in others} >= {"End"}
        assert last.output.text == "You said: Who are you?"


def test_errors(base_url: str) -> None:
    wrong_key = call(api_key="sk-wrong")
    unknown = Application.call(app_id="another", prompt="hi")
    bad = call(biz_params={"town": "x"})
    (bad_stream,) = call(biz_params={"town": "x"}, stream=True)
    assert [(response.status_code, response.code) for response in (wrong_key, unknown, bad, bad_stream)] == [
        (401, "InvalidApiKey"),
        (404, "NotFound"),
        (400, "InvalidParameter"),
        (400, "InvalidParameter"),
    ]
    assert bad.message.startswith("the flow has no input 'town'")
    assert bad.request_id


def test_the_newer_client(client: Client, model: ModelServer) -> None:
    create: Any = client.apps.completions.create
    whole = create(app_id="YOUR_APP_ID", prompt="Who are you?")
    assert (whole.text, whole.finish_reason) == ("You said: Who are you?", "stop")
    assert whole.usage.models[0].model_id == "stand-in"
    again = create(app_id="YOUR_APP_ID", prompt="Again", session_id=whole.session_id)
    assert again.session_id == whole.session_id
    assert len(model.calls[-1].body["messages"]) == 4
    events = list(create(app_id="YOUR_APP_ID", prompt="Hello", stream=True, incremental_output=True))
    assert [event.text for event in events] == ["You ", "said: ", "Hello", ""]
    biz = {"city": "Ulm", "user_defined_params": {PLUGINS[0]: {"article_index": 2}}}
    create(app_id="YOUR_APP_ID", prompt="hi", biz_params=biz, rag_options={"pipeline_ids": ["base"]})
    assert "city=Ulm" in system_message(model)
    assert "article=2" in system_message(model)
    assert "bases=['base']" in system_message(model)
    for mode in ("full_thoughts", "message_format", "message_format_plus"):
        options = {"flow_stream_mode": mode}
        *_, last = create(app_id="YOUR_APP_ID", prompt="hi", stream=True, has_thoughts=True, parameters=options)
        assert (last.text, last.finish_reason) == ("You said: hi", "stop")


async def test_the_newer_client_without_threads(base_url: str) -> None:
    async with AsyncClient(api_key=KEY, base_url=base_url) as client:
        create: Any = client.apps.completions.create
        whole = await create(app_id="YOUR_APP_ID", prompt="Hello")
        stream = await create(app_id="YOUR_APP_ID", prompt="Hello", stream=True)
        texts = [event.text async for event in stream]
        pieces = await create(app_id="YOUR_APP_ID", prompt="Hello", stream=True, incremental_output=True)
        new = [event.text async for event in pieces]
    assert whole.text == "You said: Hello"
    assert texts == ["You ", "You said: ", "You said: Hello", "You said: Hello"]
    assert new == ["You ", "said: ", "Hello", ""]


def test_errors_of_the_newer_client(base_url: str, client: Client) -> None:
    create: Any = client.apps.completions.create
    with pytest.raises(BadRequestError, match="the flow has no input 'town'") as bad:
        create(app_id="YOUR_APP_ID", prompt="hi", biz_params={"town": "x"})
    assert (bad.value.code, bad.value.status_code) == ("InvalidParameter", 400)
    assert bad.value.request_id
    with pytest.raises(NotFoundError):
        create(app_id="another", prompt="hi")
    with Client(api_key="sk-wrong", base_url=base_url) as other, pytest.raises(AuthenticationError):
        other.apps.completions.create(app_id="YOUR_APP_ID", prompt="hi")


@pytest.mark.parametrize("behaviour", ["fail:500", "break-off"])
def test_a_run_that_fails_is_not_repeated(tmp_path: Path, model: ModelServer, behaviour: str) -> None:
    flow = write_chat_flow(tmp_path / "flow", model.url, behaviour)
    before = len(model.calls_of(behaviour))
    with serving(flow, tmp_path) as served, Client(api_key="none", base_url=f"{served.url}/api/v1") as client:
        create: Any = client.apps.completions.create
        if behaviour == "fail:500":
            with pytest.raises(InternalServerError, match="the model answered with status 500"):
                create(app_id="any", prompt="hi")
            assert len(model.calls_of(behaviour)) - before == 1
        with pytest.raises(DashScopeError) as caught:
            list(create(app_id="any", prompt="hi", stream=True))
        assert caught.value.code == "InternalError"
        url = f"{served.url}/api/v1"
        *_, last = Application.call(app_id="any", prompt="hi", stream=True, api_key="none", base_address=url)
        assert (last.status_code, last.code) == (500, "InternalError")


def test_text_generation(base_url: str) -> None:
    response = Generation.call(model="qwen-plus", messages=MESSAGES, result_format="message")
    assert response.status_code == HTTPStatus.OK
    assert response.output.choices[0].message.content == "You said: Who are you?"
    assert (response.usage.input_tokens, response.usage.output_tokens) == (11, 7)
    for incremental, last in ((True, ""), (False, "You said: Who are you?"), (None, "You said: Who are you?")):
        responses = list(
            Generation.call(
                model="qwen-plus",
                messages=MESSAGES,
                result_format="message",
                stream=True,
                incremental_output=incremental,
            )
        )
        assert responses[-1].output.choices[0].message.content == last
        assert responses[-1].output.choices[0].finish_reason == "stop"
    assert Generation.call(model="qwen-plus", prompt="hi").output.text == "You said: hi"


async def test_text_generation_of_many_at_once(base_url: str) -> None:
    async def ask(question: str) -> str:
        messages = [MESSAGES[0], {"role": "user", "content": question}]
        response = await AioGeneration.call(model="qwen-plus", messages=messages, result_format="message")
        return str(response.output.choices[0].message.content)

    async def told_of(question: str, incremental: bool | None) -> list[str]:
        responses = await AioGeneration.call(
            model="qwen-plus", prompt=question, stream=True, incremental_output=incremental, result_format="message"
        )
        return [response.output.choices[0].message.content async for response in responses]

    questions = ["Who are you?", "What can you do?", "What's the weather like?"]
    try:
        assert await asyncio.gather(*map(ask, questions)) == [f"You said: {question}" for question in questions]
        assert await told_of("hi", True) == ["You ", "said: ", "hi", ""]
        for incremental in (None, False):
            assert (await told_of("hi", incremental))[-1] == "You said: hi"
    finally:
        await close_shared_aio_session()


def test_multimodal_generation(base_url: str, model: ModelServer) -> None:
    content = [{"image": PIXEL}, {"text": "What is shown?"}]
    ask: dict[str, Any] = {"model": "qwen", "messages": [{"role": "user", "content": content}]}
    response = MultiModalConversation.call(**ask)
    assert response.output.choices[0].message.content[0]["text"] == "You said: What is shown?"
    assert "picture=True" in system_message(model)
    whole = ["You ", "You said: ", "You said: What ", "You said: What is ", *["You said: What is shown?"] * 2]
    for incremental, texts in ((None, whole), (True, ["You ", "said: ", "What ", "is ", "shown?", ""]), (False, whole)):
        said = []
        for response in MultiModalConversation.call(**ask, stream=True, incremental_output=incremental):
            (choice,) = response.output.choices
            said.append(choice.message.content[0]["text"] if choice.message.content else "")  # it changes them later
        assert said == texts
        assert (choice.finish_reason, response.usage.output_tokens) == ("stop", 7)


def test_multimodal_generation_of_an_image_at_an_address(
    tmp_path: Path, base_url: str, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "https://example.com/products.png"
    with serving(write_full_chat_flow(tmp_path / "flow", model.url, "echo"), tmp_path) as served:
        monkeypatch.setattr(dashscope, "base_http_api_url", f"{served.url}/api/v1")
        content = [{"image": url}, {"text": "What is shown?"}]
        response = MultiModalConversation.call(model="qwen", messages=[{"role": "user", "content": content}])
    assert response.output.choices[0].message.content[0]["text"] == "You said: What is shown?"
    assert {"type": "image_url", "image_url": {"url": url, "detail": "auto"}} in model.calls[-1].messages[-1]["content"]


def test_the_packaged_flow(tmp_path: Path) -> None:
    with serving(ROOT / "flow", tmp_path) as served:
        url = f"{served.url}/api/v1"
        response = Application.call(app_id="any", prompt="How do I rotate a token?", api_key="none", base_address=url)
    assert response.output.text.startswith("Several tokens are valid at once.")
    assert response.usage.models is None
