"""The consumer of spans that stores traces."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, TraceFlags, Tracer

from flowpod.telemetry.content import Content
from flowpod.telemetry.metrics import Metrics
from flowpod.telemetry.span_provider import SpanProvider
from flowpod.telemetry.trace_store import Filters, TraceStore
from flowpod.telemetry.trace_writer import TraceWriter
from flowpod.telemetry.tracing import Tracing


class Recording:
    """A writer of traces, a tracer that feeds it, and its metrics."""

    def __init__(self, path: Path, content: Content | None = None, **limits: int) -> None:
        self.store = TraceStore(path, max_bytes=1 << 30, max_age_s=1e9)
        metrics = Metrics()
        self.read_metrics = metrics.instruments.reader()
        self.content = content or Content()
        self.writer = TraceWriter(self.store, metrics, self.content, **limits)
        self.provider = SpanProvider([self.writer], self.content)
        self.tracer: Tracer = self.provider.get_tracer("test")

    def start(self, name: str, parent: Span | None = None, attributes: dict[str, str] | None = None) -> Span:
        context = Context() if parent is None else trace.set_span_in_context(parent, Context())
        return self.tracer.start_span(name, context, attributes=attributes or {})

    def stored(self) -> dict[str, list[str]]:
        """Return the names of each run's spans, by the run's id or else its name."""
        assert self.writer.force_flush(5000)
        found = {}
        for summary in (stored.summary for stored in self.store.newest(Filters(), 100)):
            for run in self.store.find(summary.run_id or summary.trace_id).runs:
                found[run.summary.run_id or run.summary.name] = sorted(span["name"] for span in run.spans)
        return found

    def dropped(self) -> float:
        return sum(self.read_metrics()["flowpod.trace.dropped_spans"].values.values())


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[Recording]:
    made = Recording(tmp_path / "data" / "traces.db")
    yield made
    made.writer.shutdown()


def test_a_run_is_stored_when_its_root_ends(recording: Recording) -> None:
    root = recording.start("root", None, {"flowpod.run.id": "r1", "session.id": "s", "input.value": "in"})
    child = recording.start("child", root)
    recording.start("grandchild", child).end()
    child.end()
    assert recording.stored() == {}
    root.end()
    assert recording.stored() == {"r1": ["child", "grandchild", "root"]}
    (stored,) = recording.store.newest(Filters(session="s"), 5)
    assert (stored.summary.status, stored.summary.input) == ("Completed", "in")


def test_runs_of_one_trace_are_stored_separately(recording: Recording) -> None:
    caller = NonRecordingSpan(SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(1)))
    one, two = (recording.start("root", caller, {"flowpod.run.id": name}) for name in ("one", "two"))
    inner = recording.start("of two", two)
    deep = recording.start("deep in two", inner)
    recording.start("of one", one).end()
    one.end()
    assert recording.stored() == {"one": ["of one", "root"]}
    deep.end()
    inner.end()
    two.end()
    assert recording.stored()["two"] == ["deep in two", "of two", "root"]


def test_spans_that_end_after_their_run_are_added_to_it(recording: Recording) -> None:
    root = recording.start("root", attributes={"flowpod.run.id": "r1"})
    node = recording.start("node", root)
    own = recording.start("own", node)
    node.end()
    root.end()
    assert recording.stored() == {"r1": ["node", "root"]}
    own.end()
    assert recording.stored() == {"r1": ["node", "own", "root"]}


def test_spans_outside_of_runs_are_traces_too(recording: Recording) -> None:
    recording.start("promptflow-feedback", None, {"feedback": "good"}).end()
    assert recording.stored() == {"promptflow-feedback": ["promptflow-feedback"]}


def test_a_failing_store_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    recording = Recording(blocked / "traces.db")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            recording.start("root").end()
            assert recording.writer.force_flush(5000)
    assert [record.getMessage().startswith("traces are not stored in") for record in caplog.records] == [True]
    assert recording.dropped() == 3
    blocked.unlink()
    recording.start("root").end()
    assert recording.stored() == {"root": ["root"]}
    recording.writer.shutdown()


def test_ending_a_span_does_not_wait_for_the_file(recording: Recording) -> None:
    spans = [recording.start("root") for _ in range(500)]
    for span in spans:
        span.end()
    begun = time.monotonic()
    while len(recording.store.newest(Filters(), 1000)) < 500:
        assert time.monotonic() - begun < 10
        time.sleep(0.02)


def test_values_that_cannot_be_encoded_are_replaced(recording: Recording) -> None:
    odd = recording.start("half \ud83d", None, {"flowpod.run.id": "odd\ud83d", "key \ud83d": "\ud83d"})
    odd.set_attributes({"large": 2**70, "several": [1, -(2**70)]})
    odd.add_event("event \ud83d", {"large": 2**70})
    odd.end()
    recording.start("root", None, {"flowpod.run.id": "r1"}).end()
    assert recording.stored() == {"odd?": ["half ?"], "r1": ["root"]}
    (run,) = recording.store.find("odd?").runs
    assert run.spans[0]["attributes"]["large"] == str(2**70)
    assert recording.dropped() == 0


def test_a_run_that_cannot_be_stored_does_not_prevent_others(recording: Recording) -> None:
    for name, tokens in (("a", 1), ("b", 2**63 - 1), ("c", 1)):
        root = recording.start("root", None, {"flowpod.run.id": f"run-{name}"})
        for _ in range(2):  # the sum is more than the file can hold
            call = recording.start("call", root)
            call.set_attribute("gen_ai.usage.input_tokens", tokens)
            call.end()
        root.end()
    assert list(recording.stored()) == ["run-c", "run-a"]
    assert recording.dropped() == 3


def test_attributes_of_a_nodes_own_code_are_truncated(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "traces.db", Content(max_chars=100))
    root = recording.start("root", None, {"flowpod.run.id": "r1", "own": "x" * 1000, "cut": f"{'x' * 100}... (1000)"})
    root.set_attribute("several", ["y" * 40] * 50)
    root.add_event("event", {"own": "z" * 1000})
    root.end()
    assert recording.stored() == {"r1": ["root"]}
    (span,) = recording.store.find("r1").runs[0].spans or [{}]
    assert span["attributes"]["own"] == f"{'x' * 100}... (1000 characters)"
    assert span["attributes"]["cut"] == f"{'x' * 100}... (1000)"
    assert span["attributes"]["several"] == ["y" * 40] * 2
    assert span["events"][0]["attributes"]["own"] == f"{'z' * 100}... (1000 characters)"
    recording.writer.shutdown()


def test_the_queue_is_limited_in_bytes(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "traces.db", max_bytes=10_000)
    for count in (20_000, 9_000):
        recording.start("root", None, {"flowpod.run.id": f"run-{count}", "text": "x" * count}).end()
    assert recording.stored() == {"run-9000": ["root"]}
    recording.start("root", None, {"flowpod.run.id": "run-next", "text": "x" * 9_000}).end()
    assert list(recording.stored()) == ["run-next", "run-9000"]  # there is room again
    assert recording.dropped() == 1
    recording.writer.shutdown()


def test_without_content_a_failure_has_only_its_type_and_code(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "traces.db", Content(captured=False))
    root = recording.start("root", None, {"flowpod.run.id": "r1"})
    tracing = Tracing(recording.provider)
    try:
        raise ValueError("cannot read 'nobody's business'")
    except ValueError as error:
        tracing.fail(root, f"node failed: {error}", "node_failed", error)
        root.record_exception(error)
    root.end()
    assert recording.stored() == {"r1": ["root"]}
    (run,) = recording.store.find("r1").runs
    assert "business" not in repr(run)
    assert run.summary.error == "node_failed"
    first, second = run.spans[0]["events"]
    assert first["attributes"] == {"exception.type": "ValueError"}
    assert second["attributes"]["exception.type"] == "ValueError"
    recording.writer.shutdown()
