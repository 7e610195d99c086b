"""Log lines, each with the ids of the request and the run that it belongs to; a node's prints are among them."""

import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, TextIO, cast

from flowpod.jsonable import dumps

Level = Literal["debug", "info", "warning", "error"]
Style = Literal["auto", "text", "json"]

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="-")
"""The id of the request that this task works for; a run's tasks inherit it."""
RUN_ID: ContextVar[str] = ContextVar("run_id", default="")
"""The id of the run that this task works for."""
TRACE_ID: ContextVar[str] = ContextVar("trace_id", default="")
"""The id of the run's trace, as `0x` and 32 hex digits."""
FIELDS = "fields"
"""The key of `extra` under which a log record brings fields of its own, a mapping, for JSON lines."""

_flow = logging.getLogger("flow")  # what nodes print
_OWN = "flowpod."  # what our loggers' names begin with
_NOISY_LOGGERS = ("uvicorn.error", "httpx2", "httpcore2", "openai", "asyncio", "sse_starlette", "aiosqlite")
_ID_SHOWN = 8  # characters of a run's id: enough to name it to `flowpod trace`
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")  # all but the tabulator
_EXCEPTION_END = 5000  # characters of an exception that are logged from its start, and from its end
_MOST_CHARS = 16384  # of a line that a node prints


def set_up_logging(
    level: Level, style: Style = "text", hide: Callable[[str], str] = str, said: Callable[[str], str] = str
) -> None:
    """Log to the standard error; libraries only from warnings on, unless everything is asked for.

    `hide` gets every line before it is written, and takes secrets out of it; `said` gets what others than Flowpod say
    in it, exceptions too, and takes out what only there can be told from our own words.
    """
    as_json = style == "json" or (style == "auto" and not sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter(hide, said) if as_json else _TextFormatter(hide, said))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    _Routed.hide = staticmethod(hide)
    if level != "debug":
        for name in _NOISY_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)


def _escaped(text: str) -> str:
    """Return `text` as one line: what a caller sends can neither begin another nor steer the terminal."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _exception(text: str, said: Callable[[str], str]) -> str:
    """Return an exception's stack and message without control characters, and without its middle if it is long."""
    shown = "\n".join(map(_escaped, said(text).split("\n")))  # a secret may stand where it is cut
    if len(shown) <= 2 * _EXCEPTION_END:
        return shown
    left_out = len(shown) - 2 * _EXCEPTION_END
    return f"{shown[:_EXCEPTION_END]}\n... ({left_out} characters left out)\n{shown[-_EXCEPTION_END:]}"


class _Formatter(logging.Formatter):
    """Lines without secrets."""

    def __init__(self, hide: Callable[[str], str], said: Callable[[str], str]) -> None:
        super().__init__()
        self._hide = hide
        self._said = said

    def _message(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        return message if record.name.startswith(_OWN) else self._said(message)


class _TextFormatter(_Formatter):
    """Lines for people."""

    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        node = getattr(record, FIELDS, {}).get("node")
        place = f"{record.levelname} {record.name}{f'.{node}' if node else ''} [{REQUEST_ID.get()}]"
        message = _escaped(self._message(record))
        if RUN_ID.get() and RUN_ID.get() not in message:
            message = f"{message} (run {RUN_ID.get()[:_ID_SHOWN]})"
        lines = [f"{when},{record.msecs:03.0f} {place} {message}"]
        if record.exc_info:
            lines.append(_exception(self.formatException(record.exc_info), self._said))
        return self._hide("\n".join(lines))


class _JsonFormatter(_Formatter):
    """Lines for machines: one JSON object each."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._message(record),
        }
        ids = {"request_id": REQUEST_ID.get(), "run_id": RUN_ID.get(), "trace_id": TRACE_ID.get()}
        line |= {name: value for name, value in ids.items() if value not in ("", "-")}
        line |= getattr(record, FIELDS, {})
        if record.exc_info:
            line["exception"] = _exception(self.formatException(record.exc_info), self._said)
        return self._hide(dumps(line).decode())


class _Prints:
    """Makes log lines of what one node writes to the standard streams, from whichever of its threads."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._begun: dict[str, str] = {}
        self._lock = threading.Lock()

    def write(self, stream: str, text: str) -> None:
        """Take text; the lines that it ends are logged."""
        with self._lock:
            *lines, rest = (self._begun.get(stream, "") + text).split("\n")
            if len(rest) > _MOST_CHARS:
                lines, rest = [*lines, rest], ""
            self._begun[stream] = rest
        for line in lines:
            self._log(stream, line)

    def close(self) -> None:
        """Log what was begun and not ended."""
        with self._lock:
            begun, self._begun = self._begun, {}
        for stream, line in begun.items():
            self._log(stream, line)

    def _log(self, stream: str, line: str) -> None:
        if not line.strip():
            return
        # A handler that the node's own code has added may write to the streams again: that is no print of the node's.
        token = _PRINTS.set(None)
        try:
            extra = {FIELDS: {"node": self._node, "stream": stream}}
            _flow.info("%s", line[:_MOST_CHARS], extra=extra)
        finally:
            _PRINTS.reset(token)


_PRINTS: ContextVar[_Prints | None] = ContextVar("prints", default=None)


@contextmanager
def prints_of(node: str) -> Iterator[None]:
    """Make what the block writes to the standard streams log lines of `node`, if the process routes them."""
    prints = _Prints(node)
    token = _PRINTS.set(prints)
    try:
        yield
    finally:
        _PRINTS.reset(token)
        prints.close()


def route_prints() -> None:
    """Have what nodes write to the standard streams logged; everything else goes where it went, without secrets.

    A thread that a node's own code starts with `threading` is nobody's: it works in a context of its own, so that what
    it writes is no log line, and only secrets that are the same for all runs are taken out of it.
    """
    sys.stdout = cast(TextIO, _Routed(sys.stdout, "stdout"))
    sys.stderr = cast(TextIO, _Routed(sys.stderr, "stderr"))


class _Routed:
    """A standard stream that knows who writes to it; `hide` takes secrets out of what nobody's log line is."""

    hide: "ClassVar[staticmethod[[str], str]]" = staticmethod(str)

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream = stream
        self._name = name

    def write(self, text: str) -> int:
        """Write `text` as TextIO does."""
        prints = _PRINTS.get()
        if prints is None:
            self._stream.write(self.hide(text))
            return len(text)
        prints.write(self._name, text)
        return len(text)

    def writelines(self, lines: Iterator[str]) -> None:
        """Write `lines` as TextIO does."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
