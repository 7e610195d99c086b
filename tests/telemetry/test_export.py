"""Traces leave over OTLP when the standard variables say where: a real collector's end of the protocol records them."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.support.flows import write_chat_flow
from tests.support.model_server import ModelServer
from tests.support.serving import in_thread, serving


class Collected:
    """What a collector got."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.arrived = threading.Event()

    def add(self, request: ExportTraceServiceRequest) -> None:
        self.requests.append(request)
        self.arrived.set()

    def spans(self) -> dict[str, tuple[str, str]]:
        """Return each span's name with its trace's id and its service."""
        found = {}
        for request in self.requests:
            for resource in request.resource_spans:
                service = next(a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
                for scope in resource.scope_spans:
                    found.update({span.name: (f"0x{span.trace_id.hex()}", service) for span in scope.spans})
        return found


def run_once(flow: Path, tmp_path: Path, **variables: str) -> str:
    """Serve the flow, run it once and stop; return the run's trace id."""
    with serving(flow, tmp_path, **variables) as served:
        response = httpx.post(f"{served.url}/run", json={"inputs": {"question": "hi"}, "stream": False})
        assert served.stop() == 0
    return str(response.json()["flow_run_info"]["otel_trace_id"])


def test_over_http(tmp_path: Path, model_server: ModelServer) -> None:
    collected = Collected()

    async def receive(request: Request) -> Response:
        collected.add(ExportTraceServiceRequest.FromString(await request.body()))
        return Response(ExportTraceServiceResponse().SerializeToString(), media_type="application/x-protobuf")

    with in_thread(Starlette(routes=[Route("/v1/traces", receive, methods=["POST"])])) as url:
        flow = write_chat_flow(tmp_path / "flow", model_server.url)
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
        trace_id = run_once(flow, tmp_path, **variables)
        assert collected.arrived.wait(10)
    expected = (trace_id, "flow")
    assert collected.spans() == {"invoke_workflow flow": expected, "reply": expected, "chat echo": expected}


def test_over_grpc(tmp_path: Path, model_server: ModelServer) -> None:
    collected = Collected()

    class Servicer(TraceServiceServicer):
        def Export(self, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:  # noqa: N802
            collected.add(request)
            return ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    add_TraceServiceServicer_to_server(Servicer(), server)  # type: ignore[no-untyped-call]  # generated code
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        flow = write_chat_flow(tmp_path / "flow", model_server.url)
        variables = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_SERVICE_NAME": "named"}
        trace_id = run_once(flow, tmp_path, **variables)
        assert collected.arrived.wait(10)
    finally:
        server.stop(None).wait()
    assert collected.spans()["reply"] == (trace_id, "named")


def test_a_dead_collector_does_not_stop_the_service(tmp_path: Path, model_server: ModelServer) -> None:
    flow = write_chat_flow(tmp_path / "flow", model_server.url)
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
    assert run_once(flow, tmp_path, OTEL_EXPORTER_OTLP_TIMEOUT="1", **variables) != ""


def test_tracing_off_makes_no_trace(tmp_path: Path, model_server: ModelServer) -> None:
    flow = write_chat_flow(tmp_path / "flow", model_server.url)
    assert run_once(flow, tmp_path, FLOWPOD_TRACING="off") == ""
