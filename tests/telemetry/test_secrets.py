"""Tokens, and the keys of connections and secret inputs, are in no span, no stored trace and no log line, whatever a flow does with them."""

import json
from contextvars import copy_context
from pathlib import Path

import httpx
import pytest
from flowpod.telemetry.content import RUN_SECRETS, Content, RunSecrets, Secrets
from flowpod.telemetry.exporters import CountedExport
from flowpod.telemetry.metrics import Metrics
from flowpod.telemetry.recorder import TraceRecorder
from flowpod.telemetry.store import Filters, TraceStore
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, SpanContext

from tests.support.flows import SESSION, client_of, write_flow
from tests.support.model_server import ModelServer
from tests.support.serving import serving
from tests.telemetry.test_tracing import recording

KEY, TOKEN, PIN, PASSWORD = "sk-very-secret-key", "token-of-a-caller", "pin-9876-5432", "hunter2-hunter2"

DAG = """
inputs:
  question: {type: string}
  password: {type: secret, default: ""}
outputs:
  out: {type: string, reference: "${leak.output}"}
nodes:
- name: ask
  type: llm
  source: {type: code, path: ask.jinja2}
  connection: model
  inputs: {model: MODEL, question: "${inputs.question}"}
- name: leak
  type: python
  source: {path: leak.py}
  inputs: {own: own, asked: "${ask.output}", password: "${inputs.password}"}
"""
LEAK = """
import threading
from opentelemetry import trace
from promptflow.connections import CustomConnection
from promptflow.core import tool

@tool
def leak(own: CustomConnection, asked: str, password: str) -> str:
    print("printed", own.secrets["pin"], password)
    thread = threading.Thread(target=lambda: print("threaded " + own.secrets["pin"]))
    thread.start()
    thread.join()
    if asked.endswith("own"):
        trace.get_current_span().set_attribute("mine", own.secrets["pin"])
        with trace.get_tracer("mine").start_as_current_span("own work", attributes={"all": ["x", own.secrets["pin"]]}):
            raise RuntimeError("own failure with " + own.secrets["pin"])
    if asked.endswith("fail"):
        raise RuntimeError("failed with " + own.secrets["pin"])
    return "pin " + own.secrets["pin"] + " for " + password
"""


def leaking_flow(folder: Path, url: str, model: str = "echo") -> Path:
    connections = (
        f"model: {{type: open_ai, base_url: '{url}', api_key: '{KEY}', max_retries: 0}}\n"
        f"own: {{type: custom, configs: {{a: b}}, secrets: {{pin: '{PIN}'}}}}\n"
    )
    files = {"ask.jinja2": "# user:\n{{question}}\n", "leak.py": LEAK, "connections.yaml": connections}
    return write_flow(folder, DAG.replace("MODEL", model), files)


def test_known_secrets_are_hidden() -> None:
    secrets = Secrets(["abcdefgh", "abcdefgh-and-more", "short"])
    assert secrets.hide("x abcdefgh-and-more abcdefgh short") == "x *** *** short"
    assert Content(secrets).json({"key": "abcdefgh"}) == ('{"key":"***"}', True)
    assert Content(Secrets(['quote"d\\secret'])).json(['quote"d\\secret']) == ('["***"]', True)


async def test_no_span_has_a_secret(tmp_path: Path, model_server: ModelServer) -> None:
    flow = leaking_flow(tmp_path, model_server.url)
    tracing, exporter = recording()
    async with client_of(flow, tokens=(TOKEN,), tracing=tracing) as client:
        for question in ("hi", "fail"):
            body = {"question": question, "password": PASSWORD}
            await client.post("/", json=body, headers={"Authorization": f"Bearer {TOKEN}"})
    assert len(exporter.get_finished_spans()) == 8
    shown = "".join(span.to_json() for span in exporter.get_finished_spans())
    assert "failed with ***" in shown
    for secret in (KEY, TOKEN, PIN, PASSWORD):
        assert secret not in shown


@pytest.mark.parametrize(("model", "told"), [("tell-key", "Incorrect key: Bearer ***"), ("echo", "failed with ***")])
async def test_no_caller_and_no_history_is_told_a_secret(
    tmp_path: Path, model_server: ModelServer, model: str, told: str
) -> None:
    flow = leaking_flow(tmp_path / "flow", model_server.url, model)
    dag = flow / "flow.dag.yaml"
    chat = dag.read_text().replace("string}", "string, is_chat_input: true}", 1)
    dag.write_text(chat.replace('leak.output}"}', 'leak.output}", is_chat_output: true}'))
    inputs = {"question": "fail", "password": PASSWORD}
    async with client_of(flow, data=tmp_path / "data") as client:
        simple = await client.post("/", json=inputs)
        stream = await client.post(
            "/run", json={"inputs": inputs, "stream": True}, headers={"Chat-Session-Id": SESSION}
        )
        turns = await client.get(f"/chat/sessions/{SESSION}/turns")
    for answer in (simple, stream, turns):
        assert told in answer.text
        assert KEY not in answer.text
        assert PIN not in answer.text
    for file in (tmp_path / "data").rglob("*"):
        assert not file.is_file() or (KEY.encode() not in file.read_bytes() and PIN.encode() not in file.read_bytes())


def test_no_log_line_and_no_stored_trace_has_a_secret(tmp_path: Path, model_server: ModelServer) -> None:
    flow = leaking_flow(tmp_path / "flow", model_server.url)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with serving(flow, tmp_path, FLOWPOD_TOKENS=TOKEN, FLOWPOD_LOG_LEVEL="debug", FLOWPOD_LOG_FORMAT="json") as served:
        for question in ("hi", "fail", "own"):
            body = {"question": question, "password": PASSWORD}
            httpx.post(f"{served.url}/", json=body, headers=headers)
        listed = httpx.get(f"{served.url}/traces", headers=headers).json()["data"]
        traces = [httpx.get(f"{served.url}/traces/{run['run_id']}", headers=headers).text for run in listed]
        assert httpx.get(f"{served.url}/traces").status_code == 401
        assert httpx.get(f"{served.url}/metrics").status_code == 401
        served.stop()
    assert "printed ***" in served.log
    assert "threaded ***" in served.log
    assert "failed with ***" in served.log
    assert len(traces) == 3
    assert any("own failure with ***" in text and '"mine":"***"' in text for text in traces)
    shown = served.log + json.dumps(listed) + "".join(traces)
    for secret in (KEY, TOKEN, PIN, PASSWORD):
        assert secret not in shown


def test_spans_of_a_node_have_none_of_its_runs_secrets(tmp_path: Path) -> None:
    recorder = TraceRecorder(TraceStore(tmp_path / "traces.db", max_bytes=1 << 30, max_age_s=1e9), Metrics(), Content())
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(recorder)
    provider.add_span_processor(CountedExport(exporter, "otlp", Metrics(), Content(), {}))
    tracer = provider.get_tracer("mine")

    def node() -> None:
        RUN_SECRETS.set(RunSecrets.of(PASSWORD))
        link = Link(SpanContext(1, 2, is_remote=False), {"linked": PASSWORD})
        with tracer.start_as_current_span(f"login {PASSWORD}", attributes={PASSWORD: "key"}, links=[link]) as span:
            span.add_event(f"event {PASSWORD}", {"event": PASSWORD, "several": [PASSWORD, "x"]})

    copy_context().run(node)
    provider.force_flush()
    stored = recorder.store.find(recorder.store.newest(Filters(), 1)[0].summary.trace_id)
    provider.shutdown()
    (exported,) = exporter.get_finished_spans()
    assert exported.name == "login ***"
    assert exported.links[0].attributes == {"linked": "***"}
    assert PASSWORD not in exported.to_json()
    assert stored[0].spans[0]["name"] == "login ***"
    assert PASSWORD not in repr(stored)
