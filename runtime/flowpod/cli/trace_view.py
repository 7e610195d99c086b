"""Traces in a terminal: a list of runs, and a run as a tree with durations, tokens, errors, inputs and outputs."""

import json
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from flowpod.errors import InvalidRequest
from flowpod.telemetry.trace_store import TRACES_FILE, Span, StoredRun, Summary
from flowpod.telemetry.tree import Branch, tree_of

_RED, _GREEN, _YELLOW, _DIM, _BOLD = "31", "32", "33", "2", "1"
_STATUS_COLOURS = {"Completed": _GREEN, "Failed": _RED, "Canceled": _YELLOW}
_STATUS_WIDTH = 9
_CONTROL = ("Cc", "Cf", "Cs")  # control characters, changes of text direction, halves of emojis
_ID_LENGTH = 8  # characters of a run's id in a list, which are enough for `flowpod trace`


def trace_file(data: Path | None, here: Path) -> Path:
    """Return the trace store to read: that in the folder `data`, or that of the only service in `here` or above it.

    Raises InvalidRequest when there is none, or more than one.
    """
    if data is not None:
        path = data / TRACES_FILE
        if not path.is_file():
            raise InvalidRequest(f"there are no traces in {data}: run the flow first, or name another data folder")
        return path
    for folder in (here, *here.parents):
        found = sorted(folder.glob(f".flowpod/*/{TRACES_FILE}"))
        if len(found) > 1:
            folders = "\n".join(f"  --data {path.parent}" for path in found)
            raise InvalidRequest(f"several services have traces; choose one:\n{folders}")
        if found:
            return found[0]
    raise InvalidRequest(f"there are no traces in {here}; name the service's data folder with --data")


@dataclass(frozen=True, slots=True)
class TraceView:
    """Formats traces for a terminal `width` columns wide. `full` truncates nothing and shows every attribute."""

    width: int
    colours: bool = False
    full: bool = False

    def listing(self, runs: Sequence[StoredRun]) -> str:
        """Return one line for each run."""
        status, name = f"{'STATUS':{_STATUS_WIDTH}}", f"{'RUN':{_ID_LENGTH}}"
        head = f"{'STARTED':19}  {status}  {'DURATION':>10}  {'TOKENS':>11}  {name}  INPUT"
        rows = (self._row(stored.summary) for stored in runs)
        return "\n".join([self._paint(head, _BOLD), *rows]) + "\n"

    def trace(self, runs: Sequence[StoredRun]) -> str:
        """Return the runs of a trace as trees."""
        return "\n".join("\n".join(self._run_lines(stored)) + "\n" for stored in runs)

    def _row(self, run: Summary) -> str:
        status = self._paint(f"{run.status:{_STATUS_WIDTH}}", _STATUS_COLOURS.get(run.status, _YELLOW))
        tokens = f"{run.prompt_tokens}+{run.completion_tokens}" if run.prompt_tokens or run.completion_tokens else ""
        name = _plain(run.run_id or run.trace_id)[:_ID_LENGTH]
        figures = f"  {_seconds(run.duration_ns):>10}  {tokens:>11}  {name:{_ID_LENGTH}}  "
        used = _width(_local(run.started_ns)) + 2 + _STATUS_WIDTH + _width(figures)
        text = _short_input(run.input) if run.run_id else run.name
        return f"{_local(run.started_ns)}  {status}{figures}{self._truncate(_plain(' '.join(text.split())), used)}"

    def _run_lines(self, stored: StoredRun) -> Iterator[str]:
        run = stored.summary
        status = self._paint(run.status, _STATUS_COLOURS.get(run.status, _YELLOW))
        tokens = _tokens(run.prompt_tokens, run.completion_tokens)
        yield "  ".join(filter(None, [self._paint(run.name, _BOLD), status, _seconds(run.duration_ns), tokens]))
        fields = {
            "began": _local(run.started_ns),
            "trace": run.trace_id,
            "run": run.run_id,
            "request": run.request_id,
            "session": run.session_id,
            "user": run.user_id,
        }
        yield from (f"{self._paint(f'{name:8}', _DIM)} {_plain(value)}" for name, value in fields.items() if value)
        roots = tree_of(stored.spans)
        if len(roots) == 1:  # the run's own span, which the first line describes
            yield from self._details(roots[0].span, "", indent=8)
            roots = roots[0].children
        yield from self._branches(roots)

    def _branches(self, branches: Sequence[Branch]) -> Iterator[str]:
        waiting = [(branch, "", branch is branches[-1]) for branch in reversed(branches)]
        while waiting:  # no recursion: spans may be deeper in each other than Python's stack takes
            branch, before, last = waiting.pop()
            yield f"{before}{'└─' if last else '├─'} {self._headline(branch.span)}"
            inner = f"{before}{'   ' if last else '│  '}"
            yield from self._details(branch.span, f"{inner}{'│  ' if branch.children else '   '}")
            waiting += [(child, inner, child is branch.children[-1]) for child in reversed(branch.children)]

    def _headline(self, span: Span) -> str:
        attributes = span["attributes"]
        name = str(attributes.get("flowpod.node.path", span["name"]))  # which names the round
        parts = [self._paint(name, _RED if span["status"] == "ERROR" else _BOLD)]
        if kind := attributes.get("flowpod.node.type"):
            parts.append(self._paint(str(kind), _DIM))
        parts.append(_seconds(span["end_ns"] - span["start_ns"]))
        if isinstance(first := attributes.get("gen_ai.response.time_to_first_chunk"), int | float):
            parts.append(f"first chunk {_seconds(first * 1e9)}")
        parts.append(_tokens(attributes.get("gen_ai.usage.input_tokens"), attributes.get("gen_ai.usage.output_tokens")))
        reasons = attributes.get("gen_ai.response.finish_reasons", [])
        parts += [_plain(str(reason)) for reason in (reasons if isinstance(reasons, list) else [reasons])]
        return "  ".join(filter(None, parts))

    def _details(self, span: Span, before: str, indent: int = 5) -> Iterator[str]:
        attributes = span["attributes"]
        given = str(attributes.get("input.value", "")) if self.full else _last_input(attributes)
        for name, text in (("in", given), ("out", str(attributes.get("output.value", "")))):
            if text:
                yield from self._text(f"{name:{indent}}", text, before, _DIM)
        for event in span["events"]:
            if event["name"] == "retry":
                text = f"attempt {event['attributes'].get('flowpod.attempt')} failed"
                reason = str(event["attributes"].get("exception.message") or text)
                yield from self._text(f"{'retry':{indent}}", reason, before, _YELLOW)
        if span["status"] == "ERROR":
            yield from self._text(f"{'error':{indent}}", span["message"], before, _RED, whole=True)
        if self.full:
            yield from self._all_attributes(span, before)

    def _all_attributes(self, span: Span, before: str) -> Iterator[str]:
        for event in span["events"]:
            if stack := event["attributes"].get("exception.stacktrace"):
                yield from self._text("stack", str(stack).rstrip(), before, _DIM)
        printed = ("input.", "output.", "llm.", "gen_ai.input.", "gen_ai.output.")
        for name, value in sorted(span["attributes"].items()):
            if not name.startswith(printed):
                yield from self._text(name, str(value), before, _DIM)

    def _text(self, label: str, text: str, before: str, colour: str, *, whole: bool = False) -> Iterator[str]:
        start = f"{before}{self._paint(label, colour)} "
        if not (self.full or whole):
            yield start + self._truncate(_plain(" ".join(text.split())), _width(before) + len(label) + 1)
            return
        for number, line in enumerate(text.splitlines()):
            yield (start if number == 0 else before + " " * (len(label) + 1)) + _plain(line)

    def _truncate(self, text: str, used: int) -> str:
        room = max(self.width - used, 20)
        if self.full or _width(text) <= room:
            return text
        width, kept = 0, []
        for character in text:
            width += _width(character)
            if width > room - 1:
                break
            kept.append(character)
        return f"{''.join(kept)}…"

    def _paint(self, text: str, colour: str) -> str:
        plain = _plain(text)
        return f"\033[{colour}m{plain}\033[0m" if self.colours else plain


def _last_input(attributes: dict[str, Any]) -> str:
    """Return a span's input in short: the last message of a model call."""
    messages = _parse(str(attributes.get("gen_ai.input.messages", "")))
    last = messages[-1] if isinstance(messages, list) and messages else {}
    parts = last.get("parts") if isinstance(last, dict) else None
    texts = [
        part.get("content")
        for part in (parts if isinstance(parts, list) else [])
        if isinstance(part, dict) and part.get("type") == "text"
    ]
    if texts:
        return f"{last.get('role')}: {' '.join(map(str, texts))}"
    return _short_input(str(attributes.get("input.value", "")))


def _parse(text: str) -> Any:
    """Return the value of JSON; None if `text` is not JSON, since a flow's own code may have written it."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _short_input(text: str) -> str:
    """Return the inputs that are not empty as `name=value`, or the value alone if there is one."""
    inputs = _parse(text)
    if not isinstance(inputs, dict):
        return text
    given = {name: value for name, value in inputs.items() if value not in (None, "", [], {})}
    texts = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in given.items()
    }
    if len(texts) == 1:
        return next(iter(texts.values()))
    return " ".join(f"{name}={value}" for name, value in texts.items())


def _tokens(prompt: Any, completion: Any) -> str:
    prompt, completion = (count if isinstance(count, int) else 0 for count in (prompt, completion))
    return f"{prompt}+{completion} tokens" if prompt or completion else ""


def _seconds(nanoseconds: float) -> str:
    return f"{nanoseconds / 1e9:.3f} s"


def _local(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds / 1e9).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _plain(text: str) -> str:
    """Return `text` without characters that control a terminal: callers and models may have sent them."""
    return "".join("\ufffd" if unicodedata.category(c) in _CONTROL and c != "\t" else c for c in text)


def _width(text: str) -> int:
    """Return the width of a text in columns; Chinese characters take two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
