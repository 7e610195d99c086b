"""Log lines, each with the ids of its request and its run. What a node prints is logged too."""

import asyncio
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, ClassVar, Literal, TextIO, cast

from flowpod.jsonable import dumps

Level = Literal["debug", "info", "warning", "error"]
Style = Literal["auto", "text", "json"]

Redact = Callable[[str], str]
"""Replaces the secrets in a text."""

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="-")
"""The id of the current request; the tasks of a run inherit it."""
RUN_ID: ContextVar[str] = ContextVar("run_id", default="")
"""The id of the current run."""
TRACE_ID: ContextVar[str] = ContextVar("trace_id", default="")
"""The id of the current run's trace, as `0x` and 32 hex digits."""
FIELDS = "fields"
"""The key in `extra` for a mapping of further fields, which JSON lines show."""

_flow = logging.getLogger("flow")  # for the prints of nodes
_OWN = "flowpod."  # the prefix of our loggers
_NOISY_LOGGERS = ("uvicorn.error", "httpx2", "httpcore2", "openai", "asyncio", "sse_starlette", "aiosqlite")
_ID_LENGTH = 8  # characters of a run's id, which are enough for `flowpod trace`
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")  # all but the tab
_EXCEPTION_CHARS = 5000  # of a long exception: so many from its start, and so many from its end
_MAX_LINE = 16384  # characters of a line that a node prints


def set_up_logging(level: Level, style: Style = "text", redact: Redact = str, redact_words: Redact = str) -> None:
    """Log to the standard error; of libraries only warnings and errors, unless `level` is "debug".

    `redact` replaces the secrets in every line. `redact_words` is applied to messages of other loggers than Flowpod's
    and to exceptions: it also replaces secrets that are too short to be told from words in Flowpod's own messages.
    """
    as_json = style == "json" or (style == "auto" and not sys.stderr.isatty())
    # No line shows where it was logged or by what thread; the logging how-to ("Optimization") turns it off like this.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.logAsyncioTasks = False  # type: ignore[attr-defined]  # since Python 3.12
    handler = _TurnHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter(redact, redact_words) if as_json else _TextFormatter(redact, redact_words))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    _RoutedStream.redact = staticmethod(redact)
    if level != "debug":
        for name in _NOISY_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)


class _TurnHandler(logging.StreamHandler[TextIO]):
    """Writes the lines of one turn of the main thread's event loop at once, at its end; all others immediately.

    The lines of a run come in one turn, and each write is a system call. Errors do not wait for the end of the turn.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._lines: list[str] = []
        self._flushes_in: asyncio.AbstractEventLoop | None = None
        os.register_at_fork(before=self.flush)  # a child would write the lines of its parent again

    def emit(self, record: logging.LogRecord) -> None:
        """Add a line. The caller holds the handler's lock."""
        try:
            self._lines.append(self.format(record))
        except Exception:  # noqa: BLE001 - the base class reports them all
            self.handleError(record)
            return
        loop = None if record.levelno >= logging.ERROR else _main_loop()
        if loop is None:
            self.flush()
        elif loop is not self._flushes_in:
            self._flushes_in = loop
            loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write the lines."""
        with self.lock or nullcontext():
            lines, self._lines, self._flushes_in = self._lines, [], None
            with suppress(OSError, ValueError):  # the stream is closed or full, and nobody else can be told
                if lines:
                    self.stream.write("\n".join([*lines, ""]))
                super().flush()


def _main_loop() -> asyncio.AbstractEventLoop | None:
    if threading.current_thread() is not threading.main_thread():
        return None  # a loop of a flow's own thread may be blocked for long
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _escaped(text: str) -> str:
    """Return `text` as one line: control characters in it can neither start a new line nor control the terminal."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _exception(text: str, redact_words: Redact) -> str:
    """Return an exception's stack and message without control characters, and without the middle if they are long."""
    redacted = "\n".join(map(_escaped, redact_words(text).split("\n")))  # before the cut, which could split a secret
    left_out = len(redacted) - 2 * _EXCEPTION_CHARS
    if left_out <= 0:
        return redacted
    return f"{redacted[:_EXCEPTION_CHARS]}\n... ({left_out} characters left out)\n{redacted[-_EXCEPTION_CHARS:]}"


class _Formatter(logging.Formatter):
    """Lines without secrets."""

    def __init__(self, redact: Redact, redact_words: Redact) -> None:
        super().__init__()
        self._redact = redact
        self._redact_words = redact_words

    def _message(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        return message if record.name.startswith(_OWN) else self._redact_words(message)


class _TextFormatter(_Formatter):
    """Lines for people."""

    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        node = getattr(record, FIELDS, {}).get("node")
        place = f"{record.levelname} {record.name}{f'.{node}' if node else ''} [{REQUEST_ID.get()}]"
        message = _escaped(self._message(record))
        if RUN_ID.get() and RUN_ID.get() not in message:
            message = f"{message} (run {RUN_ID.get()[:_ID_LENGTH]})"
        lines = [f"{when},{record.msecs:03.0f} {place} {message}"]
        if record.exc_info:
            lines.append(_exception(self.formatException(record.exc_info), self._redact_words))
        return self._redact("\n".join(lines))


class _JsonFormatter(_Formatter):
    """Lines for machines: one JSON object each."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": f"{_seconds(int(record.created))}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._message(record),
        }
        ids = {"request_id": REQUEST_ID.get(), "run_id": RUN_ID.get(), "trace_id": TRACE_ID.get()}
        line |= {name: value for name, value in ids.items() if value not in ("", "-")}
        line |= getattr(record, FIELDS, {})
        if record.exc_info:
            line["exception"] = _exception(self.formatException(record.exc_info), self._redact_words)
        return self._redact(dumps(line).decode())


@lru_cache(2)
def _seconds(time_s: int) -> str:
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="seconds").removesuffix("+00:00")


class _Prints:
    """Logs the lines that one node writes to the standard streams, from any of its threads."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._unfinished: dict[str, str] = {}
        self._lock = threading.Lock()

    def write(self, stream: str, text: str) -> None:
        with self._lock:
            *lines, rest = (self._unfinished.get(stream, "") + text).split("\n")
            if len(rest) > _MAX_LINE:
                lines, rest = [*lines, rest], ""
            self._unfinished[stream] = rest
        for line in lines:
            self._log(stream, line)

    def close(self) -> None:
        with self._lock:
            unfinished, self._unfinished = self._unfinished, {}
        for stream, line in unfinished.items():
            self._log(stream, line)

    def _log(self, stream: str, line: str) -> None:
        if not line.strip():
            return
        # A log handler of the node's own code may write to the streams again, which must not be logged in turn.
        token = _PRINTS.set(None)
        try:
            if len(line) > _MAX_LINE:
                line = _RoutedStream.redact(line)[:_MAX_LINE]  # redacted first: the cut could split a secret
            _flow.info("%s", line, extra={FIELDS: {"node": self._node, "stream": stream}})
        finally:
            _PRINTS.reset(token)


_PRINTS: ContextVar[_Prints | None] = ContextVar("prints", default=None)


@contextmanager
def prints_of(node: str) -> Iterator[None]:
    """Log what the block writes to the standard streams as lines of `node`, after `route_prints`."""
    prints = _Prints(node)
    token = _PRINTS.set(prints)
    try:
        yield
    finally:
        _PRINTS.reset(token)
        prints.close()


def route_prints() -> None:
    """Log what nodes write to the standard streams; anything else is written to them without secrets.

    A thread that a node's own code starts with `threading` has a context of its own, without the node: its prints are
    not logged, and only the secrets of the process are redacted in them.
    """
    sys.stdout = cast(TextIO, _RoutedStream(sys.stdout, "stdout"))
    sys.stderr = cast(TextIO, _RoutedStream(sys.stderr, "stderr"))


class _RoutedStream:
    """A standard stream that passes what nodes write to the log, and redacts anything else."""

    redact: "ClassVar[staticmethod[[str], str]]" = staticmethod(str)

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream = stream
        self._name = name

    def write(self, text: str) -> int:
        prints = _PRINTS.get()
        if prints is None:
            self._stream.write(self.redact(text))
        else:
            prints.write(self._name, text)
        return len(text)

    def writelines(self, lines: Iterator[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
