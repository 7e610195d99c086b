"""`/metrics` of one process and of several, read with Prometheus's own parser."""

import os
import re
import signal
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from flowpod.telemetry.metrics import LimitedValues, Metrics
from flowpod.telemetry.prometheus import prometheus_name, prometheus_text
from flowpod.telemetry.snapshots import Snapshots
from tests.support.flows import write_flow
from tests.support.serving import serving

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples_of(text: str) -> Samples:
    """Return every sample of a page, by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), 0.0)


def total(samples: Samples, name: str) -> float:
    return sum(number for (sample, _), number in samples.items() if sample == name)


class Process:
    """One worker: its metrics, and its snapshots in the shared file."""

    def __init__(self, folder: Path, name: str) -> None:
        self.metrics = Metrics()
        self.snapshots = Snapshots(folder, name, self.metrics.instruments.reader())

    def samples(self) -> Samples:
        return samples_of(prometheus_text(self.snapshots.families()).decode())


def test_the_page_has_every_metric(tmp_path: Path) -> None:
    process = Process(tmp_path, "one")
    metrics = process.metrics
    metrics.run_began()
    metrics.run_began()
    metrics.run_ended("Completed", "simple", 0.2)
    metrics.node_ended("reply", "llm", "Failed", 3)
    call = metrics.model_labels("chat", "openai", 'a "quoted"\nname')
    metrics.first_chunk_received(call, 0.1)
    metrics.model_call_ended(call, 0.3, "model_error")
    metrics.tokens_used(call, 100, 20)
    metrics.history.written(0.01)
    metrics.history.deferred()
    metrics.history.lost()
    metrics.event_loop_lagged(0.02)
    metrics.spans_dropped(3, "store")
    metrics.observe_abandoned_threads(lambda: 2)
    metrics.stream_began()
    samples = process.samples()
    metrics.stream_ended()
    run = {"flowpod_run_status": "Completed", "flowpod_protocol": "simple"}
    assert value(samples, "flowpod_runs_total", **run) == 1
    assert value(samples, "flowpod_run_duration_seconds_count", **run) == 1
    assert value(samples, "flowpod_run_duration_seconds_bucket", le="0.1", **run) == 0
    assert value(samples, "flowpod_run_duration_seconds_bucket", le="0.25", **run) == 1
    assert value(samples, "flowpod_run_duration_seconds_bucket", le="+Inf", **run) == 1
    assert value(samples, "flowpod_run_active") == 1
    assert value(samples, "flowpod_stream_active") == 1
    assert value(samples, "flowpod_thread_abandoned") == 2
    assert value(samples, "flowpod_trace_dropped_spans_total", flowpod_destination="store") == 3
    assert value(samples, "flowpod_history_write_duration_seconds_sum") == 0.01
    assert value(samples, "flowpod_history_deferred_total") == value(samples, "flowpod_history_lost_total") == 1
    assert value(samples, "flowpod_event_loop_lag_seconds_count") == 1
    model = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "openai"}
    model["gen_ai_request_model"] = 'a "quoted"\nname'
    assert value(samples, "gen_ai_client_token_usage_sum", gen_ai_token_type="input", **model) == 100
    assert value(samples, "gen_ai_client_token_usage_sum", gen_ai_token_type="output", **model) == 20
    assert value(samples, "gen_ai_client_operation_duration_seconds_sum", error_type="model_error", **model) == 0.3
    assert value(samples, "gen_ai_client_operation_time_to_first_chunk_seconds_sum", **model) == 0.1
    assert process.samples()["flowpod_stream_active", frozenset()] == 0


@pytest.mark.parametrize(
    ("name", "unit", "expected"),
    [
        ("flowpod.run.duration", "s", "flowpod_run_duration_seconds"),
        ("a.seconds", "s", "a_seconds"),
        ("memory", "By", "memory_bytes"),
        ("share", "1", "share_ratio"),
        ("flowpod.runs", "{run}", "flowpod_runs"),
    ],
)
def test_prometheus_names(name: str, unit: str, expected: str) -> None:
    assert prometheus_name(name, unit) == expected


def test_values_that_callers_choose_are_limited() -> None:
    bounded = LimitedValues(most=2)
    assert [bounded(name) for name in ("a", "b", "c", "a", "d")] == ["a", "b", "other", "a", "other"]


def test_metrics_of_workers_add_up_and_dead_workers_keep_their_counts(tmp_path: Path) -> None:
    first, second = Process(tmp_path, "one"), Process(tmp_path, "two")
    for process in (first, second):
        process.metrics.run_began()
        process.metrics.run_began()
        process.metrics.run_ended("Completed", "simple", 0.2)
    first.snapshots.share()
    second.snapshots.write()
    run = {"flowpod_run_status": "Completed", "flowpod_protocol": "simple"}
    samples = first.samples()
    assert value(samples, "flowpod_runs_total", **run) == 2
    assert value(samples, "flowpod_run_duration_seconds_bucket", le="0.25", **run) == 2
    assert value(samples, "flowpod_run_active") == 2
    with closing(sqlite3.connect(tmp_path / "metrics.db")) as database:  # the second has not written for a while
        database.execute("UPDATE snapshot SET written_at = written_at - 60 WHERE instance = 'two'")
        database.commit()
    samples = first.samples()
    assert value(samples, "flowpod_runs_total", **run) == 2
    assert value(samples, "flowpod_run_active") == 1
    first.snapshots.clear()
    assert value(first.samples(), "flowpod_runs_total", **run) == 1


def test_a_server_counts_its_runs(tmp_path: Path, chat_flow: Path) -> None:
    with serving(chat_flow, tmp_path) as served:
        httpx.post(f"{served.url}/", json={"question": "hi"}, headers={"Accept": "text/event-stream"})
        httpx.post(f"{served.url}/v1/chat/completions", json={"messages": [{"role": "user", "content": "hi"}]})
        answer = httpx.get(f"{served.url}/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = samples_of(answer.text)
    for protocol in ("simple", "openai"):
        labels = {"flowpod_run_status": "Completed", "flowpod_protocol": protocol}
        assert value(samples, "flowpod_runs_total", **labels) == 1
    reply = {"flowpod_node_name": "reply", "flowpod_node_type": "llm", "flowpod_node_status": "Completed"}
    assert value(samples, "flowpod_node_duration_seconds_count", **reply) == 2
    assert total(samples, "gen_ai_client_token_usage_count") == 4
    assert total(samples, "gen_ai_client_operation_time_to_first_chunk_seconds_count") == 1
    assert value(samples, "flowpod_history_write_duration_seconds_count") == 1  # OpenAI's call named no session
    assert (value(samples, "flowpod_run_active"), value(samples, "flowpod_stream_active")) == (0, 0)


def wait_for(page: Callable[[], Samples], fits: Callable[[Samples], bool]) -> None:
    deadline = time.monotonic() + 20
    while not fits(samples := page()):
        assert time.monotonic() < deadline, samples
        time.sleep(0.1)


def test_any_worker_answers_for_all_workers_dead_ones_included(tmp_path: Path) -> None:
    flow = write_flow(tmp_path / "flow", "outputs: {}\nnodes: [{name: a, type: template, template: hi}]\n")
    with serving(flow, tmp_path, "--workers", "2") as served:

        def call(_: int) -> int:
            return httpx.post(f"{served.url}/", json={}).status_code  # a connection each, for whichever worker

        def page() -> Samples:
            return samples_of(httpx.get(f"{served.url}/metrics").text)

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(call, range(40))) == {200}
        for _ in range(4):
            wait_for(page, lambda samples: total(samples, "flowpod_runs_total") == 40)
        os.kill(int(re.findall(r"worker (\d+) started", served.log)[0]), signal.SIGKILL)
        wait_for(page, lambda _: served.log.count("serving flow") == 3)
        assert call(0) == 200
        wait_for(page, lambda samples: total(samples, "flowpod_runs_total") == 41)
    with serving(flow, tmp_path, "--workers", "2") as served:
        assert total(samples_of(httpx.get(f"{served.url}/metrics").text), "flowpod_runs_total") == 0


RUN = {"flowpod_run_status": "Completed", "flowpod_protocol": "simple"}


def test_a_counter_does_not_fall_when_a_worker_dies(tmp_path: Path) -> None:
    first, second = Process(tmp_path, "one"), Process(tmp_path, "two")
    first.snapshots.share()
    first.snapshots.families()
    first.metrics.run_ended("Completed", "simple", 0.2)
    assert value(first.samples(), "flowpod_runs_total", **RUN) == 1  # and it dies before it writes again
    second.snapshots.share()
    assert value(second.samples(), "flowpod_runs_total", **RUN) == 1


@pytest.mark.parametrize("harm", ["no database", "no folder", "rubbish in it"])
def test_metrics_work_without_the_shared_file(tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "data"
    if harm == "no folder":
        folder.write_text("a file")
    else:
        folder.mkdir()
        if harm == "no database":
            (folder / "metrics.db").write_bytes(b"x" * 5000)
    process = Process(folder, "one")
    process.snapshots.clear()
    process.snapshots.share()
    if harm == "rubbish in it":
        process.snapshots.families()
        with closing(sqlite3.connect(folder / "metrics.db")) as database:
            database.execute("INSERT INTO snapshot VALUES ('two', 0, '[1')")
            database.commit()
    process.metrics.run_ended("Completed", "simple", 0.2)
    assert value(process.samples(), "flowpod_runs_total", **RUN) == 1
    assert any("metrics are not shared with the other workers" in record.getMessage() for record in caplog.records)
