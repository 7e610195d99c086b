"""The spans of runs, read from OpenTelemetry's own in-memory exporter."""

import json
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from flowpod.telemetry.content import Content
from flowpod.telemetry.span_provider import SpanProvider
from flowpod.telemetry.tracing import Tracing
from tests.support.flows import SESSION, client_of, post, write_chat_flow, write_flow
from tests.support.model_server import ModelServer


def recording(content: Content | None = None) -> tuple[Tracing, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = SpanProvider(content=content)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Tracing(provider), exporter


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def parent(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent else None


def own(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


async def test_a_trace_has_run_node_and_model_call(tmp_path: Path, chat_flow: Path, model_server: ModelServer) -> None:
    tracing, exporter = recording()
    headers = {"Chat-Session-Id": SESSION, "Chat-User-Id": "ann", "X-Request-Id": "req-1"}
    response = await post(chat_flow, "/", {"question": "traced"}, headers=headers, tracing=tracing, data=tmp_path)
    assert response.status_code == 200
    spans = by_name(exporter)
    assert set(spans) == {"invoke_workflow test", "reply", "chat echo"}
    root, node, call = spans["invoke_workflow test"], spans["reply"], spans["chat echo"]
    assert (parent(root), parent(node), parent(call)) == (None, own(root), own(node))
    assert (root.kind, node.kind, call.kind) == (SpanKind.INTERNAL, SpanKind.INTERNAL, SpanKind.CLIENT)
    assert root.attributes is not None
    assert node.attributes is not None
    assert call.attributes is not None
    assert root.attributes["session.id"] == root.attributes["gen_ai.conversation.id"] == SESSION
    assert (root.attributes["user.id"], root.attributes["flowpod.request.id"]) == ("ann", "req-1")
    assert json.loads(str(root.attributes["input.value"])) == {"question": "traced", "chat_history": []}
    assert json.loads(str(root.attributes["output.value"])) == {"answer": "You said: traced"}
    assert json.loads(str(node.attributes["input.value"]))["question"] == "traced"
    assert node.attributes["output.value"] == "You said: traced"
    assert call.attributes["gen_ai.request.model"] == "echo"
    assert call.attributes["gen_ai.response.model"] == "stand-in"
    assert call.attributes["gen_ai.usage.input_tokens"] == 11
    assert call.attributes["gen_ai.usage.output_tokens"] == 7
    assert call.attributes["gen_ai.response.finish_reasons"] == ("stop",)
    sent = next(c for c in model_server.calls if c.question == "traced")
    assert call.context is not None
    assert sent.headers["traceparent"].startswith(f"00-{call.context.trace_id:032x}-{call.context.span_id:016x}-")


async def test_the_callers_trace_is_continued(chat_flow: Path) -> None:
    tracing, exporter = recording()
    async with client_of(chat_flow, tracing=tracing) as client:
        trace_id, span_id = "ab" * 16, "cd" * 8
        headers = {"traceparent": f"00-{trace_id}-{span_id}-01"}
        response = await client.post("/run", json={"inputs": {"question": "hi"}, "stream": False}, headers=headers)
    assert response.json()["flow_run_info"]["otel_trace_id"] == f"0x{trace_id}"
    root = by_name(exporter)["invoke_workflow test"]
    assert parent(root) == int(span_id, 16)
    assert {span.context.trace_id for span in exporter.get_finished_spans() if span.context} == {int(trace_id, 16)}


async def test_a_failure_is_on_every_span_around_it(tmp_path: Path, model_server: ModelServer) -> None:
    tracing, exporter = recording()
    async with client_of(write_chat_flow(tmp_path, model_server.url, "error-in-stream"), tracing=tracing) as client:
        await client.post("/", json={"question": "hi"}, headers={"Accept": "text/event-stream"})
    for span in exporter.get_finished_spans():
        assert span.status.status_code is StatusCode.ERROR
        assert "out of tokens" in str(span.status.description)
        assert span.attributes is not None
        assert span.attributes["error.type"] == "model_error"
    for name in ("reply", "chat error-in-stream"):
        (event,) = by_name(exporter)[name].events
        assert event.name == "exception"
        assert event.attributes is not None
        assert event.attributes["exception.type"] == "NodeError"
        assert "out of tokens" in str(event.attributes["exception.message"])
        assert "http_model.py" in str(event.attributes["exception.stacktrace"])


async def test_every_span_has_its_session_user_and_run(chat_flow: Path) -> None:
    tracing, exporter = recording()
    headers = {"Chat-Session-Id": SESSION, "Chat-User-Id": "ann"}
    await post(chat_flow, "/", {"question": "hi"}, headers=headers, tracing=tracing)
    attributes = [span.attributes or {} for span in exporter.get_finished_spans()]
    assert len(attributes) == 3
    assert {(span["session.id"], span["gen_ai.conversation.id"], span["user.id"]) for span in attributes} == {
        (SESSION, SESSION, "ann")
    }
    assert len({span["flowpod.run.id"] for span in attributes}) == 1


async def test_spans_of_rounds_share_their_nodes_name(tmp_path: Path) -> None:
    tracing, exporter = recording()
    dag = """
    outputs:
      all: {type: list, reference: "${each.output}"}
    nodes:
    - name: each
      type: batch
      inputs: {n: [1, 2]}
      result: ${echo.output}
      nodes:
      - {name: echo, type: python, source: {path: echo.py}, inputs: {n: "${item}"}}
    """
    flow = write_flow(
        tmp_path,
        dag,
        {"echo.py": "from promptflow.core import tool\n\n@tool\ndef echo(n: int) -> int:\n    return n\n"},
    )
    assert (await post(flow, "/", {}, tracing=tracing)).json() == {"all": [1, 2]}
    rounds = [span for span in exporter.get_finished_spans() if span.name == "echo"]
    assert sorted(str((span.attributes or {})["flowpod.node.path"]) for span in rounds) == [
        "each[0].echo",
        "each[1].echo",
    ]
    assert {parent(span) for span in rounds} == {own(by_name(exporter)["each"])}


async def test_half_an_emoji_can_be_exported(tmp_path: Path, model_server: ModelServer) -> None:
    tracing, exporter = recording()
    flow = write_chat_flow(tmp_path / "flow", model_server.url, "half-an-emoji")
    await post(flow, "/", {"question": "hi"}, headers={"Accept": "text/event-stream"}, tracing=tracing)
    for span in exporter.get_finished_spans():
        for value in (span.attributes or {}).values():
            str(value).encode()
    failed = tracing.start_run("flow", {}, {})
    tracing.fail(failed, "half \ud83d", "odd", ValueError("half \ud83d"))
    failed.end()
    span = by_name(exporter)["invoke_workflow flow"]
    assert span.status.description == "half ?"
    assert (span.events[0].attributes or {})["exception.message"] == "ValueError: half ?"


async def test_a_nodes_retries_are_events(tmp_path: Path) -> None:
    tracing, exporter = recording()
    dag = """
    outputs:
      out: {type: string, reference: "${once.output}"}
    nodes:
    - {name: once, type: python, source: {path: once.py}, retry: {max: 2, interval_ms: 1}}
    """
    code = """
    calls = []

    def invoke() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("not yet")
        return "ok"
    """
    flow = write_flow(tmp_path, dag, {"once.py": code})
    assert (await post(flow, "/", {}, tracing=tracing)).json() == {"out": "ok"}
    (event,) = by_name(exporter)["once"].events
    assert event.name == "retry"
    assert event.attributes == {"flowpod.attempt": 1, "exception.message": "RuntimeError: not yet"}


async def test_spans_of_a_nodes_own_code_nest_under_the_node(tmp_path: Path) -> None:
    tracing, exporter = recording()
    code = """
    from opentelemetry import trace

    {kind} invoke():
        return trace.get_current_span().name
    """
    dag = """
    outputs:
      a: {type: string, reference: "${in_thread.output}"}
      b: {type: string, reference: "${on_loop.output}"}
    nodes:
    - {name: in_thread, type: python, source: {path: thread.py}}
    - {name: on_loop, type: python, source: {path: loop.py}}
    """
    flow = write_flow(
        tmp_path, dag, {"thread.py": code.replace("{kind}", "def"), "loop.py": code.replace("{kind}", "async def")}
    )
    assert (await post(flow, "/", {}, tracing=tracing)).json() == {"a": "in_thread", "b": "on_loop"}
    assert len(exporter.get_finished_spans()) == 3


@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
async def test_concurrent_runs_have_separate_traces(tmp_path: Path, model_server: ModelServer, accept: str) -> None:
    import asyncio

    tracing, exporter = recording()
    async with client_of(write_chat_flow(tmp_path, model_server.url, "words:5:0.005"), tracing=tracing) as client:
        requests = [client.post("/", json={"question": str(n)}, headers={"Accept": accept}) for n in range(10)]
        await asyncio.gather(*requests)
    spans = exporter.get_finished_spans()
    traces: dict[int, list[str]] = {}
    for span in spans:
        assert span.context is not None
        traces.setdefault(span.context.trace_id, []).append(span.name)
    assert len(traces) == 10
    assert all(sorted(names) == ["chat words:5:0.005", "invoke_workflow test", "reply"] for names in traces.values())
