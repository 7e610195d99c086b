"""Exporters of spans and metrics, as OpenTelemetry's standard variables name them.

Each is imported only when it is named: the gRPC exporter alone takes 11 MB.
"""

from collections.abc import Mapping
from typing import Literal

from opentelemetry.sdk.metrics.export import MetricExporter
from opentelemetry.sdk.trace.export import SpanExporter

from runtime.errors import InvalidRequest

Signal = Literal["TRACES", "METRICS"]

_KINDS = ("otlp", "console", "none")
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
