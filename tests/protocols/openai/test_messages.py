"""Messages of chat completions become inputs of a flow: the prompt, the history, images, and inputs by name."""

import base64
import json
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest

from flowpod.api.openai.messages import ChatFields, Message, is_side_request, read_conversation
from flowpod.errors import InvalidRequest
from tests.support.flows import post, write_flow
from tests.support.model_server import ModelServer

PATH = "/v1/chat/completions"
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n-pixels").decode()
DATA_URL = f"data:image/png;base64,{PNG}"
REMOTE = "https://example.com/a.jpg"
FIELDS = ChatFields("q", "a", "history")


def user(content: Any) -> Message:
    return Message(role="user", content=content)


def assistant(content: str) -> Message:
    return Message.model_validate({"role": "assistant", "content": content})


def system(content: str) -> Message:
    return Message.model_validate({"role": "system", "content": content})


def turn(prompt: str, answer: str) -> dict[str, dict[str, str]]:
    return {"inputs": {"q": prompt}, "outputs": {"a": answer}}


@pytest.mark.parametrize(
    ("messages", "prompt", "history", "user_turns"),
    [
        ([user("one")], "one", [], 1),
        ([user("one"), assistant("1"), user("two")], "two", [turn("one", "1")], 2),
        ([user("one"), user("more"), assistant("1"), user("two")], "two", [turn("one\nmore", "1")], 2),
        ([user("one"), assistant("1"), assistant("b"), user("two")], "two", [turn("one", "1\nb")], 2),
        ([user("one"), user("two")], "one\ntwo", [], 1),
        ([assistant("hello"), user("one")], "one", [turn("", "hello")], 1),
        ([user([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}])], "a", [], 1),
        ([Message.model_validate({"role": "tool", "content": "t"}), user("one")], "one", [], 1),
        ([user("one"), system("be brief")], "one", [], 1),
        ([user("one"), assistant("1"), system("sum it up")], "sum it up", [turn("one", "1")], 2),
    ],
)
def test_messages_become_prompt_history(
    messages: list[Message], prompt: str, history: list[Any], user_turns: int
) -> None:
    conversation = read_conversation(messages)
    assert FIELDS.inputs(conversation.prompt) == {"q": prompt}
    assert (FIELDS.history_turns(conversation), conversation.user_turns) == (history, user_turns)


@pytest.mark.parametrize(
    ("messages", "instructions"),
    [
        ([system("a"), user("one"), system("b")], "a\n\nb"),
        ([system("a"), user("one"), assistant("1"), system("sum it up")], "a"),
    ],
)
def test_system_messages_are_instructions_unless_one_is_the_prompt(messages: list[Message], instructions: str) -> None:
    assert read_conversation(messages).instructions == instructions


@pytest.mark.parametrize("messages", [[user("one"), assistant("1")], [system("a"), system("b")]])
def test_a_last_message_that_is_not_the_users_is_rejected(messages: list[Message]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_conversation(messages)
    assert caught.value.param == "messages.1.role"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url"},
        {"type": "image_url", "image_url": {}},
        {"type": "image_url", "image_url": 5},
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        {"type": "text", "text": None},
        "text",
        None,
    ],
)
def test_invalid_and_unknown_parts_are_ignored(part: Any) -> None:
    assert FIELDS.inputs(user([{"type": "text", "text": "a"}, part]).content)["q"].strip() == "a"


@pytest.mark.parametrize(
    ("url", "image"),
    [
        ({"url": DATA_URL, "detail": "low"}, {"data:image/png;base64": PNG}),
        (DATA_URL, {"data:image/png;base64": PNG}),
        ({"url": f"data:image/png;name=a.png;base64,{PNG}"}, {"data:image/png;base64": PNG}),
        ({"url": REMOTE}, {"data:image/*;url": REMOTE}),
    ],
)
def test_images_get_the_format_of_promptflow(url: Any, image: dict[str, str]) -> None:
    parts = user(["ignored", {"type": "image_url", "image_url": url}, {"type": "text", "text": "what?"}]).content
    assert ChatFields("q", "a", takes_parts=True).inputs(parts) == {"q": [image, "what?"]}
    assert ChatFields("q", "a", images="all").inputs(parts) == {"q": "what?", "all": [image]}
    assert ChatFields("q", "a", single_images=("first", "second")).inputs(parts) == {"q": "what?", "first": image}
    assert FIELDS.inputs(parts) == {"q": "what?"}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([user("### Task:\nName this.\n<chat_history>\nhi\n</chat_history>")], True),
        ([user("Based on the chat history, give this conversation a name. It is about tea.")], True),
        ([user("hi"), assistant("hello"), user("Please generate a four to five word title, no more")], True),
        ([user("hi"), assistant("hello"), system("Summarize the discussion briefly in 200 words.")], True),
        ([system("You are an assistant skilled in conversation: give a title."), user("hi")], True),
        ([user("hi"), assistant("hello"), user("使用四到五个字直接返回这句话的简要主题,不要解释")], True),
        ([user("hi"), assistant("hello"), system("简要总结一下对话内容,控制在 200 字以内")], True),
        ([system("Summarize the conversation into a title in English within 10 words"), user("hi")], True),
        ([user("简要总结一下这本书")], False),
        ([user("### Task: write a poem")], False),
        ([system("You are an assistant skilled in conversation."), user("hi")], False),
        ([user("Please generate a title")], False),
    ],
)
def test_side_requests_of_chat_clients_are_recognised(messages: list[Message], expected: bool) -> None:
    assert is_side_request(messages) is expected


FLOW = """
inputs:
  question: {{type: {chat_type}, is_chat_input: true}}
  chat_history: {{type: list, default: [], is_chat_history: true}}
{inputs}
outputs:
  answer: {{type: string, reference: "${{reply.output}}", is_chat_output: true}}
nodes:
- name: reply
  type: llm
  source: {{path: reply.jinja2}}
  connection: model
  inputs: {{model: echo, tag: {tag}, question: "${{inputs.question}}", history: "${{inputs.chat_history}}", {more}}}
"""
PROMPT = """
# user:
{% for turn in history %}
{{ turn.inputs.question }}
answer: {{ turn.outputs.answer }}
{% endfor %}
{{ question }}
{{ picture }}
{% for one in pictures or [] %}
{{ one }}
{% endfor %}
{{ tag }}
"""


async def sent_to_the_model(
    tmp_path: Path,
    server: ModelServer,
    body: dict[str, Any],
    *,
    inputs: str = "",
    more: str = "",
    chat_type: str = "string",
) -> tuple[httpx.Response, Any]:
    """Call a flow with further `inputs`; return the response, and the model's prompt without its first lines."""
    tag = str(uuid.uuid4())
    flow = write_flow(
        tmp_path,
        FLOW.format(tag=tag, inputs=inputs, more=more, chat_type=chat_type),
        {
            "reply.jinja2": PROMPT,
            "connections.yaml": f"model: {{type: open_ai, base_url: '{server.url}', max_retries: 0}}",
        },
    )
    response = await post(flow, PATH, body)
    body = next((call.body for call in server.calls if tag in json.dumps(call.body)), {"messages": [{"content": None}]})
    return response, body["messages"][-1]["content"]


def user_message(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


TEXT = {"type": "text", "text": "what?"}
ONE = "  picture: {type: image, default: null}\n  other: {type: image, default: null}"
ALL = "  pictures: {type: list, is_chat_images: true}"


@pytest.mark.parametrize(
    ("inputs", "more", "chat_type", "urls"),
    [
        (ONE, 'picture: "${inputs.picture}"', "string", [DATA_URL]),
        (ONE, 'picture: "${inputs.other}"', "string", [REMOTE]),
        (ALL, 'pictures: "${inputs.pictures}"', "string", [DATA_URL, REMOTE]),
        ("", "", "list", [DATA_URL, REMOTE]),
        ("", "", "string", []),
    ],
)
async def test_images_become_inputs_of_the_flow(
    tmp_path: Path, model_server: ModelServer, inputs: str, more: str, chat_type: str, urls: list[str]
) -> None:
    response, content = await sent_to_the_model(
        tmp_path,
        model_server,
        user_message(TEXT, image(DATA_URL), image(REMOTE)),
        inputs=inputs,
        more=more,
        chat_type=chat_type,
    )
    assert response.status_code == 200, response.text
    found = [part["image_url"]["url"] for part in content if part["type"] == "image_url"] if urls else []
    assert found == urls
    assert "what?" in json.dumps(content)


async def test_images_of_past_turns_are_in_the_history(tmp_path: Path, model_server: ModelServer) -> None:
    messages = [
        {"role": "user", "content": [TEXT, image(DATA_URL)]},
        {"role": "assistant", "content": "a cat"},
        {"role": "user", "content": "and now?"},
    ]
    response, content = await sent_to_the_model(tmp_path, model_server, {"messages": messages}, chat_type="list")
    assert response.status_code == 200, response.text
    assert [part["image_url"]["url"] for part in content if part["type"] == "image_url"] == [DATA_URL]


@pytest.mark.parametrize("url", ["http://127.0.0.1/a.png", "data:image/png;base64,%%%", "a.png", "data:text/plain,a"])
async def test_a_forbidden_image_url_is_rejected(tmp_path: Path, model_server: ModelServer, url: str) -> None:
    body = user_message(TEXT, image(url))
    response, _ = await sent_to_the_model(
        tmp_path / "looks", model_server, body, inputs=ONE, more='picture: "${inputs.picture}"'
    )
    assert (response.status_code, response.json()["error"]["param"]) == (400, "picture")
    response, _ = await sent_to_the_model(tmp_path / "passes", model_server, body)
    assert response.status_code == 200


async def test_further_inputs_are_passed_by_name(tmp_path: Path, model_server: ModelServer) -> None:
    body = {**user_message(TEXT, image(REMOTE)), "inputs": {"city": "Rome", "picture": DATA_URL}}
    response, content = await sent_to_the_model(
        tmp_path,
        model_server,
        body,
        inputs="  city: {type: string}\n" + ONE,
        more='picture: "${inputs.picture}", pictures: ["${inputs.city}"], city: "${inputs.city}"',
    )
    assert response.status_code == 200, response.text
    assert [part["image_url"]["url"] for part in content if part["type"] == "image_url"] == [DATA_URL]


async def test_a_history_among_the_inputs_wins(tmp_path: Path, model_server: ModelServer) -> None:
    messages = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "two"},
    ]
    given = [{"inputs": {"question": "given"}, "outputs": {"answer": "too"}}]
    body = {"messages": messages, "inputs": {"chat_history": given}}
    _, content = await sent_to_the_model(tmp_path, model_server, body)
    assert content.split() == ["given", "answer:", "too", *content.split()[3:]]
    assert content.split()[3] == "two"
