"""What watching a run costs it: the packaged flow with its offline model, run again and again.

`make bench` prints, for each way of watching, the milliseconds that a run takes (median of several rounds) and the processor
time that the whole process needs for it, background threads included. The dead collector is a port that refuses, and one
that takes connections and never answers.
"""

import asyncio
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from flowpod.compat import stand_ins
from flowpod.engine.request import RunRequest
from flowpod.service import FlowService
from flowpod.telemetry.content import Content
from flowpod.telemetry.metrics import Metrics
from flowpod.telemetry.redaction import Secrets
from flowpod.telemetry.setup import tracing_of
from flowpod.telemetry.span_redaction import RedactingProcessor
from flowpod.telemetry.trace_store import TraceStore
from flowpod.telemetry.trace_store_processor import TraceStoreProcessor
from flowpod.telemetry.tracing import Tracing
from tests.support.flows import SESSION, service_of
from tests.support.serving import ROOT

ROUNDS, RUNS = 15, 100


async def run_flow(service: FlowService) -> None:
    run = await service.start(RunRequest({"question": "How do I rotate a token?"}, SESSION))
    async for batch in run.events.batches():
        last = batch[-1]
    assert getattr(last, "status", "") == "Completed"
    await run.finished()


async def measure(name: str, tracing: Tracing) -> None:
    async with service_of(ROOT / "flow", tracing=tracing) as service:
        await run_flow(service)
        times, cpu = [], time.process_time()
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            for _ in range(RUNS):
                await run_flow(service)
            times.append((time.perf_counter() - begun) / RUNS * 1000)
        used = (time.process_time() - cpu) / (ROUNDS * RUNS) * 1000
    print(f"{name:34}{statistics.median(times):10.3f}{used:10.3f}", flush=True)


def watched(processor: SpanProcessor) -> Tracing:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    return tracing_of(provider, counted())


def counted() -> Metrics:
    return Metrics(MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False))


@contextmanager
def silent_collector() -> Iterator[str]:
    """Listen, and never answer."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


async def main() -> None:
    stand_ins.install()
    print(f"{'':34}{'ms a run':>10}{'cpu ms':>10}")
    await measure("neither spans nor metrics", Tracing(None))
    await measure("metrics", Tracing(None, counted()))
    off = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
    await measure("and spans that nobody takes", tracing_of(off, counted()))
    with tempfile.TemporaryDirectory() as folder:
        store = TraceStore(Path(folder) / "traces.db", max_bytes=200 << 20, max_age_s=86400)
        processor = RedactingProcessor(Content(Secrets(["a-secret-key"])), [TraceStoreProcessor(store, counted())])
        await measure("and spans in the local store", watched(processor))
        processor.shutdown()
        stored = store.path.stat().st_size / (ROUNDS * RUNS + 1) / 1024
    await measure("or to a gRPC port that refuses", watched(BatchSpanProcessor(GrpcExporter("http://127.0.0.1:9"))))
    refusing = HttpExporter("http://127.0.0.1:9/v1/traces")
    await measure("or to an HTTP port that refuses", watched(BatchSpanProcessor(refusing)))
    with silent_collector() as address:
        await measure("or to gRPC that never answers", watched(BatchSpanProcessor(GrpcExporter(f"http://{address}"))))
        silent = HttpExporter(f"http://{address}/v1/traces")
        await measure("or to HTTP that never answers", watched(BatchSpanProcessor(silent)))
    print(f"{stored:.1f} KiB a run in the store")


if __name__ == "__main__":
    import logging
    import os

    logging.disable(logging.WARNING)
    asyncio.run(main())
    os._exit(0)  # the exporters would wait for their collectors
