"""The metrics of OpenTelemetry's SDK, in both directions: a flow's own instruments are read, and ours are exported."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider, UpDownCounter
from opentelemetry.sdk.metrics import export as sdk
from opentelemetry.sdk.metrics.export import AggregationTemporality as _Temporality
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from flowpod import __version__
from flowpod.telemetry.families import Family, HistogramPoint, Kind, Labels
from flowpod.telemetry.instruments import Instruments
from flowpod.telemetry.metrics import SCOPE

_OWN = InstrumentationScope(SCOPE, __version__)
_CLASSES: dict[Kind, type] = {"counter": Counter, "level": UpDownCounter, "histogram": Histogram}


class SdkMetrics:
    """A meter provider for the instruments of Python nodes, its readings, and its exporters."""

    def __init__(self, resource: Resource, exporters: Sequence[sdk.MetricExporter], instruments: Instruments) -> None:
        self._reader = sdk.InMemoryMetricReader()
        added = [AddingExporter(exporter, instruments) for exporter in exporters]
        readers = [self._reader, *map(sdk.PeriodicExportingMetricReader, added)]
        self.provider = MeterProvider(readers, resource=resource)
        if exporters:
            # The SDK calls an exporter only when it has metrics itself: this one is replaced by ours.
            meter = self.provider.get_meter(SCOPE, __version__)
            meter.create_observable_gauge("placeholder", [lambda _: [Observation(0)]])

    def families(self) -> dict[str, Family]:
        """Return the current readings of the flow's own instruments, by name."""
        data = self._reader.get_metrics_data()
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics] if data else []
        metrics = [metric for scope in scopes if scope.scope != _OWN for metric in scope.metrics]
        return {metric.name: _family(metric) for metric in metrics}


class AddingExporter(sdk.MetricExporter):
    """Adds the readings of our own instruments to what another exporter exports, as if the SDK had taken them."""

    def __init__(self, exporter: sdk.MetricExporter, instruments: Instruments) -> None:
        # The SDK's reader gets an exporter's preferences from these attributes, and there are no public ones.
        preferred = exporter._preferred_temporality or {}
        super().__init__(preferred, exporter._preferred_aggregation)
        self._exporter = exporter
        self._deltas = [kind for kind, cls in _CLASSES.items() if preferred.get(cls) is _Temporality.DELTA]
        self._read = instruments.reader(self._deltas)
        self._last_ns = 0

    def export(
        self, metrics_data: sdk.MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> sdk.MetricExportResult:
        """Export the SDK's metrics and ours."""
        own = self._own_metrics()
        (group,) = metrics_data.resource_metrics
        scopes = [replace(scope, metrics=own) if scope.scope == _OWN else scope for scope in group.scope_metrics]
        return self._exporter.export(sdk.MetricsData([replace(group, scope_metrics=scopes)]), timeout_millis, **kwargs)

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return self._exporter.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        self._exporter.shutdown(timeout_millis, **kwargs)

    def _own_metrics(self) -> list[sdk.Metric]:
        families = self._read().values()
        last_ns, self._last_ns = self._last_ns, time.time_ns()
        return [_metric(family, self._temporality(family.kind), last_ns, self._last_ns) for family in families]

    def _temporality(self, kind: Kind) -> _Temporality:
        return _Temporality.DELTA if kind in self._deltas else _Temporality.CUMULATIVE


def _metric(family: Family, temporality: _Temporality, last_ns: int, now_ns: int) -> sdk.Metric:
    """Return a family in the SDK's form; a delta starts with the last reading, if there was one."""
    continues = temporality is _Temporality.DELTA and last_ns
    started = dict.fromkeys(family.started, last_ns) if continues else family.started
    numbers = [
        sdk.NumberDataPoint(dict(labels), started[labels], now_ns, value) for labels, value in family.values.items()
    ]
    histograms = [
        sdk.HistogramDataPoint(
            dict(labels),
            started[labels],
            now_ns,
            sum(point.counts),
            point.total,
            point.counts,
            point.bounds,
            point.least,
            point.greatest,
        )
        for labels, point in family.histograms.items()
    ]
    data = (
        sdk.Histogram(histograms, temporality)
        if family.kind == "histogram"
        else sdk.Sum(numbers, temporality, is_monotonic=family.kind == "counter")
    )
    return sdk.Metric(family.name, family.description, family.unit, data)


def _family(metric: sdk.Metric) -> Family:
    family = Family(metric.name, _kind(metric), metric.unit or "", metric.description or "")
    for point in metric.data.data_points:
        labels: Labels = tuple(sorted((name, str(value)) for name, value in (point.attributes or {}).items()))
        if isinstance(point, sdk.HistogramDataPoint):
            bounds, counts = tuple(point.explicit_bounds), list(point.bucket_counts)
            family.histograms[labels] = HistogramPoint(bounds, counts, point.sum)
        elif isinstance(point, sdk.NumberDataPoint):  # exponential histograms are left out
            family.values[labels] = point.value
    return family


def _kind(metric: sdk.Metric) -> Kind:
    if isinstance(metric.data, sdk.Sum):
        return "counter" if metric.data.is_monotonic else "level"
    return "gauge" if isinstance(metric.data, sdk.Gauge) else "histogram"
