"""A collector: a process that speaks OTLP over gRPC and HTTP, and writes what it gets to a file, one JSON line a request.

Run as a program it prints its two ports: `python -m tests.support.collector FILE`.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as traces_grpc

from tests.support.serving import ROOT

_WAIT_S = 15


@dataclass(frozen=True, slots=True)
class Received:
    """One request: over what it came, with which headers, and its content as JSON has it."""

    protocol: str
    headers: dict[str, str]
    content: dict[str, Any]


class Collector:
    """A collector that runs in a process of its own."""

    def __init__(self, grpc_port: int, http_port: int, file: Path) -> None:
        self.grpc_url = f"http://127.0.0.1:{grpc_port}"
        self.http_url = f"http://127.0.0.1:{http_port}"
        self._file = file

    def received(self) -> list[Received]:
        """Return every request so far."""
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        return [Received(**json.loads(line)) for line in lines]

    def spans(self) -> dict[str, dict[str, Any]]:
        """Return the spans by name, each with the `resource` that it came from."""
        found = {}
        for request in self.received():
            for group in request.content.get("resourceSpans", []):
                resource = attributes_of(group["resource"])
                for scope in group["scopeSpans"]:
                    found.update({span["name"]: {**span, "resource": resource} for span in scope["spans"]})
        return found

    def metrics(self) -> dict[str, dict[str, Any]]:
        """Return the metrics by name, the last of each."""
        return {metric["name"]: metric for metric in self._metrics()}

    def all_metrics(self, name: str) -> list[dict[str, Any]]:
        """Return everything that was received of a metric."""
        return [metric for metric in self._metrics() if metric["name"] == name]

    def _metrics(self) -> list[dict[str, Any]]:
        return [
            metric
            for request in self.received()
            for group in request.content.get("resourceMetrics", [])
            for scope in group["scopeMetrics"]
            for metric in scope["metrics"]
        ]

    def wait_for(self, what: Callable[[], bool]) -> None:
        """Wait until what was received fits."""
        deadline = time.monotonic() + _WAIT_S
        while not what():
            assert time.monotonic() < deadline, self.received()
            time.sleep(0.05)


def attributes_of(part: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of a span, an event or a resource, as plain values."""
    return {item["key"]: _plain(item["value"]) for item in part.get("attributes", [])}


def _plain(value: dict[str, Any]) -> Any:
    ((kind, content),) = value.items()
    if kind == "intValue":
        return int(content)
    return [_plain(item) for item in content.get("values", [])] if kind == "arrayValue" else content


@contextmanager
def running_collector(folder: Path) -> Iterator[Collector]:
    """Run a collector until the block ends."""
    file = folder / "collected.jsonl"
    command = [sys.executable, "-m", "tests.support.collector", str(file)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        grpc_port, http_port = map(int, process.stdout.readline().split())
        yield Collector(grpc_port, http_port, file)
    finally:
        process.kill()
        process.communicate()


class _Record:
    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()

    def add(self, protocol: str, headers: dict[str, str], message: Message) -> None:
        received = {"protocol": protocol, "headers": headers, "content": MessageToDict(message)}
        with self._lock, self._file.open("a") as file:
            file.write(json.dumps(received) + "\n")


def _serve_grpc(record: _Record) -> tuple[grpc.Server, int]:
    def headers_of(context: grpc.ServicerContext) -> dict[str, str]:
        return {key: str(value) for key, value in context.invocation_metadata()}

    class Traces(traces_grpc.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the service's name for it
            record.add("grpc", headers_of(context), request)
            return traces.ExportTraceServiceResponse()

    class Metrics(metrics_grpc.MetricsServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the service's name for it
            record.add("grpc", headers_of(context), request)
            return metrics.ExportMetricsServiceResponse()

    server = grpc.server(ThreadPoolExecutor(4))
    traces_grpc.add_TraceServiceServicer_to_server(Traces(), server)  # type: ignore[no-untyped-call]  # generated
    metrics_grpc.add_MetricsServiceServicer_to_server(Metrics(), server)  # type: ignore[no-untyped-call]  # generated
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def _serve_http(record: _Record) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        kinds: ClassVar[dict[str, tuple[type[Message], type[Message]]]] = {
            "/v1/traces": (traces.ExportTraceServiceRequest, traces.ExportTraceServiceResponse),
            "/v1/metrics": (metrics.ExportMetricsServiceRequest, metrics.ExportMetricsServiceResponse),
        }

        def do_POST(self) -> None:
            request, response = self.kinds[self.path]
            body = self.rfile.read(int(self.headers["Content-Length"]))
            record.add("http", {key.lower(): value for key, value in self.headers.items()}, request.FromString(body))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.end_headers()
            self.wfile.write(response().SerializeToString())

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name for it
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


def main() -> None:
    record = _Record(Path(sys.argv[1]))
    http_server = _serve_http(record)
    grpc_server, grpc_port = _serve_grpc(record)  # it serves as long as somebody holds it
    sys.stdout.write(f"{grpc_port} {http_server.server_address[1]}\n")
    sys.stdout.flush()
    http_server.serve_forever()
    grpc_server.stop(None)


if __name__ == "__main__":
    main()
