"""Spans as plain records: OpenTelemetry's `Span` without the SDK's locks and checks on each of our own attributes."""

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import Event, SpanLimits
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.util.types import Attributes, AttributeValue

from flowpod.telemetry.model_attributes import Exchange
from flowpod.telemetry.redaction import RUN_SECRETS, RunSecrets

_UNSET = Status(StatusCode.UNSET)


class EndedSpan(NamedTuple):
    """A span that has ended. Times are nanoseconds since 1970.

    `exchange` is what a model was sent and answered, which has further attributes: see `model_attributes`. `secrets`
    are those of its run; none has been redacted yet.
    """

    name: str
    context: SpanContext
    parent: SpanContext | None
    kind: SpanKind
    start_time: int
    end_time: int
    status: Status
    attributes: Mapping[str, Any]
    events: Sequence[Event]
    links: Sequence[Link]
    scope: InstrumentationScope
    secrets: RunSecrets
    exchange: Exchange | None = None

    @property
    def is_root(self) -> bool:
        """Whether it is the first span of a run in this process."""
        return self.parent is None or self.parent.is_remote


class SpanConsumer(Protocol):
    """Takes spans that have ended, on the thread on which they do: it must not block."""

    def take(self, span: EndedSpan) -> None:
        """Take a span."""

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Store or export what was taken so far; return whether that was done in time."""

    def shutdown(self) -> None:
        """Store or export what was taken, and stop."""


@dataclass(frozen=True, slots=True)
class SpanOwner:
    """What the spans of runs have in common: their scope, their limits, and `ended`, which takes each at its end."""

    scope: InstrumentationScope
    limits: SpanLimits
    ended: Callable[[EndedSpan], None]


class SpanRecord(Span):
    """A span in progress. `put` sets attributes that are valid already; OpenTelemetry's own methods check theirs.

    A flow's code may read what a span of the SDK has. `shared` are the attributes that the spans below repeat. The end
    follows from the start and the monotonic clock: the wall clock may be set in between.
    """

    __slots__ = (
        "_owner",
        "_secrets",
        "_started",
        "attributes",
        "context",
        "end_time",
        "events",
        "exchange",
        "kind",
        "links",
        "name",
        "parent",
        "shared",
        "start_time",
        "status",
    )

    def __init__(
        self,
        owner: SpanOwner,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        attributes: dict[str, Any],
        shared: Mapping[str, Any],
    ) -> None:
        self._owner = owner
        self.name = name
        self.context = context
        self.parent = parent
        self.kind = kind
        self.attributes = attributes
        self.shared = shared
        self.events: list[Event] = []
        self.links: list[Link] = []
        self.status = _UNSET
        self._secrets = RUN_SECRETS.get()
        self.start_time = time.time_ns()
        self._started = time.perf_counter_ns()
        self.end_time: int | None = None
        self.exchange: Exchange | None = None

    def put(self, attributes: Mapping[str, Any]) -> None:
        """Set attributes whose values are valid: texts, numbers, true and false, and lists of one of them."""
        if not self.end_time:
            self.attributes.update(attributes)

    def get_span_context(self) -> SpanContext:
        """Return the ids of the span and its trace."""
        return self.context

    def is_recording(self) -> bool:
        """Return whether the span has not ended."""
        return not self.end_time

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        """Set attributes of any code, whose values are converted where OpenTelemetry allows them not."""
        self.put(_checked(attributes))

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        """Set one attribute of any code."""
        self.set_attributes({key: value})

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        """Add an event."""
        if not self.end_time:
            self.events.append(Event(name, _checked(attributes), timestamp))
            _drop_oldest(self.events, self._owner.limits.max_events)

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        """Add a link to another span."""
        if not self.end_time:
            self.links.append(Link(context, _checked(attributes)))
            _drop_oldest(self.links, self._owner.limits.max_links)

    def update_name(self, name: str) -> None:
        """Rename the span."""
        if not self.end_time:
            self.name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Set the status; as the specification has it, nothing replaces OK, and "unset" replaces nothing."""
        new = status if isinstance(status, Status) else Status(status, description)
        if (
            not self.end_time
            and new.status_code is not StatusCode.UNSET
            and self.status.status_code is not StatusCode.OK
        ):
            self.status = new

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Add an event for an exception."""
        kind = type(exception)
        recorded: dict[str, Any] = {
            "exception.type": kind.__qualname__
            if kind.__module__ == "builtins"
            else f"{kind.__module__}.{kind.__qualname__}",
            "exception.message": str(exception),
            "exception.stacktrace": "".join(traceback.format_exception(exception)),
            "exception.escaped": str(escaped),
        }
        self.add_event("exception", recorded | dict(attributes or {}), timestamp)

    def end(self, end_time: int | None = None) -> None:
        """End the span; further calls of any method change nothing."""
        if self.end_time:
            return
        self.end_time = end_time or self.start_time + time.perf_counter_ns() - self._started
        most = self._owner.limits.max_span_attributes
        while most is not None and len(self.attributes) > most:
            del self.attributes[next(iter(self.attributes))]
        ended = EndedSpan(
            self.name,
            self.context,
            self.parent,
            self.kind,
            self.start_time,
            self.end_time,
            self.status,
            self.attributes,
            self.events,
            self.links,
            self._owner.scope,
            self._secrets or RUN_SECRETS.get(),
            self.exchange,
        )
        self._owner.ended(ended)


def _checked(attributes: Attributes) -> dict[str, Any]:
    return dict(BoundedAttributes(attributes=attributes, immutable=False)) if attributes else {}


def _drop_oldest(items: list[Any], most: int | None) -> None:
    if most is not None and len(items) > most:
        del items[0]
