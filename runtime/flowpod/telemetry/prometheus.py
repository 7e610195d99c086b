"""Metrics in Prometheus's text format, under the names that OpenTelemetry's rules for Prometheus give them."""

import re
from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as PrometheusMetric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from flowpod.telemetry.snapshots import Family, Histogram, Labels

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_UNITS = {"s": "seconds", "ms": "milliseconds", "By": "bytes", "1": "ratio"}
_OTHER = re.compile(r"[^a-zA-Z0-9_]")


def prometheus_text(families: Iterable[Family]) -> bytes:
    """Return the families as Prometheus reads them."""
    return generate_latest(_Collected([_metric(family) for family in families]))


def prometheus_name(name: str, unit: str) -> str:
    """Return an instrument's name in Prometheus: dots become underscores, the unit is its end; without `_total`."""
    end = _UNITS.get(unit, "")
    made = _OTHER.sub("_", name)
    return made if not end or made.endswith(f"_{end}") else f"{made}_{end}"


class _Collected(Collector):
    """What prometheus_client takes: something with metrics to collect."""

    def __init__(self, metrics: list[PrometheusMetric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[PrometheusMetric]:
        return iter(self._metrics)


def _metric(family: Family) -> PrometheusMetric:
    # Labels are those that any of the points has: Prometheus takes an absent one for empty.
    names = sorted({name for labels in (*family.values, *family.histograms) for name, _ in labels})
    shown = [_OTHER.sub("_", name) for name in names]
    name = prometheus_name(family.name, family.unit)
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(name, family.description, labels=shown)
        for labels, counted in family.histograms.items():
            histogram.add_metric(_values(names, labels), buckets=_buckets(counted), sum_value=counted.total)
        return histogram
    made = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = made(name, family.description, labels=shown)
    for labels, value in family.values.items():
        metric.add_metric(_values(names, labels), value)
    return metric


def _values(names: list[str], labels: Labels) -> list[str]:
    given = dict(labels)
    return [given.get(name, "") for name in names]


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Return (upper bound, how many are at most that) of every bucket: Prometheus's counts are cumulative."""
    bounds = [*(f"{bound:g}" if bound < 1e6 else str(int(bound)) for bound in histogram.bounds), "+Inf"]
    total, buckets = 0, []
    for bound, count in zip(bounds, histogram.counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets
