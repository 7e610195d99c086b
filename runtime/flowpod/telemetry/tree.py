"""A run's spans as a tree, and as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from flowpod.telemetry.trace_store import Span, StoredRun

_MAX_DEPTH = 50  # of nested spans in JSON: many parsers take only about 100 nested objects and lists


@dataclass(frozen=True, slots=True)
class Branch:
    """A span and the spans below it, in the order of their start."""

    span: Span
    children: "list[Branch]" = field(default_factory=list)


def tree_of(spans: Sequence[Span]) -> list[Branch]:
    """Return the spans without a parent in `spans`, each with all spans below it."""
    branches = {span["span_id"]: Branch(span) for span in sorted(spans, key=lambda span: int(span["start_ns"]))}
    roots: list[Branch] = []
    for branch in branches.values():
        parent = branches.get(branch.span["parent_id"])
        (roots if parent is None else parent.children).append(branch)
    return roots


def trace_as_json(found: Sequence[StoredRun]) -> dict[str, Any]:
    """Return the runs of one trace with their spans as trees; what is below the fiftieth level is a tree of its own."""
    return {"trace_id": found[0].summary.trace_id, "runs": list(map(_run_as_json, found))}


def _run_as_json(stored: StoredRun) -> dict[str, Any]:
    omitted = {"spans_omitted": True} if stored.spans_omitted else {}
    return summary_as_json(stored) | {"spans": _trees(stored.spans)} | omitted


def summary_as_json(stored: StoredRun) -> dict[str, Any]:
    """Return a run as an item of a listing."""
    summary = stored.summary
    return {
        "trace_id": summary.trace_id,
        "run_id": summary.run_id or None,
        "request_id": summary.request_id or None,
        "session_id": summary.session_id or None,
        "user_id": summary.user_id or None,
        "name": summary.name,
        "protocol": summary.protocol or None,
        "status": summary.status,
        "error": summary.error or None,
        "started_at": _time(summary.started_ns),
        "duration": summary.duration_ns / 1e9,
        "input": summary.input,
        "output": summary.output,
        "usage": {"prompt_tokens": summary.prompt_tokens, "completion_tokens": summary.completion_tokens},
    }


def _trees(spans: Sequence[Span]) -> list[dict[str, Any]]:
    waiting = tree_of(spans)
    return [_branch(root, _MAX_DEPTH, waiting) for root in waiting]  # which grows on the way


def _branch(branch: Branch, levels: int, deeper: list[Branch]) -> dict[str, Any]:
    """Return a span with `levels` levels below it; the branches below those are added to `deeper`."""
    children = branch.children if levels else []
    deeper.extend([] if levels else branch.children)
    span = branch.span
    return {
        "span_id": span["span_id"],
        "parent_id": span["parent_id"],
        "name": span["name"],
        "kind": span["kind"],
        "status": span["status"],
        "error": span["message"] or None,
        "started_at": _time(span["start_ns"]),
        "duration": (span["end_ns"] - span["start_ns"]) / 1e9,
        "attributes": span["attributes"],
        "events": [
            {"name": event["name"], "time": _time(event["time_ns"]), "attributes": event["attributes"]}
            for event in span["events"]
        ],
        "children": [_branch(child, levels - 1, deeper) for child in children],
    }


def _time(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
