"""OpenTelemetry's tracer provider, made once by the command line."""

from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from runtime import __version__
from runtime.telemetry.tracing import Tracing

_SCOPE = "flowpod"


def set_up_tracing(service: str, environ: Mapping[str, str]) -> tuple[Tracing, TracerProvider]:
    """Make the process's tracer provider and return it with the Tracing that uses it.

    Spans are exported over OTLP when the standard variables name an endpoint; without one they only give runs their
    trace ids. The provider is also made the global one, so that a Python node's own spans join the trace.
    """
    own = {SERVICE_NAME: service, SERVICE_VERSION: __version__}
    named = "OTEL_SERVICE_NAME" in environ or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    if named:
        del own[SERVICE_NAME]
    resource = Resource.create(own)
    if _endpoint(environ) and environ.get("OTEL_TRACES_EXPORTER", "otlp") != "none":
        provider = TracerProvider(resource=resource)
        provider.add_span_processor(BatchSpanProcessor(_exporter(environ)))
    else:
        # Nobody takes the spans: they have ids, and hold nothing.
        provider = TracerProvider(resource=resource, sampler=ALWAYS_OFF)
    trace.set_tracer_provider(provider)
    return tracing_of(provider), provider


def tracing_of(provider: TracerProvider) -> Tracing:
    """Return a Tracing that makes its spans with `provider`."""
    return Tracing(provider.get_tracer(_SCOPE, __version__))


def _endpoint(environ: Mapping[str, str]) -> str | None:
    return environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")


def _exporter(environ: Mapping[str, str]) -> SpanExporter:
    protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    # Imported only when used: the gRPC exporter alone takes 11 MB.
    if protocol.startswith("http"):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

        return HttpExporter()
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

    return GrpcExporter()
