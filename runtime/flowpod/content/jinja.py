"""Jinja2 templates, in which no value can pass for a role line of the template.

A prompt file is split into messages at lines such as `# user:`. A value that holds such a line must not make a message
of its own, so every line of a value that could be one is marked while the template is rendered; the mark is a random
word of this process, and it is taken out when the text has been split.
"""

import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import Template, TemplateSyntaxError, meta, nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from flowpod.errors import BuildError, NodeError
from flowpod.threads import Threads

# Digits, so that a filter which changes the case of a marked text leaves the mark alone.
_WORD = re.compile(r"\w+")
_HASHES = 2  # before the headings in a message, such as `## name:`; a role has at most one
# What may go on for long; everything else takes a time in proportion to the template's length and its values'.
_REPEATS = (nodes.For, nodes.Macro, nodes.CallBlock, nodes.Call)
MARK = f"\u2063{secrets.randbelow(10**16):016}\u2063"


def role_word(line: str, hashes: int = 1) -> str | None:
    """Return the word of a line such as `# user:`, "" where it has none, or None when the line is not of this form.

    At most `hashes` of `#` may stand before the word.
    """
    text = line.strip()
    return _bare_word(text[:-1], hashes) if text.endswith(":") else None


def _bare_word(text: str, hashes: int) -> str | None:
    word = text.strip()
    for _ in range(hashes):
        word = word.removeprefix("#")
    word = word.strip()
    return word if not word or _WORD.fullmatch(word) else None


class Rendered(str):
    """The text of a prompt node: role lines of its template stay role lines in the prompt that it goes into."""

    __slots__ = ("marked",)
    marked: str

    @classmethod
    def of(cls, marked: str) -> "Rendered":
        """Return the text of a rendered template."""
        text = cls(unmarked(marked))
        text.marked = marked
        return text


class _Marked(str):
    """What a macro, a call or a set block of the template made: values in it are marked, its own role lines count."""

    __slots__ = ()


class _Environment(SandboxedEnvironment):
    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """Join the parts of a template, or of a block in it."""
        return _Marked("".join(parts))


@dataclass(frozen=True, slots=True)
class ParsedTemplate:
    """A template: the names of the `variables` that it uses, and whether it `repeats`, in loops, macros or calls."""

    template: Template
    variables: frozenset[str]
    repeats: bool

    def render(self, values: Mapping[str, Any]) -> str:
        """Return the rendered text with its marks; `unmarked` takes them out.

        Raises NodeError that names the template and the cause.
        """
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
        """Return the same, from a thread if the template repeats: a long list or an endless loop hold up nobody else.

        A thread costs 60 to 100 microseconds a call, where a prompt without loops takes 7 and one with ten turns of a
        history 37; so what cannot take long is rendered on the event loop.
        """
        return await threads.run(self.render, values) if self.repeats else self.render(values)


def unmarked(text: str) -> str:
    """Return `text` without marks."""
    return text.replace(MARK, "")


def parse_template(source: str, name: str) -> ParsedTemplate:
    """Return the template of the text `source`; raises BuildError with the line of a syntax error."""
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
    *lines, last = text.split("\n")
    # The last line may also become a role line when the template goes on, with a colon say. A value of one line is left
    # alone there: it is how templates write the role of a message, as in `{{ message.role }}:`.
    marks_last = role_word(last, _HASHES) is not None or (lines and _bare_word(last, _HASHES))
    marked = [MARK + line if role_word(line, _HASHES) is not None else line for line in lines]
    return "\n".join([*marked, MARK + last if marks_last else last])


_ENVIRONMENT = _Environment(
    trim_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,
    finalize=_mark,
)
