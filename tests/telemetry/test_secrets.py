"""Tokens, keys of connections and secret inputs are redacted in spans, stored traces, log lines and error messages."""

import json
from contextvars import copy_context
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, SpanContext

from flowpod.telemetry.content import Content
from flowpod.telemetry.exporters import BatchExporter
from flowpod.telemetry.metrics import Metrics
from flowpod.telemetry.redaction import RUN_SECRETS, RunSecrets, Secrets
from flowpod.telemetry.span_provider import SpanProvider
from flowpod.telemetry.span_redaction import redact_span
from flowpod.telemetry.trace_store import Filters, TraceStore
from flowpod.telemetry.trace_writer import TraceWriter
from tests.support.flows import SESSION, client_of, write_flow
from tests.support.model_server import ModelServer
from tests.support.serving import serving
from tests.support.spans import ended_span
from tests.telemetry.test_plugin_secrets import recorded
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

def invoke(own: CustomConnection, asked: str, password: str) -> str:
    print("printed", own.secrets["pin"], password)
    print("y" * 16378 + own.secrets["pin"])
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


def test_secrets_of_the_process_are_redacted() -> None:
    secrets = Secrets(["abcdefgh", "abcdefgh-and-more", "short"])
    assert secrets.redact("x abcdefgh-and-more abcdefgh short") == "x *** *** short"
    assert recorded({"key": "abcdefgh"}, RunSecrets.of(), Content(secrets)) == '{"key":"***"}'
    assert recorded(['quote"d\\secret'], RunSecrets.of(), Content(Secrets(['quote"d\\secret']))) == '["***"]'


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


@pytest.mark.parametrize(("model", "message"), [("tell-key", "Incorrect key: Bearer ***"), ("echo", "failed with ***")])
async def test_no_response_or_turn_has_a_secret(
    tmp_path: Path, model_server: ModelServer, model: str, message: str
) -> None:
    flow = leaking_flow(tmp_path / "flow", model_server.url, model)
    dag = flow / "flow.dag.yaml"
    chat = dag.read_text().replace("string}", "string, is_chat_input: true}", 1)
    dag.write_text(chat.replace('leak.output}"}', 'leak.output}", is_chat_output: true}'))
    inputs = {"question": "fail", "password": PASSWORD}
    async with client_of(flow, data=tmp_path / "data", error_detail="full") as client:
        simple = await client.post("/", json=inputs)
        stream = await client.post(
            "/run", json={"inputs": inputs, "stream": True}, headers={"Chat-Session-Id": SESSION}
        )
        turns = await client.get(f"/chat/sessions/{SESSION}/turns")
    for answer in (simple, stream, turns):
        assert message in answer.text
        assert KEY not in answer.text
        assert PIN not in answer.text
    for file in (tmp_path / "data").rglob("*"):
        assert not file.is_file() or (KEY.encode() not in file.read_bytes() and PIN.encode() not in file.read_bytes())


def test_no_log_line_and_no_stored_trace_has_a_secret(tmp_path: Path, model_server: ModelServer) -> None:
    flow = leaking_flow(tmp_path / "flow", model_server.url)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with serving(flow, tmp_path, FLOWPOD_TOKENS=TOKEN, FLOWPOD_LOG_LEVEL="debug", FLOWPOD_LOG_FORMAT="json") as served:
        for question in ("hi", "fail", "own"):
            httpx.post(f"{served.url}/", json={"question": question, "password": PASSWORD}, headers=headers)
        listed = httpx.get(f"{served.url}/traces", headers=headers).json()["data"]
        traces = [httpx.get(f"{served.url}/traces/{run['run_id']}", headers=headers).text for run in listed]
        assert httpx.get(f"{served.url}/traces").status_code == 401
        assert httpx.get(f"{served.url}/metrics").status_code == 401
        served.stop()
    assert "printed ***" in served.log
    assert f"{'y' * 10}{PIN[:6]}" not in served.log
    assert "threaded ***" in served.log
    assert "failed with ***" in served.log
    assert len(traces) == 3
    assert any("own failure with ***" in text and '"mine":"***"' in text for text in traces)
    shown = served.log + json.dumps(listed) + "".join(traces)
    for secret in (KEY, TOKEN, PIN, PASSWORD):
        assert secret not in shown


def test_a_span_without_secrets_is_not_copied() -> None:
    content = Content(Secrets([KEY]))
    span = ended_span({"own": "x", "output.value": '{"a":"b"}'})
    assert redact_span(span, content) is span
    assert redact_span(ended_span({"own": f"x {KEY}"}), content).attributes == {"own": "x ***"}


@pytest.mark.parametrize("value", [f"{'x' * 95}{KEY}", {"a": f"{'x' * 89}{KEY}"}])
@pytest.mark.parametrize("secrets", [(Secrets([KEY]), RunSecrets.of()), (Secrets(), RunSecrets.of(KEY))])
def test_truncation_cuts_through_no_secret(value: Any, secrets: tuple[Secrets, RunSecrets]) -> None:
    content = Content(secrets[0], max_chars=100)
    for given in (value, f"{value}{'y' * 200}"):
        assert KEY[:3] not in recorded(given, secrets[1], content)
    span = ended_span({"own": f"{'x' * 95}{KEY}{'y' * 200}"})._replace(secrets=secrets[1])
    assert KEY[:3] not in repr(redact_span(span, content).attributes)


def test_attributes_of_every_type_are_redacted() -> None:
    attributes: dict[str, Any] = {"bytes": KEY.encode(), "map": {"in": {KEY: [KEY]}}, "list": [[KEY, b"plain"], None]}
    redacted = redact_span(ended_span(attributes), Content(Secrets([KEY])))
    assert redacted.attributes == {
        "bytes": "***",
        "map": {"in": {"***": ("***",)}},
        "list": (("***", b"plain"), None),
    }


def test_a_span_that_ends_outside_of_its_run_has_none_of_its_secrets() -> None:
    tracing, exporter = recording()
    context = copy_context()
    context.run(RUN_SECRETS.set, RunSecrets.of(PASSWORD))
    span = context.run(tracing.start_run, "flow", {}, {"own": PASSWORD})
    span.end()  # as the garbage collector's task does for a stream that nobody closed
    assert PASSWORD not in exporter.get_finished_spans()[0].to_json()


def test_opentelemetrys_length_limit_cuts_through_no_secret(tmp_path: Path, model_server: ModelServer) -> None:
    flow = leaking_flow(tmp_path / "flow", model_server.url)
    limit = len("RuntimeError: failed with ") + 6
    with serving(flow, tmp_path, FLOWPOD_AUTH="off", OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT=str(limit)) as served:
        httpx.post(f"{served.url}/", json={"question": "fail"})
        (run,) = httpx.get(f"{served.url}/traces").json()["data"]
        trace = httpx.get(f"{served.url}/traces/{run['run_id']}").text
    assert "failed with ***" in trace
    assert PIN[:6] not in trace


def test_every_part_of_a_span_is_redacted(tmp_path: Path) -> None:
    store = TraceStore(tmp_path / "traces.db", max_bytes=1 << 30, max_age_s=1e9)
    exporter = InMemorySpanExporter()
    provider = SpanProvider([TraceWriter(store, Metrics()), BatchExporter(exporter, "otlp", Metrics(), {})])
    tracer = provider.get_tracer("mine")

    def node() -> None:
        RUN_SECRETS.set(RunSecrets.of(PASSWORD))
        link = Link(SpanContext(1, 2, is_remote=False), {"linked": PASSWORD})
        with tracer.start_as_current_span(f"login {PASSWORD}", attributes={PASSWORD: "key"}, links=[link]) as span:
            span.add_event(f"event {PASSWORD}", {"event": PASSWORD, "several": [PASSWORD, "x"]})

    copy_context().run(node)
    provider.force_flush()
    stored = store.find(store.newest(Filters(), 1)[0].summary.trace_id).runs
    provider.shutdown()
    (exported,) = exporter.get_finished_spans()
    assert exported.name == "login ***"
    assert exported.links[0].attributes == {"linked": "***"}
    assert PASSWORD not in exported.to_json()
    assert stored[0].spans[0]["name"] == "login ***"
    assert PASSWORD not in repr(stored)
