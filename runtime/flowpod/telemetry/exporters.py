"""Exporters of spans and metrics, chosen by OpenTelemetry's standard variables.

Each is imported only when a variable names it: the gRPC exporter alone takes 11 MB.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pkgutil import resolve_name
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from opentelemetry.sdk.environment_variables import (
    OTEL_BSP_EXPORT_TIMEOUT,
    OTEL_BSP_MAX_EXPORT_BATCH_SIZE,
    OTEL_BSP_MAX_QUEUE_SIZE,
    OTEL_BSP_SCHEDULE_DELAY,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from flowpod.errors import InvalidRequest
from flowpod.telemetry.content import Content
from flowpod.telemetry.metrics import Metrics
from flowpod.telemetry.span_record import EndedSpan
from flowpod.telemetry.span_redaction import readable_span, redact_span

Signal = Literal["TRACES", "METRICS"]

_ENDING = re.compile(r"/?(v1/(traces|metrics))?/?$")
_NAMES = ("otlp", "console", "none")
_NUMBERS = (OTEL_BSP_MAX_QUEUE_SIZE, OTEL_BSP_MAX_EXPORT_BATCH_SIZE, OTEL_BSP_SCHEDULE_DELAY, OTEL_BSP_EXPORT_TIMEOUT)
_MAX_QUEUED = "2048"
_PROTOCOLS = ("grpc", "http/protobuf")
_CLASSES: Mapping[tuple[Signal, str], str] = {
    ("TRACES", "console"): "opentelemetry.sdk.trace.export:ConsoleSpanExporter",
    ("TRACES", "grpc"): "opentelemetry.exporter.otlp.proto.grpc.trace_exporter:OTLPSpanExporter",
    ("TRACES", "http/protobuf"): "opentelemetry.exporter.otlp.proto.http.trace_exporter:OTLPSpanExporter",
    ("METRICS", "console"): "opentelemetry.sdk.metrics.export:ConsoleMetricExporter",
    ("METRICS", "grpc"): "opentelemetry.exporter.otlp.proto.grpc.metric_exporter:OTLPMetricExporter",
    ("METRICS", "http/protobuf"): "opentelemetry.exporter.otlp.proto.http.metric_exporter:OTLPMetricExporter",
}


def exporter_names(environ: Mapping[str, str], signal: Signal) -> list[str]:
    """Return a signal's exporters, "otlp" where only an endpoint is set; raises InvalidRequest for an unknown name."""
    variable = f"OTEL_{signal}_EXPORTER"
    named = [name.strip() for name in environ.get(variable, "").split(",") if name.strip()]
    for name in named:
        if name not in _NAMES:
            raise InvalidRequest(f"{variable}: unknown exporter {name!r}; choose from {', '.join(_NAMES)}")
    endpoints = (f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    if not named and any(map(environ.get, endpoints)):
        named = ["otlp"]
    return [] if "none" in named else list(dict.fromkeys(named))


def check_numbers(environ: Mapping[str, str]) -> None:
    """Raise InvalidRequest for an invalid setting of span batches: OpenTelemetry would use its default instead."""
    for variable in _NUMBERS:
        value = environ.get(variable) or "1"
        if not (value.isdecimal() and int(value)):
            raise InvalidRequest(f"{variable}: {value!r} is not a positive integer")


def exporter_secrets(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the secrets of the collectors' addresses: headers, passwords, queries, and paths, which may be tokens."""
    for signal in ("", "TRACES_", "METRICS_"):
        for header in environ.get(f"OTEL_EXPORTER_OTLP_{signal}HEADERS", "").split(","):
            value = header.partition("=")[2].strip()
            yield from (value, unquote(value), *unquote(value).split())
        address = environ.get(f"OTEL_EXPORTER_OTLP_{signal}ENDPOINT", "")
        with suppress(ValueError):  # the exporter refuses an invalid address
            parts = urlsplit(address)
            path = _ENDING.sub("", parts.path)
            yield from (path, unquote(path), parts.query, parts.password or "")


def make_exporter(name: str, signal: Signal, environ: Mapping[str, str]) -> Any:
    """Make an exporter, which reads the standard variables; raises InvalidRequest for an unknown protocol."""
    kind = "console" if name == "console" else _protocol(environ, signal)
    return resolve_name(_CLASSES[signal, kind])()


def _protocol(environ: Mapping[str, str], signal: Signal) -> str:
    variables = (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    variable = next((variable for variable in variables if environ.get(variable)), "")
    protocol = environ.get(variable, "grpc")
    if protocol not in _PROTOCOLS:
        raise InvalidRequest(f"{variable}: unknown protocol {protocol!r}; choose from {', '.join(_PROTOCOLS)}")
    return protocol


class BatchExporter(BatchSpanProcessor):
    """Exports spans in batches, without their secrets, in a thread of its own, and counts those that are dropped.

    They are when they end faster than the exporter takes them, and when the exporter fails with a batch.
    """

    def __init__(
        self,
        exporter: SpanExporter,
        name: str,
        metrics: Metrics,
        environ: Mapping[str, str],
        content: Content | None = None,
        resource: Resource | None = None,
    ) -> None:
        redact = partial(_redacted, content=content or Content(), resource=resource or Resource.get_empty())
        self._exporter = _CountingExporter(exporter, name, metrics, redact)
        self._max_queued = int(environ.get(OTEL_BSP_MAX_QUEUE_SIZE) or _MAX_QUEUED)
        self._ended = 0
        super().__init__(self._exporter, max_queue_size=self._max_queued)

    def take(self, span: EndedSpan) -> None:
        """Queue a span that has ended."""
        if self._ended - self._exporter.taken >= self._max_queued:
            self._exporter.count_dropped(1)
            return
        self._ended += 1
        self.on_end(span)  # type: ignore[arg-type]  # the queue passes it on to the exporter, which makes it readable


class _CountingExporter(SpanExporter):
    """Redacts spans, and counts those that the exporter has `taken`, and those that it could not send."""

    def __init__(
        self, exporter: SpanExporter, name: str, metrics: Metrics, redact: Callable[[EndedSpan], ReadableSpan]
    ) -> None:
        self._exporter = exporter
        self._redact = redact
        self._name = name
        self._metrics = metrics
        self.count_dropped(0)  # an alert needs to see the zero before the first loss
        self.taken = 0

    def count_dropped(self, count: int) -> None:
        self._metrics.spans_dropped(count, self._name)

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        self.taken += len(spans)
        try:
            result = self._exporter.export([self._redact(span) for span in spans])
        except Exception:  # the thread of the batches logs it
            self.count_dropped(len(spans))
            raise
        if result is not SpanExportResult.SUCCESS:
            self.count_dropped(len(spans))
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


def _redacted(span: EndedSpan, content: Content, resource: Resource) -> ReadableSpan:
    return readable_span(redact_span(span, content), resource)
