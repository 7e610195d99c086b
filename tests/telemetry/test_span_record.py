"""The spans of runs, as a flow's own code and the processors that it adds see them."""

from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanContext, StatusCode, TraceFlags

from flowpod.jsonable import dumps
from flowpod.telemetry.content import Content
from flowpod.telemetry.metrics import Metrics
from flowpod.telemetry.redaction import Secrets
from flowpod.telemetry.span_provider import SpanProvider
from flowpod.telemetry.span_record import EndedSpan
from flowpod.telemetry.trace_store import Filters, TraceStore
from flowpod.telemetry.trace_writer import TraceWriter
from flowpod.telemetry.tracing import Tracing
from tests.support.flows import post
from tests.support.spans import EndedSpans

KEY = "sk-very-secret-key"


def made_by(code: Any, limits: SpanLimits | None = None) -> EndedSpan:
    """Return a run's root span, after `code` has used it."""
    spans = EndedSpans()
    root = SpanProvider([spans], limits=limits).start_root("root", Context(), {"a": 1})
    code(root)
    root.end()
    return spans[0]


def test_attributes_of_any_code_are_converted() -> None:
    numbers = [1, 2]

    def code(span: trace.Span) -> None:
        span.set_attribute("list", numbers)
        span.set_attributes({"text": "x", "": "without a name"})
        numbers.append(3)

    assert made_by(code).attributes == {"a": 1, "list": (1, 2), "text": "x"}


def test_a_span_that_has_ended_stays_as_it_is() -> None:
    spans = EndedSpans()
    root = SpanProvider([spans]).start_root("root", Context(), {"a": 1})
    root.end()
    root.set_attribute("late", 1)
    root.add_event("late")
    root.update_name("late")
    root.set_status(StatusCode.ERROR, "late")
    root.end()
    (ended,) = spans
    assert (ended.name, ended.attributes, list(ended.events)) == ("root", {"a": 1}, [])
    assert ended.status.status_code is StatusCode.UNSET


def test_nothing_replaces_the_status_ok_and_unset_replaces_nothing() -> None:
    def succeed(span: trace.Span) -> None:
        span.set_status(StatusCode.OK)
        span.set_status(StatusCode.ERROR, "too late")

    def fail(span: trace.Span) -> None:
        span.set_status(StatusCode.ERROR, "lost")
        span.set_status(StatusCode.UNSET)

    assert made_by(succeed).status.status_code is StatusCode.OK
    assert made_by(fail).status.description == "lost"


def test_an_exception_is_an_event() -> None:
    (event,) = made_by(lambda span: span.record_exception(ValueError("wrong"), {"more": 1})).events
    assert event.name == "exception"
    attributes = dict(event.attributes or {})
    assert [attributes[f"exception.{name}"] for name in ("type", "message")] == ["ValueError", "wrong"]
    assert attributes["more"] == 1


def test_the_oldest_beyond_a_limit_are_dropped() -> None:
    def code(span: trace.Span) -> None:
        for number in range(5):
            span.set_attribute(str(number), number)
            span.add_event(str(number))
            span.add_link(SpanContext(1, number + 1, is_remote=False))

    span = made_by(code, SpanLimits(max_span_attributes=3, max_events=2, max_links=1))
    assert list(span.attributes) == ["2", "3", "4"]
    assert [event.name for event in span.events] == ["3", "4"]
    assert [link.context.span_id for link in span.links] == [5]


def test_a_child_of_a_dropped_span_is_dropped() -> None:
    spans = EndedSpans()
    provider = SpanProvider([spans])
    caller = trace.NonRecordingSpan(SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(0)))
    root = provider.start_root("root", trace.set_span_in_context(caller, Context()), {})
    child = provider.start_child("child", root, {})
    child.end()
    root.end()
    assert not root.is_recording()
    assert (child.get_span_context().trace_id, spans) == (1, [])


async def test_a_processor_that_a_flow_adds_gets_every_span_without_secrets(chat_flow: Path) -> None:
    exporter, spans = InMemorySpanExporter(), EndedSpans()
    provider = SpanProvider([spans], Content(Secrets([KEY])))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    await post(chat_flow, "/", {"question": f"I am {KEY}"}, tracing=Tracing(provider))
    exported = exporter.get_finished_spans()
    assert [span.name for span in exported] == ["chat echo", "reply", "invoke_workflow test"]
    assert [span.name for span in spans] == [span.name for span in exported]
    assert not any(KEY in span.to_json() for span in exported)
    assert exported[0].attributes is not None
    assert "I am ***" in str(exported[0].attributes["gen_ai.input.messages"])


@pytest.mark.parametrize("question", ["short", "x" * 40_000, f"I am {KEY}"])
async def test_a_stored_model_call_has_the_attributes_of_an_exported_one(
    tmp_path: Path, chat_flow: Path, question: str
) -> None:
    content, exporter = Content(Secrets([KEY])), InMemorySpanExporter()
    writer = TraceWriter(TraceStore(tmp_path / "traces.db", max_bytes=1 << 30, max_age_s=1e9), Metrics(), content)
    provider = SpanProvider([writer], content)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    await post(chat_flow, "/", {"question": question}, tracing=Tracing(provider))
    provider.shutdown()
    (listed,) = writer.store.newest(Filters(), 2)
    (found,) = writer.store.find(listed.summary.trace_id).runs
    stored = {span["name"]: span["attributes"] for span in found.spans}
    for span in exporter.get_finished_spans():
        assert dumps(sorted(stored[span.name].items())) == dumps(sorted((span.attributes or {}).items()))
    assert listed.summary.prompt_tokens == 11
