"""The one place where ended spans are redacted and truncated, and their values made encodable for exporters."""

import json
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any, cast

import orjson
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Link, Status

from flowpod.jsonable import dumps, encodable
from flowpod.telemetry.content import Content
from flowpod.telemetry.model_attributes import model_attributes
from flowpod.telemetry.redaction import REDACTED, RUN_SECRETS, RunSecrets, is_number, redact_value
from flowpod.telemetry.span_record import EndedSpan

_TRUNCATION_NOTE = 64  # characters, more than `Content.truncate` appends
_JSON_GROWTH = 8  # how much longer than its texts the JSON of a message may be
_MIN_INTEGER = -(2**63)  # OTLP and SQLite have integers of 64 bits
_EXCEPTION_TEXTS = ("exception.message", "exception.stacktrace")
_MESSAGES = ("gen_ai.input.messages", "gen_ai.output.messages")

# Attributes that Flowpod sets, whose names are no secrets and whose numbers it counts.
_OWN = ("flowpod.", "gen_ai.", "llm.", "openinference.", "session.id", "user.id", "server.", "input.", "output.")
# Of those, identifiers and states: a run's secret that happens to be the same word does not hide them.
_IDENTIFIERS = (
    "flowpod.",
    "session.id",
    "user.id",
    "gen_ai.conversation.id",
    "gen_ai.operation.name",
    "gen_ai.provider.name",
    "gen_ai.workflow.name",
    "openinference.span.kind",
)
# Of those, what callers, a flow's code and models wrote.
_CONTENT = (
    "input.value",
    "output.value",
    "gen_ai.input.",
    "gen_ai.output.",
    "llm.input_messages.",
    "llm.output_messages.",
    "llm.invocation_parameters",
)


def redact_span(span: EndedSpan, content: Content) -> EndedSpan:
    """Return the span with the attributes of its exchange, as it may leave: the span itself or else a copy.

    In the copy every secret is replaced and every text truncated, whoever put it there; half emojis and integers of
    more than 64 bits, which no exporter encodes, are replaced as well.
    """
    token = RUN_SECRETS.set(span.secrets)
    try:
        if span.exchange is not None:
            attributes = {**span.attributes, **model_attributes(span.exchange, content)}
            span = span._replace(attributes=_newest(attributes, content.max_attributes), exchange=None)
        if not span.secrets and _may_leave(span, content):
            return span
        return _Redaction(content, span.secrets).span(span)
    finally:
        RUN_SECRETS.reset(token)


def readable_span(span: EndedSpan, resource: Resource) -> ReadableSpan:
    """Return a redacted span as exporters take it."""
    return ReadableSpan(
        name=span.name,
        context=span.context,
        parent=span.parent,
        resource=resource,
        attributes=span.attributes,
        events=span.events,
        links=span.links,
        kind=span.kind,
        status=span.status,
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.scope,
    )


def may_leave(encoded: bytes, spans: Iterable[EndedSpan], content: Content) -> bool:
    """Return whether spans can leave as they are; False if that is not settled. `encoded` is all of them as JSON."""
    if any(span.secrets for span in spans) or content.secrets.occur_in(encoded):
        return False
    return len(encoded) <= content.max_chars and not any(_quotes_content(span, content) for span in spans)


def attributes_of(carrier: ReadableSpan | Event | Link) -> dict[str, Any]:
    """Return a copy of the attributes, by one call: OpenTelemetry's own mapping calls a function for each value."""
    attributes = carrier.attributes
    return cast(dict[str, Any], attributes).copy() if hasattr(attributes, "copy") else dict(attributes or {})


def _may_leave(span: EndedSpan, content: Content) -> bool:
    """Return whether the span can leave as it is, after encoding it once; False if that does not settle it."""
    if _quotes_content(span, content):
        return False
    attributes, failure = span.attributes, span.status.description
    texts = [(event.name, attributes_of(event)) for event in span.events]
    texts += [("", attributes_of(link)) for link in span.links]
    try:
        # Refuses half emojis, bytes and, with this option, integers of more than 53 bits.
        encoded = orjson.dumps((span.name, failure, attributes, texts), option=orjson.OPT_STRICT_INTEGER)
    except TypeError:
        return False
    if len(encoded) > content.max_chars:
        longest = content.max_chars + _TRUNCATION_NOTE
        if texts or any(len(str(value)) > longest for value in (span.name, failure, *attributes.values())):
            return False
    return not content.secrets.occur_in(encoded)


def _quotes_content(span: EndedSpan, content: Content) -> bool:
    """Return whether the span may quote content that must not be captured: in its failure or its events."""
    return not content.captured and bool(span.status.description or span.events)


class _Redaction:
    """Replaces the secrets of the process and of one run in a span."""

    def __init__(self, content: Content, run: RunSecrets) -> None:
        self._content = content
        self._secrets = content.secrets
        self._run = run

    def span(self, span: EndedSpan) -> EndedSpan:
        failure = self._text(self._words(span.status.description or ""))
        if not self._content.captured:  # the text of a failure may quote content
            failure = str(span.attributes.get("error.type", "")) if failure else ""
        return span._replace(
            name=self._redact(span.name),
            attributes=self._attributes(span.attributes),
            events=[self._event(event) for event in span.events],
            links=[Link(link.context, self._attributes(attributes_of(link))) for link in span.links],
            status=Status(span.status.status_code, failure or None),
        )

    def _event(self, event: Event) -> Event:
        attributes = attributes_of(event)
        if not self._content.captured:
            attributes = {name: value for name, value in attributes.items() if name not in _EXCEPTION_TEXTS}
        # Events hold texts of exceptions.
        attributes = {
            name: self._words(value) if isinstance(value, str) else value for name, value in attributes.items()
        }
        return Event(self._redact(event.name), self._attributes(attributes), event.timestamp)

    def _attributes(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name if name.startswith(_OWN) else self._redact(name): self._attribute(name, value, attributes)
            for name, value in attributes.items()
        }

    def _attribute(self, name: str, value: Any, attributes: Mapping[str, Any]) -> Any:
        if not name.startswith(_OWN):
            return self._value(value)
        if not isinstance(value, str):
            return _exportable(value) if isinstance(value, int | float) else self._value(value)
        if name.startswith(_IDENTIFIERS):
            return self._truncate(encodable(self._secrets.redact_process_secrets(value)))
        if not name.startswith(_CONTENT):
            return self._text(value)
        redacted = self._json(value, keys=name not in _MESSAGES) if _is_json(name, attributes) else self._words(value)
        return self._truncate(redacted, self._content.max_chars * (_JSON_GROWTH if name in _MESSAGES else 1))

    def _json(self, text: str, *, keys: bool) -> str:
        """Return JSON that is still JSON: with the run's secrets replaced in its texts, its numbers and its `keys`."""
        if self._run:
            try:
                text = dumps(redact_value(json.loads(text), self._run, keys=keys)).decode()
            except (ValueError, RecursionError):  # it is truncated, or was never JSON
                text = self._words(text)
        return encodable(self._secrets.redact_process_secrets(text))

    def _value(self, value: Any) -> Any:
        match value:
            case str():
                return self._text(value)
            case bytes():
                text = value.decode(errors="replace")
                return value if self._text(text) == text else self._text(text)
            case bool() | None:
                return value
            case int() | float():
                return REDACTED if is_number(value) and self._run.is_secret(value) else _exportable(value)
            case Mapping():
                if len(text := dumps(value).decode()) > self._content.max_chars:
                    return self._text(self._words(text))
                return {self._redact(key): self._value(item) for key, item in value.items()}
        sizes = accumulate(len(item) if isinstance(item, str) else 1 for item in value)
        fitting = [item for item, size in zip(value, sizes, strict=True) if size <= self._content.max_chars]
        return tuple(map(self._value, fitting or value[:1]))

    def _text(self, text: str) -> str:
        return REDACTED if self._run.is_secret(text) else self._truncate(self._redact(text))

    def _truncate(self, redacted: str, longest: int = 0) -> str:
        """Truncate a text, unless `Content` has done so already."""
        longest = max(longest, self._content.max_chars) + _TRUNCATION_NOTE
        return redacted if len(redacted) <= longest else self._content.truncate(redacted)

    def _redact(self, text: str) -> str:
        return encodable(self._run.redact(self._secrets.redact_process_secrets(text)))

    def _words(self, text: str) -> str:
        return encodable(self._run.redact_words(self._secrets.redact_process_secrets(text)))


def _is_json(name: str, attributes: Mapping[str, Any]) -> bool:
    if name in ("input.value", "output.value"):
        return attributes.get(f"{name.removesuffix('value')}mime_type") == "application/json"
    return name == "llm.invocation_parameters" or name in _MESSAGES


def _exportable(number: float) -> float | str:
    is_large = isinstance(number, int) and not _MIN_INTEGER <= number < -_MIN_INTEGER
    return str(number) if is_large else number


def _newest(attributes: dict[str, Any], most: int | None) -> dict[str, Any]:
    return attributes if most is None else dict(list(attributes.items())[-most:])
