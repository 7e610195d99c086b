"""OpenTelemetry's providers, made once by the command line, and where their spans and metrics go."""

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
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler

from flowpod import __version__
from flowpod.errors import InvalidRequest
from flowpod.settings import Settings
from flowpod.telemetry.content import Content
from flowpod.telemetry.exporters import (
    BatchExporter,
    check_numbers,
    exporter_names,
    exporter_secrets,
    make_exporter,
)
from flowpod.telemetry.meter_provider import LazyMeterProvider
from flowpod.telemetry.metrics import Metrics
from flowpod.telemetry.redaction import Secrets
from flowpod.telemetry.snapshots import Snapshots
from flowpod.telemetry.span_provider import SpanProvider
from flowpod.telemetry.span_record import SpanConsumer
from flowpod.telemetry.trace_store import TRACES_FILE, TraceStore
from flowpod.telemetry.trace_writer import TraceWriter
from flowpod.telemetry.tracing import Tracing

_SHUTDOWN_S = 3.0
_MAX_ATTRIBUTES = 2048  # OpenTelemetry's 128 cannot hold a conversation, and the oldest are dropped first
_DAY_S = 86400.0
_MEGABYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Telemetry:
    """The traces and metrics of this process. `trace_writer` is None when it stores no traces."""

    tracing: Tracing
    snapshots: Snapshots
    trace_writer: TraceWriter | None
    tracer_provider: SpanProvider | None
    meter_provider: LazyMeterProvider

    def shutdown(self) -> None:
        """Export and store the last spans and metrics, within three seconds."""

        def work() -> None:
            if self.tracer_provider is not None:
                self.tracer_provider.shutdown()
            self.meter_provider.shutdown()

        # A dead collector must not delay the shutdown: the spans that it has not taken by then are lost.
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(_SHUTDOWN_S)


@contextmanager
def _invalid_variables() -> Iterator[None]:
    """Report a variable that OpenTelemetry refuses like every other invalid setting, without a stack."""
    try:
        yield
    except ValueError as error:
        raise InvalidRequest(f"invalid OpenTelemetry variable: {error}") from error


@_invalid_variables()
def set_up_telemetry(
    settings: Settings, service: str, data: Path, environ: Mapping[str, str], secrets: Secrets
) -> Telemetry:
    """Make the process's providers, tracing and metrics; `secrets` are redacted in every span.

    The standard variables name the exporters of spans and metrics. Spans are stored in the folder `data` too, if
    `stores_traces` says so. The providers become the global ones, so that a Python node's own spans join the trace.
    Raises InvalidRequest for an invalid variable.
    """
    check_numbers(environ)
    secrets.add(exporter_secrets(environ))
    resource = _resource(service, environ)
    limits = _limits(environ)
    content = Content(
        secrets,
        captured=settings.trace_content == "on",
        max_chars=_max_chars(settings),
        max_attributes=limits.max_span_attributes,
    )
    counted = Metrics()
    own = counted.instruments.reader()
    meter_provider = LazyMeterProvider(resource, counted.instruments)
    disabled = environ.get(OTEL_SDK_DISABLED, "").lower() == "true"
    instance = str(resource.attributes[SERVICE_INSTANCE_ID])
    snapshots = Snapshots(data, instance, lambda: {} if disabled else meter_provider.families() | own())
    if names := exporter_names(environ, "METRICS"):
        meter_provider.load([make_exporter(name, "METRICS", environ) for name in names])
    metrics.set_meter_provider(meter_provider)
    if settings.tracing == "off" or disabled:
        return Telemetry(Tracing(None, counted, content), snapshots, None, None, meter_provider)
    exporters = exporter_names(environ, "TRACES")
    stores = stores_traces(settings, exporting=bool(exporters))
    trace_writer = _trace_writer(settings, data, counted, content) if stores else None
    consumers: list[SpanConsumer] = [] if trace_writer is None else [trace_writer]
    for name in exporters:
        exporter = make_exporter(name, "TRACES", environ)
        consumers.append(BatchExporter(exporter, name, counted, environ, content, resource))
    provider = SpanProvider(consumers, content, _sampler(exporters, stores, environ), resource, limits)
    trace.set_tracer_provider(provider)
    return Telemetry(Tracing(provider, counted), snapshots, trace_writer, provider, meter_provider)


def stores_traces(settings: Settings, *, exporting: bool) -> bool:
    """Return whether traces are stored in the data folder.

    By default they are, unless they are exported or there may be several instances, as with a history in MySQL: a
    request for a trace would reach the wrong instance.
    """
    if settings.trace_store == "auto":
        return not exporting and not (settings.history or "").startswith("mysql")
    return settings.trace_store == "on"


def _trace_writer(settings: Settings, data: Path, counted: Metrics, content: Content) -> TraceWriter:
    max_bytes, max_age_s = settings.trace_store_max_mb * _MEGABYTE, settings.trace_store_days * _DAY_S
    store = TraceStore(data / TRACES_FILE, max_bytes=max_bytes, max_age_s=max_age_s)
    return TraceWriter(store, counted, content)


def _resource(service: str, environ: Mapping[str, str]) -> Resource:
    own = {SERVICE_NAME: service, SERVICE_VERSION: __version__, SERVICE_INSTANCE_ID: str(uuid.uuid4())}
    given = environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    if "OTEL_SERVICE_NAME" in environ or f"{SERVICE_NAME}=" in given:
        del own[SERVICE_NAME]
    return Resource.create(own)


def _sampler(exporters: list[str], stores: bool, environ: Mapping[str, str]) -> Sampler | None:
    """Return which runs are traced; None leaves it to the standard variables and to the caller's `traceparent`."""
    if not exporters and not stores:
        return ALWAYS_OFF  # spans that go nowhere have ids, and hold nothing
    # Sampling by a proxy limits the cost of exports; it does not apply to traces that are only stored here.
    return None if exporters or environ.get(OTEL_TRACES_SAMPLER) else ALWAYS_ON


def _limits(environ: Mapping[str, str]) -> SpanLimits:
    """Return the limits of spans; those of the length of attributes are part of `_max_chars`.

    OpenTelemetry would apply those to attributes that are not redacted yet, and could cut through a secret.
    """
    return SpanLimits(
        max_span_attributes=None if environ.get(OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT) else _MAX_ATTRIBUTES,
        max_attribute_length=SpanLimits.UNSET,
        max_span_attribute_length=SpanLimits.UNSET,
    )


def _max_chars(settings: Settings) -> int:
    limits = SpanLimits()  # as the standard variables have them
    lengths = (settings.trace_content_max_chars, limits.max_attribute_length, limits.max_span_attribute_length)
    return min(length for length in lengths if length is not None)
