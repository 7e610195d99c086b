"""Traces in a terminal, with spans of other code than Flowpod's."""

from typing import Any

import orjson
import pytest

from flowpod.cli.trace_view import TraceView
from flowpod.jsonable import dumps
from flowpod.telemetry.trace_store import Span, StoredRun, Summary
from flowpod.telemetry.tree import trace_as_json

HOSTILE = "a\x1b]0;title\x07\x9b31m\u202eb\u200b\ud83d"


def span(name: str, parent: str | None, **attributes: Any) -> Span:
    return {
        "span_id": name,
        "parent_id": parent,
        "name": name,
        "kind": "INTERNAL",
        "start_ns": 1,
        "end_ns": 2,
        "status": "ERROR",
        "message": str(attributes.get("message", "")),
        "attributes": attributes,
        "events": [{"name": "retry", "time_ns": 1, "attributes": attributes}],
    }


def stored(text: str, *spans: Span) -> StoredRun:
    summary = Summary("0x1", text, text, text, text, text, text, 1, 1, "Completed", text, text, text, 1, 1)
    return StoredRun(1, summary, spans)


@pytest.mark.parametrize("full", [False, True])
def test_control_characters_do_not_reach_the_terminal(full: bool) -> None:
    keys = "input.value", "output.value", "message", "flowpod.node.type", "exception.message", "exception.stacktrace"
    attributes = dict.fromkeys(keys, f"{HOSTILE}\n{HOSTILE}") | {HOSTILE: HOSTILE}
    run = stored(HOSTILE, span("root", None, **attributes), span(HOSTILE, "root", **attributes))
    view = TraceView(400, full=full)
    shown = view.listing([run]) + view.trace([run])
    assert "a\ufffd]0;title\ufffd\ufffd31m\ufffdb\ufffd\ufffd" in shown
    assert not set(HOSTILE) & set(shown) - set("a]0;title31mb")


def test_deeply_nested_spans_are_all_printed() -> None:
    spans = [span(f"s{number}", f"s{number - 1}" if number else None) for number in range(1500)]
    run = stored("run", *spans)
    shown = TraceView(100).trace([run])
    assert all(f" s{number}  " in shown for number in range(1, 1500))
    waiting, names = list(orjson.loads(dumps(trace_as_json([run])))["runs"][0]["spans"]), {}
    while waiting:
        found = waiting.pop()
        names[found["span_id"]] = found["parent_id"]
        waiting += found["children"]
    assert names == {made["span_id"]: made["parent_id"] for made in spans}


READ = (
    "flowpod.node.path",
    "flowpod.node.type",
    "gen_ai.response.time_to_first_chunk",
    "gen_ai.usage.input_tokens",
    "gen_ai.response.finish_reasons",
    "gen_ai.input.messages",
    "input.value",
    "output.value",
    "exception.message",
    "exception.stacktrace",
)
FOREIGN = [True, 7, 0.5, None, "text", ["a", 1], {"a": 1}]
MESSAGES = ["7", "[1]", "{}", '[{"parts": 1}]', '[{"parts": [1, {"type": "text"}]}]', "[" * 5000]


@pytest.mark.parametrize("value", [*FOREIGN, *MESSAGES], ids=lambda value: str(value)[:20])
@pytest.mark.parametrize("full", [False, True])
def test_attributes_of_any_type_are_printed(value: Any, full: bool) -> None:
    attributes = dict.fromkeys(READ, value)
    run = stored(str(value), span("root", None, **attributes), span("below", "root", **attributes))
    view = TraceView(100, full=full)
    assert "Completed" in view.trace([run])
    assert "Completed" in view.listing([run])
