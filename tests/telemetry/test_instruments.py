"""Our own instruments: their text at `/metrics`, their readers, and what exporters get of them."""

import io
import json
import threading
from typing import Any

import pytest
from opentelemetry.sdk.metrics import Counter, Histogram, UpDownCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, ConsoleMetricExporter
from opentelemetry.sdk.resources import Resource

from flowpod.telemetry.instruments import Instruments
from flowpod.telemetry.meter_provider import LazyMeterProvider
from flowpod.telemetry.metrics import Metrics
from flowpod.telemetry.prometheus import prometheus_text

CUMULATIVE, DELTA = AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA

PAGE = """\
# HELP calls Model calls.
# TYPE calls histogram
calls_bucket{error_type="",le="0.5",model="a \\"b\\""} 1.0
calls_bucket{error_type="",le="2",model="a \\"b\\""} 2.0
calls_bucket{error_type="",le="+Inf",model="a \\"b\\""} 2.0
calls_count{error_type="",model="a \\"b\\""} 2.0
calls_sum{error_type="",model="a \\"b\\""} 2.5
calls_bucket{error_type="timeout",le="0.5",model="c"} 0.0
calls_bucket{error_type="timeout",le="2",model="c"} 0.0
calls_bucket{error_type="timeout",le="+Inf",model="c"} 1.0
calls_count{error_type="timeout",model="c"} 1.0
calls_sum{error_type="timeout",model="c"} 3.0
# HELP active_runs Runs in progress.
# TYPE active_runs gauge
active_runs 1.0
# HELP threads Threads.
# TYPE threads gauge
threads 7.0
"""


def test_the_page_of_labels_that_may_be_absent() -> None:
    instruments = Instruments()
    read = instruments.reader()
    calls = instruments.histogram("calls", (0.5, 2), "Model calls.", ("model", "error.type"), "{call}")
    active = instruments.level("active.runs", "{run}", "Runs in progress.")
    instruments.counter("never", "", "A counter that has counted nothing is left out.")
    instruments.observe_level("threads", "{thread}", "Threads.", lambda: 7)
    calls.record(0.5, ('a "b"',))  # a bound is part of the bucket below it
    active.add(2)
    read()
    calls.record(2, ('a "b"',))
    calls.record(3, ("c", "timeout"))
    active.add(-1)
    assert prometheus_text(read().values()).decode() == PAGE


def test_no_measurement_of_a_thread_is_lost() -> None:
    instruments = Instruments()
    totals, changes = instruments.reader(), instruments.reader(["counter", "histogram"])
    counter, histogram = instruments.counter("n", "", ""), instruments.histogram("h", (1, 2), "")

    def measure() -> None:
        for number in range(5000):
            counter.add(1)
            histogram.record(number % 3)

    threads = [threading.Thread(target=measure) for _ in range(4)]
    for thread in threads:
        thread.start()
    seen = 0.0
    while any(thread.is_alive() for thread in threads):
        if "n" in (changed := changes()):
            seen += changed["n"].values[()]
    seen += sum(sum(family.values.values()) for family in changes().values())
    assert seen == totals()["n"].values[()] == 20_000
    assert sum(totals()["h"].histograms[()].counts) == 20_000


class Exporting:
    """Metrics whose exports can be read."""

    def __init__(self, **preferred: Any) -> None:
        self._out = io.StringIO()
        self.metrics = Metrics()
        self.provider = LazyMeterProvider(Resource({"service.name": "s"}), self.metrics.instruments)
        self.provider.load([ConsoleMetricExporter(self._out, **preferred)])

    def exported(self) -> dict[str, Any]:
        """Export, and return the data of each metric."""
        self._out.truncate(self._out.seek(0))
        self.provider.force_flush()
        (group,) = json.loads(self._out.getvalue())["resource_metrics"]
        assert group["resource"]["attributes"] == {"service.name": "s"}
        return {metric["name"]: metric["data"] for scope in group["scope_metrics"] for metric in scope["metrics"]}


@pytest.mark.parametrize("temporality", [CUMULATIVE, DELTA])
def test_exporters_get_the_temporality_that_they_prefer(temporality: AggregationTemporality) -> None:
    preferred: dict[type, AggregationTemporality] = {
        Counter: temporality,
        Histogram: temporality,
        UpDownCounter: CUMULATIVE,
    }
    exporting = Exporting(preferred_temporality=preferred)
    for _ in range(2):
        exporting.metrics.run_began()
    exporting.metrics.run_ended("Completed", "simple", 0.2)
    exporting.exported()
    exporting.metrics.run_ended("Completed", "simple", 0.4)
    exporting.metrics.run_began()
    before = exporting.exported()
    exporting.metrics.run_ended("Completed", "simple", 0.3)
    after = exporting.exported()
    expected = 1 if temporality is DELTA else 3
    (old,), (runs,) = before["flowpod.runs"]["data_points"], after["flowpod.runs"]["data_points"]
    assert (runs["value"], after["flowpod.runs"]["is_monotonic"]) == (expected, True)
    assert runs["attributes"] == {"flowpod.run.status": "Completed", "flowpod.protocol": "simple"}
    assert runs["start_time_unix_nano"] == old["time_unix_nano" if temporality is DELTA else "start_time_unix_nano"]
    (seconds,) = after["flowpod.run.duration"]["data_points"]
    assert (seconds["count"], sum(seconds["bucket_counts"])) == (expected, expected)
    assert (seconds["min"], seconds["max"]) == ((0.3, 0.3) if temporality is DELTA else (0.2, 0.4))
    (active,) = after["flowpod.run.active"]["data_points"]
    assert (active["value"], after["flowpod.run.active"]["is_monotonic"]) == (0, False)
    assert [after[name]["aggregation_temporality"] for name in ("flowpod.runs", "flowpod.run.duration")] == [
        temporality
    ] * 2
    assert after["flowpod.run.active"]["aggregation_temporality"] == CUMULATIVE
    assert ("flowpod.history.lost" in after) is (temporality is CUMULATIVE)  # a delta without measurements is left out


def test_a_flows_own_instruments_are_read_and_exported() -> None:
    exporting = Exporting()
    exporting.provider.get_meter("mine", "1").create_counter("my.calls", "{call}", "Mine.").add(2, {"b": 1, "a": True})
    data = exporting.exported()
    assert {"my.calls", "flowpod.run.active"} <= set(data)
    assert data["my.calls"]["data_points"][0]["value"] == 2
    families = exporting.provider.families()
    assert {name: (family.kind, family.values) for name, family in families.items()} == {
        "my.calls": ("counter", {(("a", "True"), ("b", "1")): 2})
    }
