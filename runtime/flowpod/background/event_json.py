"""The stored form of events: JSON, with consecutive chunks of one output merged."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime
from typing import Any, Literal

from flowpod.engine.events import Event, NodeUpdated, RunOutput, RunStarted, RunTerminated
from flowpod.errors import ErrorInfo
from flowpod.jsonable import timestamp

_EVENT_TYPES: Mapping[str, type[Event]] = {
    event_type.__name__: event_type for event_type in (RunStarted, NodeUpdated, RunOutput, RunTerminated)
}


def event_to_json(event: Event) -> dict[str, Any]:
    """Return an event as a JSON object, without the fields that have their default."""
    stored: dict[str, Any] = {"event": type(event).__name__}
    for field in fields(event):
        value = getattr(event, field.name)
        if field.name == "timestamp":
            stored["timestamp"] = timestamp(value)
        elif value != field.default and not (field.name == "usage" and not value):
            stored[field.name] = value
    return stored


def event_from_json(stored: Mapping[str, Any]) -> Event:
    """Return the event of a JSON object that `event_to_json` made."""
    values = dict(stored)
    event_type = _EVENT_TYPES[values.pop("event")]
    values["timestamp"] = datetime.fromisoformat(values["timestamp"])
    if values.get("error") is not None:
        values["error"] = ErrorInfo(**values["error"])
    if "chunk_lengths" in values:
        values["chunk_lengths"] = tuple(values["chunk_lengths"])
    return event_type(**values)


def merge_chunks(events: Sequence[Event]) -> list[Event]:
    """Return the events, with consecutive chunks of one output merged into one event.

    Events that open or close a stream stay as they are, and reasoning is not merged with text.
    """
    groups: list[list[Event]] = []
    for event in events:
        if groups and _continues(event, groups[-1][-1]):
            groups[-1].append(event)
        else:
            groups.append([event])
    return [
        group[0] if len(group) == 1 else _merge([chunk for chunk in group if isinstance(chunk, RunOutput)])
        for group in groups
    ]


def _merge(chunks: Sequence[RunOutput]) -> RunOutput:
    return replace(
        chunks[0],
        delta="".join(chunk.delta for chunk in chunks),
        reasoning="".join(chunk.reasoning for chunk in chunks),
        chunk_lengths=tuple(length for chunk in chunks for length in _chunk_lengths(chunk)),
    )


def _chunk_lengths(event: RunOutput) -> tuple[int, ...]:
    return event.chunk_lengths or (len(event.delta or event.reasoning),)


def _continues(event: Event, last: Event) -> bool:
    return (
        isinstance(event, RunOutput)
        and isinstance(last, RunOutput)
        and event.is_stream
        and last.is_stream
        and (event.output, event.node_run_id, event.status) == (last.output, last.node_run_id, last.status)
        and _content_of(event) == _content_of(last) is not None
    )


def _content_of(event: RunOutput) -> Literal["text", "reasoning"] | None:
    if event.has_delta and isinstance(event.delta, str) and event.delta and not event.reasoning:
        return "text"
    return "reasoning" if event.reasoning and not event.delta else None
