"""OpenTelemetry's providers, made once by the command line, and where what they gather goes."""

import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from opentelemetry import metrics, trace
from opentelemetry.sdk.environment_variables import (
    OTEL_SDK_DISABLED,
    OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT,
    OTEL_TRACES_SAMPLER,
)
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler

from flowpod import __version__
from flowpod.errors import InvalidRequest
from flowpod.settings import Settings
from flowpod.telemetry.content import Content, Secrets
from flowpod.telemetry.exporters import (
    CountedExport,
    check_numbers,
    exporter_names,
    exporter_secrets,
    metric_exporter,
    span_exporter,
)
from flowpod.telemetry.metrics import SCOPE, Metrics
from flowpod.telemetry.recorder import TraceRecorder
from flowpod.telemetry.snapshots import Snapshots
from flowpod.telemetry.store import FILE, TraceStore
from flowpod.telemetry.tracing import Tracing

_LAST_SPANS_S = 3.0
_MOST_ATTRIBUTES = 2048  # OpenTelemetry's 128 cannot hold a conversation, and drops the oldest: the span's very name
_DAY_S = 86400.0
_MEGABYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What this process gathers of itself. `recorder` is None when no trace is kept here."""

    tracing: Tracing
    snapshots: Snapshots
    recorder: TraceRecorder | None
    tracer_provider: TracerProvider | None
    meter_provider: MeterProvider

    def shutdown(self) -> None:
        """Export and store the last spans and metrics, within three seconds."""

        def work() -> None:
            if self.tracer_provider is not None:
                self.tracer_provider.shutdown()
            self.meter_provider.shutdown()

        # A dead collector must not hold up the end: what it has not taken by then is lost.
        last = threading.Thread(target=work, daemon=True)
        last.start()
        last.join(_LAST_SPANS_S)


@contextmanager
def _as_our_error() -> Iterator[None]:
    """Tell of a variable that OpenTelemetry refuses as of every other setting, without a stack."""
    try:
        yield
    except ValueError as error:
        raise InvalidRequest(f"one of OpenTelemetry's variables is wrong: {error}") from error


@_as_our_error()
def set_up_telemetry(
    settings: Settings, service: str, data: Path, environ: Mapping[str, str], secrets: Secrets
) -> Telemetry:
    """Make the process's providers, and with them what traces and counts; no span shows any of `secrets`.

    Spans and metrics are exported as the standard variables say; spans are kept in the folder `data` too, as
    `keeps_traces` tells. The providers are also made the global ones, so that a Python node's own spans join the trace.
    Raises InvalidRequest for a variable that is wrong.
    """
    check_numbers(environ)
    secrets.add(exporter_secrets(environ))
    resource = _resource(service, environ)
    content = Content(secrets, captured=settings.trace_content == "on", max_chars=settings.trace_content_max_chars)
    snapshots = Snapshots(data, str(resource.attributes[SERVICE_INSTANCE_ID]))
    readers: list[MetricReader] = [
        PeriodicExportingMetricReader(metric_exporter(name, environ)) for name in exporter_names(environ, "METRICS")
    ]
    meter_provider = MeterProvider([snapshots.reader, *readers], resource=resource)
    metrics.set_meter_provider(meter_provider)
    counted = Metrics(meter_provider)
    if settings.tracing == "off" or environ.get(OTEL_SDK_DISABLED, "").lower() == "true":
        return Telemetry(Tracing(None, counted, content), snapshots, None, None, meter_provider)
    exporters = exporter_names(environ, "TRACES")
    recorder = (
        _recorder(settings, data, counted, content) if keeps_traces(settings, exporting=bool(exporters)) else None
    )
    provider = TracerProvider(_sampler(exporters, recorder, environ), resource, span_limits=_limits(environ))
    for name in exporters:
        provider.add_span_processor(CountedExport(span_exporter(name, environ), name, counted, content, environ))
    if recorder is not None:
        provider.add_span_processor(recorder)
    trace.set_tracer_provider(provider)
    return Telemetry(tracing_of(provider, counted, content), snapshots, recorder, provider, meter_provider)


def keeps_traces(settings: Settings, *, exporting: bool) -> bool:
    """Return whether traces are kept in the data folder.

    By default they are, where nothing else takes them and this seems to be the only instance: several share a MySQL
    history, and a request for a trace would reach the wrong one.
    """
    if settings.trace_store == "auto":
        return not exporting and not (settings.history or "").startswith("mysql")
    return settings.trace_store == "on"


def _recorder(settings: Settings, data: Path, counted: Metrics, content: Content) -> TraceRecorder:
    max_bytes, max_age_s = settings.trace_store_max_mb * _MEGABYTE, settings.trace_store_days * _DAY_S
    return TraceRecorder(TraceStore(data / FILE, max_bytes=max_bytes, max_age_s=max_age_s), counted, content)


def tracing_of(provider: TracerProvider, counted: Metrics | None = None, content: Content | None = None) -> Tracing:
    """Return a Tracing that makes its spans with `provider`."""
    return Tracing(provider.get_tracer(SCOPE, __version__), counted, content)


def _resource(service: str, environ: Mapping[str, str]) -> Resource:
    own = {SERVICE_NAME: service, SERVICE_VERSION: __version__, SERVICE_INSTANCE_ID: str(uuid.uuid4())}
    given = environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    if "OTEL_SERVICE_NAME" in environ or f"{SERVICE_NAME}=" in given:
        del own[SERVICE_NAME]
    return Resource.create(own)


def _sampler(exporters: list[str], recorder: TraceRecorder | None, environ: Mapping[str, str]) -> Sampler | None:
    """Return which runs are traced; None leaves it to the standard variables and to the caller's `traceparent`."""
    if not exporters and recorder is None:
        return ALWAYS_OFF  # nobody takes the spans: they have ids, and hold nothing
    # What is kept here costs nobody else anything, so that a proxy which samples a hundredth does not decide on it.
    return None if exporters or environ.get(OTEL_TRACES_SAMPLER) else ALWAYS_ON


def _limits(environ: Mapping[str, str]) -> SpanLimits | None:
    return None if environ.get(OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT) else SpanLimits(max_span_attributes=_MOST_ATTRIBUTES)
