"""Model calls that a Python node makes with the `openai` package have spans below its own."""

import json
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from flowpod.telemetry.instrument_openai import trace_openai_calls
from tests.support.flows import post, write_flow
from tests.support.model_server import ModelServer
from tests.telemetry.test_tracing import by_name, own, parent, recording

CALL = 'model="echo", messages=[{"role": "user", "content": "hi"}]'
SYNC = """
from openai import OpenAI

def invoke(url: str) -> str:
    with OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        BODY
"""
ASYNC = (
    SYNC.replace("OpenAI", "AsyncOpenAI")
    .replace("def invoke", "async def invoke")
    .replace("with Async", "async with Async")
)
FLOW = """
inputs:
  url: {type: string}
outputs:
  out: {type: string, reference: "${ask.output}"}
nodes:
- {name: ask, type: python, source: {path: ask.py}, inputs: {url: "${inputs.url}"}}
"""
WAYS = {
    "whole": (SYNC, f"return client.chat.completions.create({CALL}).choices[0].message.content"),
    "stream": (
        SYNC,
        f"return ''.join(c.choices[0].delta.content or '' for c in client.chat.completions.create({CALL}, stream=True) if c.choices)",
    ),
    "stream in a block": (
        SYNC,
        f"""with client.chat.completions.create({CALL}, stream=True) as chunks:
            assert chunks.response.status_code == 200
            return ''.join(c.choices[0].delta.content or '' for c in chunks if c.choices)""",
    ),
    "async": (ASYNC, f"return (await client.chat.completions.create({CALL})).choices[0].message.content"),
    "async stream": (
        ASYNC,
        f"""async with await client.chat.completions.create({CALL}, stream=True) as chunks:
            return ''.join([c.choices[0].delta.content or '' async for c in chunks if c.choices])""",
    ),
}

trace_openai_calls()


async def spans_of(tmp_path: Path, code: str, url: str) -> tuple[dict[str, Any], dict[str, ReadableSpan]]:
    tracing, exporter = recording()
    response = await post(write_flow(tmp_path, FLOW, {"ask.py": code}), "/", {"url": url}, tracing=tracing)
    return response.json(), by_name(exporter)


@pytest.mark.parametrize("way", WAYS)
async def test_a_call_is_a_span_below_the_node(tmp_path: Path, model_server: ModelServer, way: str) -> None:
    code, body = WAYS[way]
    answer, spans = await spans_of(tmp_path, code.replace("BODY", body), model_server.url)
    assert answer == {"out": "You said: hi"}
    assert set(spans) == {"invoke_workflow test", "ask", "chat echo"}
    call = spans["chat echo"]
    assert parent(call) == own(spans["ask"])
    attributes = dict(call.attributes or {})
    assert (attributes["output.value"], attributes["gen_ai.response.finish_reasons"]) == ("You said: hi", ("stop",))
    assert json.loads(str(attributes["gen_ai.input.messages"]))[0]["parts"][0]["content"] == "hi"
    assert attributes["session.id"] == dict(spans["ask"].attributes or {})["session.id"]
    if "stream" in way:
        assert "gen_ai.response.time_to_first_chunk" in attributes
    else:
        assert attributes["gen_ai.usage.input_tokens"] == 11
    assert call.context is not None
    sent = next(
        c for c in reversed(model_server.calls) if f"{call.context.span_id:016x}" in c.headers.get("traceparent", "")
    )
    assert sent.body["model"] == "echo"


async def test_a_failed_call_has_its_error(tmp_path: Path, model_server: ModelServer) -> None:
    body = f"return client.chat.completions.create({CALL.replace('echo', 'fail:400')}).choices[0].message.content"
    _, spans = await spans_of(tmp_path, SYNC.replace("BODY", body), model_server.url)
    call = spans["chat fail:400"]
    assert call.status.status_code is StatusCode.ERROR
    assert dict(call.attributes or {})["error.type"] == "BadRequestError"
    assert [event.name for event in call.events] == ["exception"]


async def test_raw_responses_are_not_changed(tmp_path: Path, model_server: ModelServer) -> None:
    body = f"return client.chat.completions.with_raw_response.create({CALL}).parse().choices[0].message.content"
    answer, spans = await spans_of(tmp_path, SYNC.replace("BODY", body), model_server.url)
    assert answer == {"out": "You said: hi"}
    assert "chat echo" in spans


async def test_a_call_of_an_llm_node_has_one_span(chat_flow: Path) -> None:
    tracing, exporter = recording()
    await post(chat_flow, "/", {"question": "hi"}, tracing=tracing)
    assert len(exporter.get_finished_spans()) == 3


def test_calls_outside_of_nodes_are_not_traced(model_server: ModelServer) -> None:
    from openai import OpenAI

    with OpenAI(base_url=model_server.url, api_key="none") as client:
        answer = client.chat.completions.create(model="echo", messages=[{"role": "user", "content": "hi"}])
    assert answer.choices[0].message.content == "You said: hi"


async def test_a_call_after_an_llm_node_has_its_span(tmp_path: Path, model_server: ModelServer) -> None:
    code, body = WAYS["async"]
    files = {
        "ask.py": code.replace("BODY", body).replace("url: str", "url: str, first: str"),
        "first.jinja2": "# user:\nhello\n",
        "connections.yaml": f"model: {{type: open_ai, base_url: '{model_server.url}', max_retries: 0}}\n",
    }
    flow = FLOW.replace('{url: "${inputs.url}"}', '{url: "${inputs.url}", first: "${first.output}"}') + (
        "- {name: first, type: llm, source: {type: code, path: first.jinja2}, connection: model,"
        ' inputs: {model: "words:2"}}\n'
    )
    tracing, exporter = recording()
    await post(write_flow(tmp_path, flow, files), "/", {"url": model_server.url}, tracing=tracing)
    spans = by_name(exporter)
    assert parent(spans["chat words:2"]) == own(spans["first"])
    assert parent(spans["chat echo"]) == own(spans["ask"])
