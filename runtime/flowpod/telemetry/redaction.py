"""Secrets, and how they are replaced in texts and values before a span, a log line or an error message leaves."""

import json
import re
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from flowpod.jsonable import dumps

REDACTED = "***"
"""What replaces a secret."""
_MIN_LENGTH = 8  # characters; shorter values would take parts of ordinary words with them
_NUMBER = re.compile(r"-?[\d.]+")


@dataclass(frozen=True, slots=True)
class RunSecrets:
    """The secrets that one run was given: texts and numbers.

    `texts` have eight characters or more and are replaced wherever they occur; so are `numbers` of that length, unless
    a letter or a digit is next to them. Shorter secrets are replaced as whole `words`, in texts that a flow's code or a
    model wrote. A value that equals one of them all, which is what `whole` holds, is replaced too.
    """

    texts: tuple[str, ...] = ()
    numbers: re.Pattern[str] | None = None
    words: re.Pattern[str] | None = None
    whole: frozenset[str] = frozenset()

    @classmethod
    def of(cls, *values: Any, short: bool = True) -> "RunSecrets":
        """Return the texts and numbers in `values`, lists and mappings included; keys, true and false do not count.

        `short` includes those of fewer than eight characters.
        """
        found = {text for value in values for text in _texts(value) if text.strip()}
        if not found:
            return NO_SECRETS
        long = {text for text in found if len(text) >= _MIN_LENGTH}
        numbers = {text for text in long if _NUMBER.fullmatch(text)}
        whole = found if short else long
        return cls(Secrets(long - numbers).values, _words(numbers), _words(whole - long), frozenset(whole))

    def __bool__(self) -> bool:
        return bool(self.whole)

    def redact(self, text: str) -> str:
        """Replace the long secrets in `text`."""
        redacted = _replace(text, self.texts)
        return redacted if self.numbers is None else self.numbers.sub(REDACTED, redacted)

    def redact_words(self, text: str) -> str:
        """Replace the long secrets, and whole words that are short secrets, in a text of a flow's code or a model."""
        redacted = self.redact(text)
        return redacted if self.words is None else self.words.sub(REDACTED, redacted)

    def is_secret(self, value: str | float) -> bool:
        """Return whether a whole value is a secret."""
        return str(value) in self.whole


NO_SECRETS = RunSecrets()
RUN_SECRETS: ContextVar[RunSecrets] = ContextVar("run_secrets", default=NO_SECRETS)
"""What the current run was given in inputs of type `secret` and for plugins."""


class Secrets:
    """The secrets of the process, such as tokens and keys of connections; each has eight characters or more."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self.values: tuple[str, ...] = ()
        self._encoded: tuple[bytes, ...] = ()
        self.add(values)

    def add(self, values: Iterable[str]) -> None:
        """Redact these values too, from now on."""
        added = [value for value in values if len(value) >= _MIN_LENGTH]
        kept = {*self.values, *added, *(_encode(value).decode() for value in added)}
        self.values = tuple(sorted(kept, key=len, reverse=True))  # one may be a part of another
        self._encoded = tuple(map(_encode, self.values))

    def occur_in(self, encoded: bytes) -> bool:
        """Return whether one of these values occurs in the texts of some JSON.

        For a few values this is faster than one compiled alternation: 12 against 160 microseconds for four values in
        20 kB.
        """
        for value in self._encoded:  # noqa: SIM110 - `any` calls a function for each value
            if value in encoded:
                return True
        return False

    def redact_process_secrets(self, text: str) -> str:
        """Replace these values in `text`, and none of the run's secrets."""
        return _replace(text, self.values)

    def redact(self, text: str) -> str:
        """Replace these values and the long secrets of the current run in `text`."""
        return RUN_SECRETS.get().redact(self.redact_process_secrets(text))

    def redact_words(self, text: str) -> str:
        """Replace every secret, short ones of the current run too, in a text of a flow's code or a model."""
        return RUN_SECRETS.get().redact_words(self.redact_process_secrets(text))


def redact_value(value: Any, secrets: RunSecrets, *, keys: bool = True) -> Any:
    """Return `value`, converted to JSON's types, with `secrets` replaced in its texts, its numbers and its `keys`."""
    return _redact_json(json.loads(dumps(value)), secrets, keys)


def _redact_json(value: Any, secrets: RunSecrets, keys: bool) -> Any:
    if isinstance(value, str):
        return secrets.redact_words(value)
    if isinstance(value, dict):
        redacted: dict[str, Any] = {}
        for key, item in value.items():
            name = secrets.redact_words(key) if keys else key
            while name in redacted:  # two keys were secret
                name += REDACTED
            redacted[name] = _redact_json(item, secrets, keys)
        return redacted
    if isinstance(value, list):
        return [_redact_json(item, secrets, keys) for item in value]
    return REDACTED if is_number(value) and secrets.is_secret(value) else value


def is_number(value: Any) -> bool:
    """Return whether a value of JSON is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _replace(text: str, values: Iterable[str]) -> str:
    for value in values:
        if value in text:
            text = text.replace(value, REDACTED)
    return text


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


def _encode(value: str) -> bytes:
    """Return `value` as it is written inside JSON."""
    return dumps(value)[1:-1]
