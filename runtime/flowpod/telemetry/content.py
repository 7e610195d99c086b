"""What spans and log lines may show of the values that pass through a run."""

import json
import re
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from flowpod.jsonable import dumps

HIDDEN = "***"
"""What stands in the place of a secret."""
_LEAST_SECRET = 8
_NUMBER = re.compile(r"-?[\d.]+")
_NOTE = 64  # characters, more than the note takes that a text has been cut


@dataclass(frozen=True, slots=True)
class RunSecrets:
    """What one run was given that nobody else may see: texts and numbers.

    `texts` of eight characters and more are hidden wherever they stand, and such `numbers` where no letter or digit
    stands beside them. Shorter ones would take parts of other words and of JSON with them: they are hidden as `words`
    of what a flow's code or a model says. Where one of all these is the `whole` of a value, it is hidden, too.
    """

    texts: tuple[str, ...] = ()
    numbers: re.Pattern[str] | None = None
    words: re.Pattern[str] | None = None
    whole: frozenset[str] = frozenset()

    @classmethod
    def of(cls, *values: Any, short: bool = True) -> "RunSecrets":
        """Return the secrets among `values`, however deep in lists and mappings; keys, true and false are none.

        `short` says whether those are taken that are under eight characters.
        """
        found = {text for value in values for text in _texts(value) if text.strip()}
        long = {text for text in found if len(text) >= _LEAST_SECRET}
        numbers = {text for text in long if _NUMBER.fullmatch(text)}
        whole = found if short else long
        return cls(Secrets(long - numbers).values, _words(numbers), _words(whole - long), frozenset(whole))

    def hide(self, text: str) -> str:
        """Return `text` without the long ones."""
        hidden = _replaced(text, self.texts)
        return hidden if self.numbers is None else self.numbers.sub(HIDDEN, hidden)

    def said(self, text: str) -> str:
        """Return a text of a flow's code or a model without the long ones, and without words that are short ones."""
        hidden = self.hide(text)
        return hidden if self.words is None else self.words.sub(HIDDEN, hidden)

    def is_one(self, value: str | float) -> bool:
        """Return whether a whole value is one of them."""
        return str(value) in self.whole


RUN_SECRETS: ContextVar[RunSecrets] = ContextVar("run_secrets", default=RunSecrets())  # noqa: B039 - it is frozen
"""What the run that this task works for was given in inputs of type secret, or for plugins."""


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

    def hide_own(self, text: str) -> str:
        """Return `text` with these values in it replaced, and nothing of the run's."""
        return _replaced(text, self.values)

    def hide(self, text: str) -> str:
        """Return `text` with every secret in it replaced, the run's own included but for its short ones."""
        return RUN_SECRETS.get().hide(self.hide_own(text))

    def said(self, text: str) -> str:
        """Return what a flow's code or a model says with every secret in it replaced, short ones of the run too."""
        return RUN_SECRETS.get().said(self.hide(text))


def _replaced(text: str, values: Iterable[str]) -> str:
    for value in values:
        if value in text:
            text = text.replace(value, HIDDEN)
    return text


def without(value: Any, secrets: RunSecrets) -> Any:
    """Return `value`, as JSON has it, with the secrets replaced in all its keys, texts and numbers."""
    return _without(json.loads(dumps(value)), secrets)


def _without(value: Any, secrets: RunSecrets) -> Any:
    if isinstance(value, str):
        return secrets.said(value)
    if isinstance(value, dict):
        shown: dict[str, Any] = {}
        for key, item in value.items():
            name = secrets.said(key)
            while name in shown:  # another key that is hidden
                name += HIDDEN
            shown[name] = _without(item, secrets)
        return shown
    if isinstance(value, list):
        return [_without(item, secrets) for item in value]
    return HIDDEN if is_number(value) and secrets.is_one(value) else value


def _words(values: Iterable[str]) -> re.Pattern[str] | None:
    either = "|".join(map(re.escape, sorted(values, key=len, reverse=True)))
    return re.compile(rf"(?<!\w)(?:{either})(?!\w)") if either else None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif is_number(value):
        yield str(value)
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def is_number(value: Any) -> bool:
    """Return whether a value of JSON is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


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
        return _encodable(self.secrets.hide(text))

    def said(self, text: str) -> str:
        """Return what a flow's code or a model says, like `hide`, and without words that are secrets of the run."""
        return _encodable(self.secrets.said(text))

    def text(self, text: str) -> str:
        """Return what `said` does, cut where it is too long."""
        return self._cut(self.said(text))

    def attribute(self, text: str) -> str:
        """Return an attribute of whoever made it as it may be shown; what is cut already stays as it is."""
        hidden = HIDDEN if RUN_SECRETS.get().is_one(text) else self.hide(text)
        return hidden if len(hidden) <= self.max_chars + _NOTE else self._cut(hidden)

    def fact(self, text: str) -> str:
        """Return what Flowpod itself says of a run, its id for one: a run's secret that is the same is left in it."""
        return self._cut(_encodable(self.secrets.hide_own(text)))

    def json(self, value: Any) -> tuple[str, bool]:
        """Return `value` as JSON, and whether it is whole: a cut one is no JSON any more."""
        run = RUN_SECRETS.get()
        text = self.secrets.hide_own(dumps(without(value, run) if run.whole else value).decode())
        shown = self._cut(text)
        return shown, shown is text

    def _cut(self, text: str) -> str:
        if len(text) <= self.max_chars:
            return text
        return f"{text[: self.max_chars]}... ({len(text)} characters)"


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text
