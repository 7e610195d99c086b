"""Spans on their way out, without secrets and not endless: a node's own code puts on spans what it likes."""

from collections.abc import Mapping, Sequence
from itertools import accumulate

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Link, Status
from opentelemetry.util.types import AttributeValue

from flowpod.telemetry.content import HIDDEN, RUN_SECRETS, Content, is_number

_WORDS = ("exception.message", "exception.stacktrace")
_LEAST_INTEGER = -(2**63)  # neither the protocol nor JSON's encoder takes more than 64 bits

# Names that Flowpod gives, with numbers that it counts; and those of them whose texts no caller makes up.
_OURS = ("flowpod.", "gen_ai.", "llm.", "openinference.", "session.id", "user.id", "server.", "input.", "output.")
_FACTS = (
    "flowpod.",
    "session.id",
    "user.id",
    "gen_ai.conversation.id",
    "gen_ai.operation.name",
    "gen_ai.provider.name",
    "gen_ai.workflow.name",
    "openinference.span.kind",
)

Attributes = Mapping[str, AttributeValue] | None


def redacted(span: ReadableSpan, content: Content) -> ReadableSpan:
    """Return the span if it can go out as it is, or else a copy with every secret replaced.

    Attributes are cut where they are too long, whoever made them.
    What no protocol can carry is replaced too: half an emoji, and integers that are too large.

    To be called where the span ends: only there is it known which secrets its run was given.
    """
    name = content.hide(span.name)
    attributes = _shown(span.attributes, content)
    events = [_event(event, content) for event in span.events]
    links = [_link(link, content) for link in span.links]
    description = content.attribute(content.said(span.status.description or ""))
    if not content.captured:  # a failure's own words may quote what the run was given
        description = str((span.attributes or {}).get("error.type", "")) if description else ""
    unchanged = name == span.name and attributes is span.attributes and description == (span.status.description or "")
    if unchanged and _same(events, span.events) and _same(links, span.links):
        return span
    return ReadableSpan(
        name=name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=attributes,
        events=events,
        links=links,
        kind=span.kind,
        status=Status(span.status.status_code, description or None),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _same(new: Sequence[object], old: Sequence[object]) -> bool:
    return all(mine is its for mine, its in zip(new, old, strict=True))


def _event(event: Event, content: Content) -> Event:
    given = event.attributes
    if given and not content.captured and not given.keys().isdisjoint(_WORDS):
        given = {name: value for name, value in given.items() if name not in _WORDS}
    if given:  # events tell of exceptions in words
        given = {name: content.said(value) if isinstance(value, str) else value for name, value in given.items()}
    name, attributes = content.hide(event.name), _shown(given, content)
    unchanged = name == event.name and attributes == event.attributes
    return event if unchanged else Event(name, attributes, event.timestamp)


def _link(link: Link, content: Content) -> Link:
    attributes = _shown(link.attributes, content)
    return link if attributes is link.attributes else Link(link.context, attributes)


def _shown(attributes: Attributes, content: Content) -> Attributes:
    if attributes is None:
        return None
    shown = dict(_pair(name, value, content) for name, value in attributes.items())
    return attributes if shown == dict(attributes) else shown


def _pair(name: str, value: AttributeValue, content: Content) -> tuple[str, AttributeValue]:
    if not name.startswith(_OURS):
        return content.hide(name), _value(value, content)
    if isinstance(value, str) and name.startswith(_FACTS):
        return name, content.fact(value)
    return name, _carried(value) if isinstance(value, int | float) else _value(value, content)


def _value(value: AttributeValue, content: Content) -> AttributeValue:
    if isinstance(value, str):
        return content.attribute(value)
    if isinstance(value, tuple):
        sizes = accumulate(len(item) if isinstance(item, str) else 1 for item in value)
        fitting = [item for item, size in zip(value, sizes, strict=True) if size <= content.max_chars] or value[:1]
        return tuple(_value(item, content) for item in fitting)
    if isinstance(value, int | float):
        return HIDDEN if is_number(value) and RUN_SECRETS.get().is_one(value) else _carried(value)
    return value


def _carried(number: float) -> AttributeValue:
    """Return a number, or true or false, as a protocol carries it."""
    is_large = isinstance(number, int) and not _LEAST_INTEGER <= number < -_LEAST_INTEGER
    return str(number) if is_large else number
