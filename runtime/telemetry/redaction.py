"""Spans on their way out, without secrets: a node's own code puts on spans what it likes."""

from collections.abc import Mapping

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Status
from opentelemetry.util.types import AttributeValue

from runtime.telemetry.content import Secrets

Attributes = Mapping[str, AttributeValue] | None


def redacted(span: ReadableSpan, secrets: Secrets) -> ReadableSpan:
    """Return the span if there is no secret in it, or else a copy with every secret replaced."""
    attributes = _redacted(span.attributes, secrets)
    events = [_redacted(event.attributes, secrets) for event in span.events]
    description = secrets.hide(span.status.description or "")
    unchanged = attributes is span.attributes and description == (span.status.description or "")
    if unchanged and all(new is event.attributes for new, event in zip(events, span.events, strict=True)):
        return span
    return ReadableSpan(
        name=span.name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=attributes,
        events=[Event(event.name, new, event.timestamp) for new, event in zip(events, span.events, strict=True)],
        links=span.links,
        kind=span.kind,
        status=Status(span.status.status_code, description or None),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _redacted(attributes: Attributes, secrets: Secrets) -> Attributes:
    changed = {}
    for name, value in (attributes or {}).items():
        shown = _hidden(value, secrets)
        if shown != value:
            changed[name] = shown
    return {**(attributes or {}), **changed} if changed else attributes


def _hidden(value: AttributeValue, secrets: Secrets) -> AttributeValue:
    if isinstance(value, str):
        return secrets.hide(value)
    if isinstance(value, tuple) and any(isinstance(item, str) for item in value):
        return [secrets.hide(str(item)) for item in value] if str(value) != secrets.hide(str(value)) else value
    return value
