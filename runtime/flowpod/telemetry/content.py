"""Inputs, outputs and messages as texts for spans: serialised, and truncated."""

from typing import Any

from opentelemetry.util.types import AttributeValue

from flowpod.jsonable import dumps, encodable
from flowpod.telemetry.redaction import RUN_SECRETS, Secrets, redact_value


class Content:
    """Serialises and truncates what goes on a span; `span_redaction` replaces the secrets in it when the span ends.

    Only a text that has to be truncated is redacted here, before that: the cut could go through a secret, and its
    beginning would no longer be recognised. `captured` says whether spans hold content at all, `max_attributes`
    how many attributes the span of a model call may have.
    """

    def __init__(
        self,
        secrets: Secrets | None = None,
        *,
        captured: bool = True,
        max_chars: int = 32768,
        max_attributes: int | None = None,
    ) -> None:
        self.secrets = secrets or Secrets()
        self.captured = captured
        self.max_chars = max_chars
        self.max_attributes = max_attributes

    def redact(self, text: str) -> str:
        """Return a text of a flow's code or a model without secrets, and without half emojis, which nothing encodes."""
        return encodable(self.secrets.redact_words(text))

    def text(self, text: str) -> str:
        """Return `text`, truncated where it is too long."""
        return text if len(text) <= self.max_chars else self.truncate(self.redact(text))

    def json(self, value: Any) -> tuple[str, bool]:
        """Return `value` as JSON, and whether it is complete: truncated JSON cannot be parsed."""
        text = dumps(value).decode()
        if len(text) > self.max_chars:
            if run := RUN_SECRETS.get():
                text = dumps(redact_value(value, run)).decode()
            text = self.secrets.redact_process_secrets(text)
        return self.truncate(text), len(text) <= self.max_chars

    def attributes(self, key: str, value: Any) -> dict[str, AttributeValue]:
        """Return the attributes for `value` under `key`, with its type: a text as it is, anything else as JSON."""
        if isinstance(value, str):
            return {f"{key}.value": self.text(value), f"{key}.mime_type": "text/plain"}
        text, complete = self.json(value)
        return {f"{key}.value": text, f"{key}.mime_type": "application/json" if complete else "text/plain"}

    def truncate(self, redacted: str) -> str:
        """Return the beginning of a text without secrets, and how long the text is; a short text as it is."""
        if len(redacted) <= self.max_chars:
            return redacted
        return f"{redacted[: self.max_chars]}... ({len(redacted)} characters)"
