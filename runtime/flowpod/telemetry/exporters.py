"""Exporters of spans and metrics, as OpenTelemetry's standard variables name them.

Each is imported only when it is named: the gRPC exporter alone takes 11 MB.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Literal
from urllib.parse import unquote, urlsplit

from opentelemetry.sdk.environment_variables import (
    OTEL_BSP_EXPORT_TIMEOUT,
    OTEL_BSP_MAX_EXPORT_BATCH_SIZE,
    OTEL_BSP_MAX_QUEUE_SIZE,
    OTEL_BSP_SCHEDULE_DELAY,
)
from opentelemetry.sdk.metrics.export import MetricExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from flowpod.errors import InvalidRequest
from flowpod.telemetry.content import Content
from flowpod.telemetry.metrics import Metrics
from flowpod.telemetry.redaction import redacted

Signal = Literal["TRACES", "METRICS"]

_ENDING = re.compile(r"/?(v1/(traces|metrics))?/?$")
_KINDS = ("otlp", "console", "none")
_NUMBERS = (
    OTEL_BSP_MAX_QUEUE_SIZE,
    OTEL_BSP_MAX_EXPORT_BATCH_SIZE,
    OTEL_BSP_SCHEDULE_DELAY,
    OTEL_BSP_EXPORT_TIMEOUT,
)
_MOST_QUEUED = "2048"
_PROTOCOLS = ("grpc", "http/protobuf")


def exporter_names(environ: Mapping[str, str], signal: Signal) -> list[str]:
    """Return the exporters of a signal: those of OTEL_<signal>_EXPORTER, or "otlp" where an endpoint is set.

    Raises InvalidRequest for one that there is not.
    """
    variable = f"OTEL_{signal}_EXPORTER"
    named = [name.strip() for name in environ.get(variable, "").split(",") if name.strip()]
    for name in named:
        if name not in _KINDS:
            raise InvalidRequest(f"{variable}: there is no exporter {name!r}; there are {', '.join(_KINDS)}")
    if not named and (
        environ.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    ):
        named = ["otlp"]
    return [] if "none" in named else list(dict.fromkeys(named))


def check_numbers(environ: Mapping[str, str]) -> None:
    """Raise InvalidRequest for a number of the batches of spans that is none: OpenTelemetry takes another instead."""
    for variable in _NUMBERS:
        value = environ.get(variable) or "1"
        if not (value.isdecimal() and int(value)):
            raise InvalidRequest(f"{variable}: expected a number from 1 on, not {value!r}")


def exporter_secrets(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield what no log line may show of the collectors' addresses: headers, passwords, and paths, which hold tokens.

    Alibaba Cloud's addresses do, and an exporter that cannot reach one logs it.
    """
    for signal in ("", "TRACES_", "METRICS_"):
        for header in environ.get(f"OTEL_EXPORTER_OTLP_{signal}HEADERS", "").split(","):
            value = header.partition("=")[2].strip()
            yield from (value, unquote(value), *unquote(value).split())
        address = environ.get(f"OTEL_EXPORTER_OTLP_{signal}ENDPOINT", "")
        with suppress(ValueError):  # what is no address is the exporter's to refuse
            parts = urlsplit(address)
            path = _ENDING.sub("", parts.path)
            yield from (path, unquote(path), parts.query, parts.password or "")


def span_exporter(name: str, environ: Mapping[str, str]) -> SpanExporter:
    """Make an exporter of spans; the rest of its settings it reads itself from the standard variables."""
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    if _protocol(environ, "TRACES") == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        return GrpcExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

    return HttpExporter()


def metric_exporter(name: str, environ: Mapping[str, str]) -> MetricExporter:
    """Make an exporter of metrics; the rest of its settings it reads itself from the standard variables."""
    if name == "console":
        from opentelemetry.sdk.metrics.export import ConsoleMetricExporter

        return ConsoleMetricExporter()
    if _protocol(environ, "METRICS") == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter

        return GrpcExporter()
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpExporter

    return HttpExporter()


def _protocol(environ: Mapping[str, str], signal: Signal) -> str:
    variables = (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    variable = next((variable for variable in variables if environ.get(variable)), "")
    protocol = environ.get(variable, "grpc")
    if protocol not in _PROTOCOLS:
        raise InvalidRequest(f"{variable}: there is no protocol {protocol!r}; there are {', '.join(_PROTOCOLS)}")
    return protocol


class CountedExport(BatchSpanProcessor):
    """Exports spans in batches, in a thread of its own; those that are lost on the way are counted.

    They are, when they come faster than the exporter takes them, and when it gives up on a batch.
    """

    def __init__(
        self, exporter: SpanExporter, name: str, metrics: Metrics, content: Content, environ: Mapping[str, str]
    ) -> None:
        self._counted = _Counted(exporter, name, metrics)
        self._content = content
        self._most = int(environ.get(OTEL_BSP_MAX_QUEUE_SIZE) or _MOST_QUEUED)
        self._ended = 0
        super().__init__(self._counted, max_queue_size=self._most)

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span that has ended."""
        if span.context is None or not span.context.trace_flags.sampled:
            return
        if self._ended - self._counted.taken >= self._most:
            self._counted.lose(1)
            return
        self._ended += 1
        super().on_end(redacted(span, self._content))


class _Counted(SpanExporter):
    """An exporter that says how many spans it has `taken`, and counts those that it does not get rid of."""

    def __init__(self, exporter: SpanExporter, name: str, metrics: Metrics) -> None:
        self._exporter = exporter
        self._name = name
        self._metrics = metrics
        self.lose(0)  # an alert needs to see the zero from which a number rises
        self.taken = 0

    def lose(self, count: int) -> None:
        """Count spans that are lost."""
        self._metrics.spans_dropped(count, self._name)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export as the exporter does."""
        self.taken += len(spans)
        try:
            result = self._exporter.export(spans)
        except Exception:  # the batch's thread logs it
            self.lose(len(spans))
            raise
        if result is not SpanExportResult.SUCCESS:
            self.lose(len(spans))
        return result

    def shutdown(self) -> None:
        """Shut the exporter down."""
        self._exporter.shutdown()
