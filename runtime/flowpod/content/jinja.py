"""Jinja2 templates in which no value can inject a role line.

A prompt file is split into messages at lines such as `# user:`. A value that contains such a line must not start a
message, so rendering marks every line of a value that could be one. The mark is a random word of this process and is
removed after the text has been split.
"""

import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from jinja2 import Template, TemplateSyntaxError, meta, nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from flowpod.errors import BuildError, NodeError
from flowpod.threads import Threads

_WORD = re.compile(r"\w+")
_LAST_COLON = re.compile(r":[^\S\n]*+$", re.MULTILINE)  # of a line
_HASHES = 2  # of a heading in a message, such as `## name:`; a role line has at most one
# These may take long. Everything else takes time in proportion to the lengths of the template and the values.
_REPEATS = (nodes.For, nodes.Macro, nodes.CallBlock, nodes.Call)
# Digits, because a filter may change the case of a marked text.
MARK = f"\u2063{secrets.randbelow(10**16):016}\u2063"


def role_lines(text: str, hashes: int = 1) -> Iterator[tuple[int, int, str]]:
    """Yield the start, the end and the word of each line such as `# user:` with up to `hashes` "#".

    The word is "" in a line without one. A search for colons at ends of lines takes a fraction of what it takes to look
    at each line.
    """
    for colon in _LAST_COLON.finditer(text):
        start = text.rfind("\n", 0, colon.start()) + 1
        word = _bare_word(text[start : colon.start()], hashes)
        if word is not None:
            yield start, colon.end(), word


def _bare_word(text: str, hashes: int) -> str | None:
    word = text.strip()
    for _ in range(hashes):
        word = word.removeprefix("#")
    word = word.strip()
    return word if not word or _WORD.fullmatch(word) else None


class Rendered(str):
    """The text of a prompt node; its template's role lines remain role lines in a prompt that includes it."""

    __slots__ = ("marked",)
    marked: str

    @classmethod
    def of(cls, marked: str) -> "Rendered":
        """Return the text of a rendered template."""
        text = cls(unmarked(marked))
        text.marked = marked
        return text


class _Marked(str):
    """The text of a macro, call or set block: its values are marked, and its own role lines stay role lines."""

    __slots__ = ()


class _Environment(SandboxedEnvironment):
    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        return _Marked("".join(parts))


@dataclass(frozen=True, slots=True)
class ParsedTemplate:
    """A template, the `variables` that it uses, and whether it `repeats` anything in loops, macros or calls."""

    template: Template
    variables: frozenset[str]
    repeats: bool

    def render(self, values: Mapping[str, Any]) -> str:
        """Return the rendered text with its marks; raises NodeError with the template's name and the cause."""
        try:
            return self.template.render(values)
        except (
            TemplateError,
            SecurityError,
            TypeError,
            ValueError,
            LookupError,
            ArithmeticError,
            AttributeError,
            RecursionError,
        ) as error:
            text = f"{self.template.name}: {type(error).__name__}: {error}"
            raise NodeError(text, code="template_error") from error

    async def render_apart(self, threads: Threads, values: Mapping[str, Any]) -> str:
        """Return the rendered text, from a thread if the template repeats, so that a long loop does not block others.

        A thread costs 60 to 100 microseconds per call. A prompt without loops takes 7 and one with ten turns of history
        37, so a template that cannot take long is rendered on the event loop.
        """
        return await threads.run(self.render, values) if self.repeats else self.render(values)


def unmarked(text: str) -> str:
    """Return `text` without marks."""
    return text.replace(MARK, "")


def parse_template(source: str, name: str) -> ParsedTemplate:
    """Return the template in the text `source`. Raises BuildError with the line of a syntax error."""
    try:
        parsed = _ENVIRONMENT.parse(source)
        names = meta.find_undeclared_variables(parsed)
        template = _ENVIRONMENT.from_string(source)
    except TemplateSyntaxError as error:
        raise BuildError("source.path", f"{name}, line {error.lineno}: {error.message}") from error
    template.name = name
    return ParsedTemplate(template, frozenset(names), any(parsed.find_all(_REPEATS)))


def _mark(value: Any) -> Any:
    if isinstance(value, Rendered):
        return value.marked
    if isinstance(value, _Marked):
        return value
    text = value if isinstance(value, str) else str(value)
    if ":" not in text and "\n" not in text:
        return text
    starts = [start for start, _, _ in role_lines(text, _HASHES)]
    last = text.rfind("\n") + 1
    # The template's next character, such as a colon, can make a role line of the last line. That is allowed for a value
    # of one line, because templates write a message's role that way: `{{ message.role }}:`.
    if last and last not in starts[-1:] and _bare_word(text[last:], _HASHES):
        starts.append(last)
    ends = [*starts, len(text)]
    return MARK.join([text[: ends[0]], *(text[start:end] for start, end in pairwise(ends))])


_ENVIRONMENT = _Environment(trim_blocks=True, keep_trailing_newline=True, autoescape=False, finalize=_mark)
