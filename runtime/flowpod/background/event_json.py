"""Events as they are stored: as JSON, and with the pieces of a text that come at once put together."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime
from typing import Any

from flowpod.engine.events import Event, NodeUpdated, RunOutput, RunStarted, RunTerminated
from flowpod.errors import ErrorInfo
from flowpod.jsonable import timestamp

_KINDS: Mapping[str, type[Event]] = {
    kind.__name__: kind for kind in (RunStarted, NodeUpdated, RunOutput, RunTerminated)
}


def to_json(event: Event) -> dict[str, Any]:
    """Return an event as JSON has it, without what is as it mostly is."""
    stored: dict[str, Any] = {"event": type(event).__name__}
    for field in fields(event):
        value = getattr(event, field.name)
        if field.name == "timestamp":
            stored["timestamp"] = timestamp(value)
        elif value != field.default and not (field.name == "usage" and not value):
            stored[field.name] = value
    return stored


def from_json(stored: Mapping[str, Any]) -> Event:
    """Return the event that `to_json` has made this of."""
    values = dict(stored)
    kind = _KINDS[values.pop("event")]
    values["timestamp"] = datetime.fromisoformat(values["timestamp"])
    if values.get("error") is not None:
        values["error"] = ErrorInfo(**values["error"])
    if "pieces" in values:
        values["pieces"] = tuple(values["pieces"])
    return kind(**values)


def merge_chunks(events: Sequence[Event]) -> list[Event]:
    """Return the events with those that follow each other in one output's stream as one.

    What opens and closes a stream stays as it is, and a model's thoughts are not mixed with its text.
    """
    made: list[Event] = []
    for event in events:
        last = made[-1] if made else None
        if isinstance(event, RunOutput) and isinstance(last, RunOutput) and _continues(event, last):
            pieces = (*_pieces(last), *_pieces(event))
            made[-1] = replace(
                last, delta=last.delta + event.delta, reasoning=last.reasoning + event.reasoning, pieces=pieces
            )
        else:
            made.append(event)
    return made


def _pieces(event: RunOutput) -> tuple[int, ...]:
    return event.pieces or (len(event.delta or event.reasoning),)


def _continues(event: RunOutput, last: RunOutput) -> bool:
    return (
        event.is_stream
        and last.is_stream
        and (event.output, event.run_id, event.status) == (last.output, last.run_id, last.status)
        and _only(event) == _only(last) != ""
    )


def _only(event: RunOutput) -> str:
    """Return what a piece of a stream is: text, thoughts, or "" for neither or both."""
    if event.has_delta and isinstance(event.delta, str) and event.delta and not event.reasoning:
        return "text"
    return "reasoning" if event.reasoning and not event.delta else ""
