"""Spans and metrics are exported over OTLP as the standard variables say; a real collector receives them."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from flowpod.settings import Settings
from flowpod.telemetry.exporters import BatchExporter, exporter_secrets
from flowpod.telemetry.metrics import Metrics
from flowpod.telemetry.redaction import Secrets
from flowpod.telemetry.setup import stores_traces
from flowpod.telemetry.span_provider import SpanProvider
from tests.support.collector import Collector, attributes_of, running_collector
from tests.support.flows import write_chat_flow, write_flow
from tests.support.serving import ROOT, run_command, serving

SPANS = {"invoke_workflow flow", "reply", "chat echo"}


@pytest.fixture(scope="module")
def collectors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Collector]]:
    """Two collectors, shared by these tests."""
    with (
        running_collector(tmp_path_factory.mktemp("a")) as first,
        running_collector(tmp_path_factory.mktemp("b")) as two,
    ):
        yield [first, two]


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    with running_collector(tmp_path) as running:
        yield running


def run_once(flow: Path, tmp_path: Path, **variables: str) -> str:
    """Serve the flow, run it once and stop; return the run's trace id."""
    with serving(flow, tmp_path, **variables) as served:
        response = httpx.post(f"{served.url}/run", json={"inputs": {"question": "hi"}, "stream": False})
        assert served.stop() == 0
    return str(response.json()["flow_run_info"]["otel_trace_id"])


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_spans_and_metrics_are_exported(tmp_path: Path, chat_flow: Path, collector: Collector, protocol: str) -> None:
    url = collector.grpc_url if protocol == "grpc" else collector.http_url
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-team=blue",
    }
    trace_id = run_once(chat_flow, tmp_path, **variables)
    collector.wait_for(lambda: set(collector.spans()) >= SPANS and "flowpod.runs" in collector.metrics())
    assert set(collector.spans()) == SPANS
    assert {request.protocol for request in collector.received()} == {protocol.partition("/")[0]}
    assert {request.headers["x-team"] for request in collector.received()} == {"blue"}
    resources = [span["resource"] for span in collector.spans().values()]
    assert {resource["service.name"] for resource in resources} == {"flow"}
    assert len({resource["service.instance.id"] for resource in resources}) == 1
    call = attributes_of(collector.spans()["chat echo"])
    assert (call["gen_ai.usage.input_tokens"], call["gen_ai.response.finish_reasons"]) == (11, ["stop"])
    (point,) = collector.metrics()["flowpod.runs"]["sum"]["dataPoints"]
    assert attributes_of(point) == {"flowpod.run.status": "Completed", "flowpod.protocol": "complete"}
    assert trace_id.startswith("0x")
    assert not (tmp_path / "data" / "traces.db").exists()  # somebody else has them


COUNTING = """
from opentelemetry import metrics
from promptflow.core import tool

calls = metrics.get_meter("mine").create_counter("my.calls", "{call}", "Calls of this node.")

@tool
def count() -> str:
    calls.add(1, {"colour": "blue"})
    return "done"
"""


@pytest.mark.parametrize("preference", ["cumulative", "delta", "lowmemory"])
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_metrics_of_workers_and_of_the_flow_itself(
    tmp_path: Path, collector: Collector, protocol: str, preference: str
) -> None:
    dag = "outputs: {}\nnodes: [{name: a, type: python, source: {path: count.py}}]\n"
    flow = write_flow(tmp_path / "flow", dag, {"count.py": COUNTING})
    variables = {
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.grpc_url if protocol == "grpc" else collector.http_url,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": preference,
    }
    with serving(flow, tmp_path, "--workers", "2", **variables) as served:
        for _ in range(6):
            assert httpx.post(f"{served.url}/", json={}).status_code == 200
        collector.wait_for(lambda: 'my_calls_total{colour="blue"} 6.0' in httpx.get(f"{served.url}/metrics").text)
        assert served.stop() == 0
    temporality = "CUMULATIVE" if preference == "cumulative" else "DELTA"
    for name, kind, field in (
        ("flowpod.runs", "sum", "asInt"),
        ("my.calls", "sum", "asInt"),
        ("flowpod.run.duration", "histogram", "count"),
    ):
        exported = [data[kind] for data in collector.all_metrics(name)]
        assert {data["aggregationTemporality"] for data in exported} == {f"AGGREGATION_TEMPORALITY_{temporality}"}
        assert sum(int(point[field]) for data in exported for point in data["dataPoints"]) == 6
    assert collector.metrics()["flowpod.run.active"]["sum"]["aggregationTemporality"].endswith("CUMULATIVE")
    assert "placeholder" not in collector.metrics()


def test_each_signal_has_its_own_destination(tmp_path: Path, chat_flow: Path, collectors: list[Collector]) -> None:
    variables = {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collectors[0].http_url}/v1/traces",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": collectors[1].grpc_url,
        "OTEL_SERVICE_NAME": "named",
        "FLOWPOD_TRACE_STORE": "on",
    }
    run_once(chat_flow, tmp_path, **variables)
    collectors[0].wait_for(lambda: bool(collectors[0].spans()))
    collectors[1].wait_for(lambda: bool(collectors[1].metrics()))
    assert (collectors[0].metrics(), collectors[1].spans()) == ({}, {})
    assert collectors[0].spans()["reply"]["resource"]["service.name"] == "named"
    assert "Completed" in run_command("traces", "--data", str(tmp_path / "data")).stdout  # kept as well


def test_several_exporters_at_once(tmp_path: Path, chat_flow: Path, collector: Collector) -> None:
    variables = {"OTEL_TRACES_EXPORTER": "otlp, console", "OTEL_METRICS_EXPORTER": "none"}
    run_once(chat_flow, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=collector.grpc_url, **variables)
    collector.wait_for(lambda: set(collector.spans()) == SPANS)
    assert '"name": "invoke_workflow flow"' in (tmp_path / "serve.log").read_text()
    assert collector.metrics() == {}


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin", "unknown exporter 'zipkin'; choose from otlp, console, none"),
        ("OTEL_METRICS_EXPORTER", "otlp,x", "unknown exporter 'x'"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "unknown protocol 'http/json'; choose from grpc, http/protobuf"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "abc", "'abc' is not a positive integer"),
        ("OTEL_BSP_SCHEDULE_DELAY", "-1", "'-1' is not a positive integer"),
    ],
)
def test_an_invalid_variable_is_reported(tmp_path: Path, variable: str, value: str, message: str) -> None:
    flow = write_chat_flow(tmp_path / "flow", "http://127.0.0.1:9")
    variables = {"OTEL_TRACES_EXPORTER": "otlp", variable: value, "PATH": os.environ["PATH"]}
    done = run_command("serve", str(flow), "--port", "0", env=variables)
    assert done.returncode == 1
    assert f"{variable}: {message}" in done.stderr


def test_no_log_line_has_a_collectors_token(tmp_path: Path, chat_flow: Path) -> None:
    run_once(
        chat_flow,
        tmp_path,
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="http://127.0.0.1:9/adapt_tenant@token-in-path/api/otlp/traces",
        OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        OTEL_EXPORTER_OTLP_TIMEOUT="1",
        FLOWPOD_LOG_LEVEL="debug",
    )
    log = (tmp_path / "serve.log").read_text()
    assert "Failed to export" in log
    assert "token-in-path" not in log


def test_headers_passwords_and_paths_of_collectors_are_secrets() -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Bearer%20header-token,x=y",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "https://user:password-1@host/path-token/v1/traces",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "https://host/v1/metrics",
    }
    secrets = Secrets(exporter_secrets(environ))
    assert secrets.redact("Bearer%20header-token header-token password-1 /path-token") == "*** *** *** ***"
    assert secrets.redact("https://host/v1/metrics") == "https://host/v1/metrics"


def test_exporters_are_imported_only_when_needed() -> None:
    code = """
import sys
from pathlib import Path
from flowpod.settings import Settings
from flowpod.telemetry.redaction import Secrets
from flowpod.telemetry.setup import set_up_telemetry
set_up_telemetry(Settings(trace_store="off"), "s", Path("/nowhere"), {}, Secrets())
print([name for name in sys.modules if name.startswith(("grpc", "opentelemetry.exporter", "opentelemetry.sdk.metrics", "google.protobuf"))])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("settings", "exporting", "expected"),
    [
        ({}, False, True),
        ({}, True, False),
        ({"history": "off"}, False, True),
        ({"history": "mysql://user:password@host/database"}, False, False),
        ({"history": "mysql://user:password@host/database", "trace_store": "on"}, True, True),
        ({"trace_store": "off"}, False, False),
    ],
)
def test_traces_are_stored_unless_exported_or_with_mysql(
    settings: dict[str, Any], exporting: bool, expected: bool
) -> None:
    assert stores_traces(Settings(**settings), exporting=exporting) is expected


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("OTEL_BSP_MAX_QUEUE_SIZE", "100", "max_export_batch_size must be less than or equal to max_queue_size"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "'soon'"),
    ],
)
def test_variables_that_opentelemetry_refuses_are_reported(
    tmp_path: Path, variable: str, value: str, message: str
) -> None:
    flow = write_chat_flow(tmp_path / "flow", "http://127.0.0.1:9")
    variables = {"OTEL_TRACES_EXPORTER": "otlp", variable: value, "PATH": os.environ["PATH"]}
    done = run_command("serve", str(flow), "--port", "0", env=variables)
    assert done.returncode == 1
    assert "invalid OpenTelemetry variable: " in done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_dropped_spans_start_at_zero() -> None:
    counted = Metrics()
    BatchExporter(InMemorySpanExporter(), "otlp", counted, {}).shutdown()  # type: ignore[no-untyped-call]
    families = counted.instruments.reader()()
    assert families["flowpod.trace.dropped_spans"].values == {(("flowpod.destination", "otlp"),): 0}


def test_spans_of_a_failing_exporter_count_as_dropped() -> None:
    class Breaking(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            raise OverflowError(f"{len(spans)} spans are too many")

    counted = Metrics()
    provider = SpanProvider([BatchExporter(Breaking(), "otlp", counted, {})])
    provider.get_tracer("test").start_span("lost").end()
    provider.shutdown()
    families = counted.instruments.reader()()
    assert sum(families["flowpod.trace.dropped_spans"].values.values()) == 1


def test_spans_that_do_not_fit_the_queue_count_as_dropped() -> None:
    blocked, failing = threading.Event(), threading.Event()

    class Refusing(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            failing.set()
            blocked.wait(10)
            return SpanExportResult.FAILURE

    counted = Metrics()
    environ = {"OTEL_BSP_MAX_QUEUE_SIZE": "512"}
    provider = SpanProvider([BatchExporter(Refusing(), "otlp", counted, environ)])
    tracer = provider.get_tracer("test")
    for _ in range(512):
        tracer.start_span("fills the first batch").end()
    assert failing.wait(10)
    for _ in range(600):
        tracer.start_span("and the queue, and more").end()
    blocked.set()
    provider.shutdown()
    families = counted.instruments.reader()()
    assert sum(families["flowpod.trace.dropped_spans"].values.values()) == 512 + 600  # none has got through


def test_unsampled_callers_are_still_stored(tmp_path: Path, chat_flow: Path) -> None:
    headers = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-00"}
    with serving(chat_flow, tmp_path) as served:
        httpx.post(f"{served.url}/", json={"question": "hi"}, headers=headers)
        assert httpx.get(f"{served.url}/traces/{'ab' * 16}").status_code == 200
    with serving(chat_flow, tmp_path, OTEL_TRACES_SAMPLER="always_off") as served:
        run = httpx.post(f"{served.url}/run", json={"inputs": {"question": "hi"}, "stream": False}).json()["run_id"]
        assert httpx.get(f"{served.url}/traces/{run}").status_code == 404


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_dead_collector_does_not_stop_the_service(tmp_path: Path, chat_flow: Path, protocol: str) -> None:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
    assert run_once(chat_flow, tmp_path, **variables) != ""


def test_tracing_off_makes_no_trace(tmp_path: Path, chat_flow: Path) -> None:
    assert run_once(chat_flow, tmp_path, FLOWPOD_TRACING="off") == ""
    assert run_once(chat_flow, tmp_path, OTEL_SDK_DISABLED="true") == ""
