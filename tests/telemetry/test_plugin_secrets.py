"""Parameters and tokens for plugins, short ones and numbers too, are redacted in spans, stored traces and log lines."""

import json
import sqlite3
from contextvars import copy_context
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.util.types import AttributeValue

from flowpod.engine.failures import Failures
from flowpod.errors import NodeError
from flowpod.telemetry.content import Content
from flowpod.telemetry.exporters import BatchExporter
from flowpod.telemetry.metrics import Metrics
from flowpod.telemetry.redaction import RUN_SECRETS, RunSecrets
from flowpod.telemetry.span_provider import SpanProvider
from flowpod.telemetry.span_redaction import redact_span
from flowpod.telemetry.tracing import Tracing
from tests.support.flows import client_of, write_flow
from tests.support.model_server import ModelServer
from tests.support.serving import serving
from tests.support.spans import ended_span
from tests.telemetry.test_tracing import recording

PATH = "/api/v1/apps/any/completion"
PARAMS = {"p": {"article": 7, "phone": 13800138000, "pin": "p!n", "city": "Hangzhou-West"}}
TOKENS = {"p": {"user_token": "t0k.y", "long": "t0ken-of-a-user", "number": 99887766554}}
SECRETS = ("13800138000", "p!n", "Hangzhou-West", "t0k.y", "t0ken-of-a-user", "99887766554")
DAG = """
inputs:
  question: {type: string, is_chat_input: true}
outputs:
  answer: {type: string, reference: "${say.output}", is_chat_output: true}
nodes:
- name: use
  type: python
  source: {path: use.py}
  inputs: {question: "${inputs.question}", params: "${sys.plugin_params.p}", tokens: "${sys.plugin_tokens.p}"}
- name: ask
  type: llm
  source: {path: ask.jinja2}
  connection: model
  inputs: {model: echo, content: "${use.output}"}
- name: say
  type: python
  source: {path: say.py}
  inputs: {content: "${use.output}", asked: "${ask.output}"}
"""
USE = """
import logging
from opentelemetry import trace as otel
from promptflow.tracing import trace

@trace
def helper(params, tokens):
    raise KeyError(f"article {params['article']} with {tokens['user_token']} of {params['phone']}")

def invoke(question: str, params: dict, tokens: dict):
    print("all", params, tokens)
    for value in (*params.values(), *tokens.values()):
        print(value)
    logging.getLogger("plugin").warning("article %s of %s by %s", params["article"], params["pin"], tokens["number"])
    span = otel.get_current_span()
    span.set_attribute("mine", tokens["user_token"])
    span.add_event("asked", {"of": f"article {params['article']} of {params['pin']}"})
    try:
        helper(params, tokens)
    except KeyError:
        if question == "fail":
            raise
    return {"all": [params, tokens], "text": f"{params['pin']} and {tokens['user_token']}"}
"""
SAY = """
def invoke(content: dict, asked: str) -> str:
    params, tokens = content["all"]
    return " ".join(str(value) for value in (*params.values(), *tokens.values()))
"""
ANSWER = "7 13800138000 p!n Hangzhou-West t0k.y t0ken-of-a-user 99887766554"


def flow_of(folder: Path, url: str) -> Path:
    connections = f"model: {{type: open_ai, base_url: '{url}', max_retries: 0}}\n"
    files = {"use.py": USE, "say.py": SAY, "ask.jinja2": "# user:\n{{ content }}\n", "connections.yaml": connections}
    return write_flow(folder, DAG, files)


def body(question: str) -> dict[str, Any]:
    given = {"user_defined_params": PARAMS, "user_defined_tokens": TOKENS}
    return {"input": {"prompt": question, "biz_params": given}}


def recorded(value: Any, secrets: RunSecrets, content: Content | None = None) -> str:
    """Record a value as the output of a run with these secrets; return it as the exporter gets it."""
    tracing, exporter = recording(content)
    context = copy_context()
    context.run(RUN_SECRETS.set, secrets)
    span = context.run(tracing.start_run, "flow", {}, {})
    context.run(tracing.record, span, "output", value)
    span.end()
    return str((exporter.get_finished_spans()[0].attributes or {})["output.value"])


def test_secrets_of_a_run_are_redacted_by_their_length() -> None:
    secrets = RunSecrets.of({"a": [2, "pin"], "b": {"c": 13800138000, "d": "long-enough"}, "e": [True, None, "", " "]})
    assert secrets.redact("2 pin xlong-enoughx 138001380001 13800138000.") == "2 pin x***x 138001380001 ***."
    assert secrets.redact_words("Article 2, pin (pins, 22, a2) 2.") == "Article ***, *** (pins, 22, a2) ***."
    value: dict[Any, Any] = {"list": [2, 22, 2.5, 13800138000, True, "pin", "a 2"], "2": None, 3: ("pin",)}
    assert json.loads(recorded(value, secrets)) == {
        "list": ["***", 22, 2.5, "***", True, "***", "a ***"],
        "***": None,
        "3": ["***"],
    }
    assert json.loads(recorded(value, RunSecrets.of())) == {"list": value["list"], "2": None, "3": ["pin"]}


def test_redacted_json_can_be_parsed() -> None:
    secrets = RunSecrets.of(12345678, "key-number-1", "key-number-2")
    value = {"id": 123456789, "at": 12345678, "key-number-1": 1, "key-number-2": 2}
    assert json.loads(recorded(value, secrets)) == {"id": 123456789, "at": "***", "***": 1, "******": 2}


def test_ids_and_states_are_not_redacted() -> None:
    ours: dict[str, AttributeValue] = {
        "session.id": "a-session-id",
        "flowpod.run.status": "Completed",
        "flowpod.node.type": "python",
        "gen_ai.workflow.name": "flow",
        "llm.token_count.prompt": 7,
    }
    secrets = ("a-session-id", "Completed", "python", "flow", 7, "workflow", 10203040)
    span = ended_span({**ours, "pin": 10203040, "pins": [7, 8]}, *secrets)
    redacted = redact_span(span, Content())
    assert dict(redacted.attributes or {}) == {**ours, "pin": "***", "pins": ("***", 8)}


def test_an_error_message_that_quotes_a_secret_is_redacted(tmp_path: Path) -> None:
    context = copy_context()
    context.run(RUN_SECRETS.set, RunSecrets.of("p!n"))
    error = NodeError("the model answered 400: cannot read 'p!n'", code="model_error")
    failure = context.run(Failures(tmp_path, Content(), "full").of_node, "ask", error)
    assert failure.info.message == failure.text == "node 'ask': the model answered 400: cannot read '***'"


async def test_plugins_get_a_limited_number_of_values(tmp_path: Path, model_server: ModelServer) -> None:
    async with client_of(flow_of(tmp_path, model_server.url)) as client:
        many = body("hi")
        many["input"]["biz_params"] = {"user_defined_params": {"p": {"list": ["x"] * 201}}}
        answer = await client.post(PATH, json=many)
    assert (answer.status_code, answer.json()["code"]) == (400, "InvalidParameter")
    assert "user_defined_params" in answer.json()["message"]
    assert "at most 200" in answer.json()["message"]


@pytest.mark.parametrize("question", ["hi", "fail"])
async def test_no_span_has_secrets_for_plugins(tmp_path: Path, model_server: ModelServer, question: str) -> None:
    exporter = InMemorySpanExporter()
    provider = SpanProvider([BatchExporter(exporter, "otlp", Metrics(), {})])
    async with client_of(flow_of(tmp_path, model_server.url), tracing=Tracing(provider)) as client:
        answer = (await client.post(PATH, json=body(question))).json()
    provider.force_flush()
    spans = {span.name: span for span in exporter.get_finished_spans()}
    shown = "".join(span.to_json() for span in spans.values())
    for secret in SECRETS:
        assert secret not in shown
    node = dict(spans["use"].attributes or {})
    assert json.loads(str(node["input.value"])) == {"question": question, "params": "***", "tokens": "***"}
    assert node["mine"] == "***"
    assert dict(spans["use"].events[0].attributes or {}) == {"of": "article *** of ***"}
    if question == "fail":
        assert "article *** with *** of ***" in answer["message"]
        assert not any(secret in answer["message"] for secret in SECRETS)
        return
    assert answer["output"]["text"] == ANSWER
    assert json.loads(str(node["output.value"]))["text"] == "*** and ***"
    assert json.loads(str(node["output.value"]))["all"][0]["article"] == "***"


def test_no_log_line_and_no_stored_trace_has_secrets_for_plugins(tmp_path: Path, model_server: ModelServer) -> None:
    flow = flow_of(tmp_path / "flow", model_server.url)
    options = {"FLOWPOD_LOG_LEVEL": "debug", "FLOWPOD_LOG_FORMAT": "json", "FLOWPOD_HISTORY": "off"}
    with serving(flow, tmp_path, **options) as served:
        for question in ("hi", "fail"):
            httpx.post(served.url + PATH, json=body(question))
        runs = httpx.get(f"{served.url}/traces").json()["data"]
        traces = [httpx.get(f"{served.url}/traces/{run['run_id']}").text for run in runs]
        served.stop()
    assert len(traces) == 2
    for secret in SECRETS:
        assert secret not in served.log
        assert secret not in "".join(traces)
    lines = [json.loads(line) for line in served.log.splitlines() if line.startswith("{")]
    messages = [line["message"] for line in lines]
    assert messages.count("***") == 2 * 7
    assert messages.count("article *** of *** by ***") == 2
    assert any(
        "KeyError" in line.get("exception", "") and "article *** with ***" in line["exception"] for line in lines
    )


async def test_the_history_stores_the_answer_without_tokens(tmp_path: Path, model_server: ModelServer) -> None:
    async with client_of(flow_of(tmp_path / "flow", model_server.url), data=tmp_path) as client:
        answer = (await client.post(PATH, json=body("hi"))).json()["output"]
        turns = (await client.get(f"/chat/sessions/{answer['session_id']}")).json()["turns"]["data"]
    assert answer["text"] == ANSWER
    assert turns[0]["outputs"] == {"answer": "7 13800138000 p!n Hangzhou-West t0k.y *** ***"}
    database = sqlite3.connect(tmp_path / "chat_history.db")
    stored = "\n".join(database.iterdump())
    database.close()
    assert "t0ken-of-a-user" not in stored
    assert "99887766554" not in stored
