"""Metrics in Prometheus's text format, with the names that OpenTelemetry's rules for Prometheus prescribe."""

import re
from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as PrometheusMetric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from flowpod.telemetry.families import Family, HistogramPoint, Labels

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_UNITS = {"s": "seconds", "ms": "milliseconds", "By": "bytes", "1": "ratio"}
_INVALID = re.compile(r"[^a-zA-Z0-9_]")


def prometheus_text(families: Iterable[Family]) -> bytes:
    """Return the families in Prometheus's text format."""
    return generate_latest(_Metrics([_metric(family) for family in families]))


def prometheus_name(name: str, unit: str) -> str:
    """Return an instrument's name in Prometheus, without `_total`: underscores for dots, and the unit as suffix."""
    suffix = _UNITS.get(unit, "")
    converted = _INVALID.sub("_", name)
    return converted if not suffix or converted.endswith(f"_{suffix}") else f"{converted}_{suffix}"


class _Metrics(Collector):
    """The source of metrics that prometheus_client asks for."""

    def __init__(self, metrics: list[PrometheusMetric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[PrometheusMetric]:
        return iter(self._metrics)


def _metric(family: Family) -> PrometheusMetric:
    # A metric has the labels of all its points: Prometheus treats an absent label as empty.
    names = sorted({name for given in (*family.values, *family.histograms) for name, _ in given})
    labels = [_INVALID.sub("_", name) for name in names]
    name = prometheus_name(family.name, family.unit)
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(name, family.description, labels=labels)
        for given, counted in family.histograms.items():
            histogram.add_metric(_values(names, given), buckets=_buckets(counted), sum_value=counted.total)
        return histogram
    metric_type = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = metric_type(name, family.description, labels=labels)
    for given, value in family.values.items():
        metric.add_metric(_values(names, given), value)
    return metric


def _values(names: list[str], labels: Labels) -> list[str]:
    given = dict(labels)
    return [given.get(name, "") for name in names]


def _buckets(histogram: HistogramPoint) -> list[tuple[str, float]]:
    bounds = [*(f"{bound:g}" if bound < 1e6 else str(int(bound)) for bound in histogram.bounds), "+Inf"]
    total, buckets = 0, []
    for bound, count in zip(bounds, histogram.counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets
