"""What watching a run costs it: the packaged flow with its offline model, run again and again.

    python -m tests.bench.telemetry

prints, for each way of watching, the milliseconds that a run takes (median of several rounds) and the processor
time that the whole process needs for it, background threads included. The dead collector is a port that refuses, and one
that takes connections and never answers.
"""

import asyncio
import logging
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from flowpod.compat import stand_ins
from flowpod.engine.request import RunRequest
from flowpod.service import FlowService
from flowpod.telemetry.content import Content
from flowpod.telemetry.exporters import BatchExporter
from flowpod.telemetry.metrics import Metrics
from flowpod.telemetry.redaction import Secrets
from flowpod.telemetry.span_provider import SpanProvider
from flowpod.telemetry.span_record import SpanConsumer
from flowpod.telemetry.trace_store import TraceStore
from flowpod.telemetry.trace_writer import TraceWriter
from flowpod.telemetry.tracing import Tracing
from tests.bench.results import keep, options
from tests.support.flows import SESSION, service_of
from tests.support.serving import ROOT

ROUNDS, RUNS = 15, 100
MEASUREMENTS = "a run's measurements"


async def run_flow(service: FlowService) -> None:
    run = await service.start(RunRequest({"question": "How do I rotate a token?"}, SESSION))
    async for batch in run.events.batches():
        last = batch[-1]
    assert getattr(last, "status", "") == "Completed"
    await run.finished()


async def measure(name: str, tracing: Tracing) -> dict[str, Any]:
    """Print what watching costs, and return it."""
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
    return {"watched": name, "ms": statistics.median(times), "cpu_ms": used}


def measure_measurements() -> dict[str, Any]:
    """Print what the measurements of one run cost, and return it: no setting turns metrics off."""
    metrics, runs = Metrics(), 20_000
    labels = metrics.model_labels("chat", "openai", "model")
    cpu = time.process_time()
    for _ in range(runs):
        metrics.run_began()
        metrics.stream_began()
        metrics.first_chunk_received(labels, 0.1)
        metrics.tokens_used(labels, 11, 64)
        metrics.model_call_ended(labels, 0.2, "")
        metrics.node_ended("reply", "llm", "Completed", 0.2)
        metrics.history.written(0.001)
        metrics.run_ended("Completed", "simple", 0.2)
        metrics.stream_ended()
    used = (time.process_time() - cpu) / runs * 1000
    print(f"{MEASUREMENTS:34}{'':10}{used:10.3f}", flush=True)
    return {"watched": MEASUREMENTS, "ms": used, "cpu_ms": used}


def watched(consumer: SpanConsumer) -> Tracing:
    return Tracing(SpanProvider([consumer]), Metrics())


def exporting(exporter: SpanExporter) -> Tracing:
    return watched(BatchExporter(exporter, "otlp", Metrics(), {}))


@contextmanager
def silent_collector() -> Iterator[str]:
    """Listen, and never answer."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


async def measure_all() -> list[dict[str, Any]]:
    stand_ins.install()
    print(f"{'':34}{'ms a run':>10}{'cpu ms':>10}")
    rows = [
        measure_measurements(),
        await measure("metrics, no spans", Tracing(None)),
        await measure("and spans that nobody takes", Tracing(SpanProvider(sampler=ALWAYS_OFF), Metrics())),
    ]
    with tempfile.TemporaryDirectory() as folder:
        store = TraceStore(Path(folder) / "traces.db", max_bytes=200 << 20, max_age_s=86400)
        writer = TraceWriter(store, Metrics(), Content(Secrets(["a-secret-key"])))
        rows.append(await measure("and spans in the local store", watched(writer)))
        writer.shutdown()
        stored = store.path.stat().st_size / (ROUNDS * RUNS + 1) / 1024
    rows += [
        await measure("or to a gRPC port that refuses", exporting(GrpcExporter("http://127.0.0.1:9"))),
        await measure("or to an HTTP port that refuses", exporting(HttpExporter("http://127.0.0.1:9/v1/traces"))),
    ]
    with silent_collector() as address:
        rows += [
            await measure("or to gRPC that never answers", exporting(GrpcExporter(f"http://{address}"))),
            await measure("or to HTTP that never answers", exporting(HttpExporter(f"http://{address}/v1/traces"))),
        ]
    print(f"{stored:.1f} KiB a run in the store")
    return rows


def main() -> None:
    chosen = options("Measure what watching a run costs it.")
    logging.disable(logging.WARNING)
    keep(chosen.results, "telemetry.json", asyncio.run(measure_all()))
    sys.stdout.flush()
    os._exit(0)  # the exporters would wait for their collectors


if __name__ == "__main__":
    main()
