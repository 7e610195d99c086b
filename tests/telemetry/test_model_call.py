"""The span of a model call, with the attributes of the GenAI conventions and of OpenInference."""

import json
from pathlib import Path
from typing import Any

import pytest

from flowpod.telemetry.content import Content
from flowpod.telemetry.messages import input_messages, output_message
from tests.support.flows import post, write_chat_flow, write_flow
from tests.support.model_server import ModelServer
from tests.telemetry.test_tracing import by_name, recording

SSE = {"Accept": "text/event-stream"}


async def call_of(
    flow: Path, headers: dict[str, str] | None = None, content: Content | None = None, question: str = "hi"
) -> dict[str, Any]:
    """Run the flow once; return the attributes of its model call."""
    tracing, exporter = recording(content)
    await post(flow, "/", {"question": question}, headers=headers or {}, tracing=tracing)
    (name,) = (name for name in by_name(exporter) if name.startswith("chat"))
    return dict(by_name(exporter)[name].attributes or {})


async def test_both_vocabularies_are_on_the_span(chat_flow: Path, model_server: ModelServer) -> None:
    call = await call_of(chat_flow, SSE)
    assert {
        key: call[key] for key in call if key.startswith(("gen_ai.request", "gen_ai.usage", "gen_ai.provider"))
    } == {
        "gen_ai.request.model": "echo",
        "gen_ai.request.stream": True,
        "gen_ai.request.temperature": 1,
        "gen_ai.request.top_p": 1,
        "gen_ai.provider.name": "openai",
        "gen_ai.usage.input_tokens": 11,
        "gen_ai.usage.output_tokens": 7,
    }
    assert (call["gen_ai.operation.name"], call["openinference.span.kind"]) == ("chat", "LLM")
    assert f"{call['server.address']}:{call['server.port']}" in model_server.url
    assert 0 < call["gen_ai.response.time_to_first_chunk"] < 60
    assert (call["gen_ai.response.model"], call["llm.model_name"]) == ("stand-in", "stand-in")
    counts = [call[f"llm.token_count.{kind}"] for kind in ("prompt", "completion", "total")]
    assert counts == [11, 7, 18]
    assert json.loads(call["gen_ai.input.messages"])[-1] == {
        "role": "user",
        "parts": [{"type": "text", "content": "hi"}],
    }
    assert json.loads(call["gen_ai.output.messages"]) == [
        {"role": "assistant", "parts": [{"type": "text", "content": "You said: hi"}], "finish_reason": "stop"}
    ]
    assert call["llm.input_messages.1.message.role"] == "user"
    assert call["llm.input_messages.1.message.content"] == "hi"
    assert call["llm.output_messages.0.message.content"] == call["output.value"] == "You said: hi"
    assert json.loads(call["input.value"])["messages"][-1] == {"role": "user", "content": "hi"}


async def test_a_response_without_streaming_has_no_first_chunk(chat_flow: Path) -> None:
    assert "gen_ai.response.time_to_first_chunk" not in await call_of(chat_flow)


async def test_parameters_have_the_conventions_names(tmp_path: Path, model_server: ModelServer) -> None:
    dag = """
    inputs:
      question: {type: string}
    outputs:
      answer: {type: string, reference: "${reply.output}"}
    nodes:
    - name: reply
      type: llm
      source: {type: code, path: reply.jinja2}
      connection: model
      inputs: {model: echo, question: "${inputs.question}", temperature: 0.3, max_tokens: 50, stop: [END]}
    """
    flow = write_flow(
        tmp_path,
        dag,
        {
            "reply.jinja2": "# user:\n{{question}}\n",
            "connections.yaml": f"model: {{type: open_ai, base_url: '{model_server.url}'}}\n",
        },
    )
    call = await call_of(flow)
    named = [call[f"gen_ai.request.{name}"] for name in ("temperature", "max_tokens", "stop_sequences")]
    assert named == [0.3, 50, ("END",)]
    assert json.loads(call["llm.invocation_parameters"])["temperature"] == 0.3


async def test_a_retry_of_the_client_is_an_event(tmp_path: Path, model_server: ModelServer) -> None:
    flow = write_chat_flow(tmp_path, model_server.url, f"fail-once:503:{tmp_path.name}")
    connections = flow / "connections.yaml"
    connections.write_text(connections.read_text().replace("max_retries: 0", "max_retries: 2"))
    tracing, exporter = recording()
    assert (await post(flow, "/", {"question": "hi"}, tracing=tracing)).status_code == 200
    (event,) = by_name(exporter)[f"chat fail-once:503:{tmp_path.name}"].events
    assert (event.name, event.attributes) == ("retry", {"flowpod.attempt": 1})


async def test_content_can_be_turned_off(chat_flow: Path) -> None:
    tracing, exporter = recording(Content(captured=False))
    await post(chat_flow, "/", {"question": "nobody's business"}, tracing=tracing)
    shown = str([dict(span.attributes or {}) for span in exporter.get_finished_spans()])
    assert "business" not in shown
    assert "gen_ai.usage.input_tokens" in shown


async def test_long_content_is_truncated(chat_flow: Path) -> None:
    call = await call_of(chat_flow, content=Content(max_chars=20), question="x" * 100)
    assert call["llm.input_messages.0.message.content"] == f"{'x' * 20}... (100 characters)"
    assert json.loads(call["gen_ai.input.messages"])[-1]["parts"][0]["content"] == f"{'x' * 20}... (100 characters)"
    assert call["output.value"] == f"You said: {'x' * 10}... (110 characters)"
    assert call["input.mime_type"] == "text/plain"  # cut JSON is none


def test_messages_of_every_kind() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://x/i.png", "detail": "low"}}
    called = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"q": 1}'}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "text", "text": "what is it?"}, image, {"type": "odd"}]},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
    ]
    attributes = input_messages(messages, Content())
    assert json.loads(str(attributes.pop("gen_ai.input.messages"))) == [
        {
            "role": "user",
            "parts": [
                {"type": "text", "content": "what is it?"},
                {"type": "uri", "modality": "image", "uri": "https://x/i.png"},
                {"type": "unknown", "content": {"type": "odd"}},
            ],
        },
        {"role": "assistant", "parts": [{"type": "tool_call", "id": "c1", "name": "look_up", "arguments": '{"q": 1}'}]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "a cat"}]},
    ]
    start = "llm.input_messages"
    assert attributes == {
        f"{start}.0.message.role": "user",
        f"{start}.0.message.contents.0.message_content.type": "text",
        f"{start}.0.message.contents.0.message_content.text": "what is it?",
        f"{start}.0.message.contents.1.message_content.type": "image",
        f"{start}.0.message.contents.1.message_content.image.image.url": "https://x/i.png",
        f"{start}.1.message.role": "assistant",
        f"{start}.1.message.tool_calls.0.tool_call.id": "c1",
        f"{start}.1.message.tool_calls.0.tool_call.function.name": "look_up",
        f"{start}.1.message.tool_calls.0.tool_call.function.arguments": '{"q": 1}',
        f"{start}.2.message.role": "tool",
        f"{start}.2.message.content": "a cat",
        f"{start}.2.message.tool_call_id": "c1",
    }
    answered = output_message({"role": "assistant", "content": None, "tool_calls": [called]}, "tool_calls", Content())
    assert json.loads(str(answered["gen_ai.output.messages"]))[0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("count", [60, 300])
def test_a_long_conversation_leaves_room_for_other_attributes(count: int) -> None:
    messages = [{"role": "user", "content": str(number)} for number in range(count)]
    attributes = input_messages(messages, Content())
    assert len(attributes) == 2 * min(count, 200) + 1
    assert len(json.loads(str(attributes["gen_ai.input.messages"]))) == count


def test_messages_are_truncated_together() -> None:
    messages = [{"role": "user", "content": f"{number}{'x' * 900}"} for number in range(100)]
    attributes = input_messages(messages, Content(max_chars=5000))
    shown = json.loads(str(attributes["gen_ai.input.messages"]))
    assert [message["parts"][0]["content"][:2] for message in shown] == ["95", "96", "97", "98", "99"]
    assert len(str(attributes["gen_ai.input.messages"])) < 5000 + 10
    assert attributes["flowpod.messages.left_out"] == 95
    assert "llm.input_messages.4.message.content" in attributes
    assert "llm.input_messages.5.message.content" not in attributes
