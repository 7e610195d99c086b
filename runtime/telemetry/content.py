"""What spans may show of the values that pass through a run."""

from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

from runtime.jsonable import dumps

RUN_SECRETS: ContextVar[tuple[str, ...]] = ContextVar("run_secrets", default=())
"""What the run that this task works for was given in inputs of type secret."""

_HIDDEN = "***"
_LEAST_SECRET = 8
_NOTE = 64  # characters, more than the note takes that a text has been cut


class Secrets:
    """Values that no span and no log line may hold, wherever they come from: tokens, and the keys of connections.

    Short ones are not hidden: they would take common words with them.
    """

    def __init__(self, values: Iterable[str] = ()) -> None:
        self.values: tuple[str, ...] = ()
        self.add(values)

    def add(self, values: Iterable[str]) -> None:
        """Hide these values too, from now on."""
        added = [value for value in values if len(value) >= _LEAST_SECRET]
        kept = {*self.values, *added, *map(_escaped, added)}
        self.values = tuple(sorted(kept, key=len, reverse=True))  # one may be a part of another

    def hide(self, text: str) -> str:
        """Return `text` with every secret in it replaced, the run's own included."""
        for value in (*self.values, *RUN_SECRETS.get()):
            if value in text:
                text = text.replace(value, _HIDDEN)
        return text


def _escaped(value: str) -> str:
    """Return `value` as it stands inside JSON text."""
    return dumps(value).decode()[1:-1]


class Content:
    """Turns inputs and outputs into text for spans: within a length, without secrets, or not at all."""

    def __init__(self, secrets: Secrets | None = None, *, captured: bool = True, max_chars: int = 32768) -> None:
        self.secrets = secrets or Secrets()
        self.captured = captured
        self.max_chars = max_chars

    def hide(self, text: str) -> str:
        """Return `text` without secrets, and without what no protocol can carry: half an emoji."""
        hidden = self.secrets.hide(text)
        try:
            hidden.encode()
        except UnicodeEncodeError:
            return hidden.encode("utf-8", "replace").decode()
        return hidden

    def text(self, text: str) -> str:
        """Return `text` as it may be shown: without secrets, and cut where it is too long."""
        return self._cut(self.hide(text))

    def attribute(self, text: str) -> str:
        """Return an attribute of whoever made it as it may be shown; what is cut already stays as it is."""
        hidden = self.hide(text)
        return hidden if len(hidden) <= self.max_chars + _NOTE else self._cut(hidden)

    def json(self, value: Any) -> tuple[str, bool]:
        """Return `value` as JSON, and whether it is whole: a cut one is no JSON any more."""
        text = self.secrets.hide(dumps(value).decode())
        shown = self._cut(text)
        return shown, shown is text

    def _cut(self, text: str) -> str:
        if len(text) <= self.max_chars:
            return text
        return f"{text[: self.max_chars]}... ({len(text)} characters)"
