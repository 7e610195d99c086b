"""The failure of a node: what callers see of it, and what the log and the trace keep.

Nothing else decides that. Callers get the node, a code and a plain reason. Addresses, paths, files and lines, and the
words of servers, databases and libraries stay inside, unless FLOWPOD_ERROR_DETAIL is `full`.
"""

import os
import re
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flowpod.errors import ErrorInfo, FlowpodError, text_of
from flowpod.settings import ErrorDetail
from flowpod.telemetry.content import Content

_REASONS: Mapping[str, str] = {
    "model_unreachable": "the model cannot be reached",
    "model_timeout": "the model did not respond in time",
    "model_broke_off": "the model broke off its answer",
    "model_error": "the model returned an error",
    "template_error": "its template failed",
}
_MODEL_CODES, _MODEL_REASON = "model_", "the model's answer cannot be used"
_HIDDEN = (
    (re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s'\")\]]*[^\s'\")\].,;:]"), "[address]"),
    (re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?(?![\w.]\d)"), "[address]"),
    (re.compile(r"\[[0-9A-Fa-f]*:[0-9A-Fa-f:.]+\](?::\d+)?"), "[address]"),
    (re.compile(r"\b(?:localhost|[A-Za-z][\w-]*(?:\.[\w-]+)+):\d{2,5}\b"), "[address]"),
    (re.compile(r"(?<![\w/.])~?/(?:[\w.@+-]+/)+[\w.@+-]*|\b[A-Za-z]:\\[^\s'\"]+"), "[path]"),
    (re.compile(r" ?\([^\s()]+, line \d+\)"), ""),
)
_OWN_CODE = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure: what callers see, with the `cause` in promptflow's words, and the whole `text` for log and trace."""

    info: ErrorInfo
    text: str
    cause: str = ""

    @classmethod
    def of(cls, info: ErrorInfo) -> "Failure":
        """Return a failure whose whole text callers may see."""
        return cls(info, info.message)


@dataclass(frozen=True, slots=True)
class Failures:
    """Describes the failures of the nodes of the flow in `folder`; every text is redacted."""

    folder: Path
    content: Content
    detail: ErrorDetail

    def of_node(self, path: str, error: BaseException) -> Failure:
        """Return the failure of the node at `path`. A group of exceptions is represented by its first one."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, FlowpodError):
            text, reason = f"node {path!r}: {self.content.redact(error.message)}", self.reason_of(error)
            info = ErrorInfo(f"node {path!r}: {reason}", error.type, path, error.code)
            return Failure(info, text, f"({type(error).__name__}) {reason}")
        whole, name = self.content.redact(text_of(error)), type(error).__name__
        text = f"node {path!r} failed: {whole}{self._place(error)}"
        if self.detail == "full":
            shown, message = whole, text
        else:
            shown = self._plain_text(error)
            message = f"node {path!r} failed: {shown}"
        cause = f"({name}) {shown.removeprefix(name).removeprefix(': ')}"
        return Failure(ErrorInfo(message, "node_error", path, "node_failed"), text, cause)

    def reason_of(self, error: FlowpodError) -> str:
        """Return the reason that callers get."""
        if self.detail == "full":
            return self.content.redact(error.message)
        if error.plain is not None:
            return self.content.redact(error.plain)
        if error.code in _REASONS:
            return _REASONS[error.code]
        if error.code.startswith(_MODEL_CODES):
            return _MODEL_REASON
        return _without_places(self.content.redact(error.message))

    def _plain_text(self, error: BaseException) -> str:
        """Return the type of an exception, and its text if the flow's author wrote it and not a library."""
        name = type(error).__name__
        if isinstance(error, OSError) and isinstance(error.errno, int):
            return f"{name}: {os.strerror(error.errno)}" if error.errno > 0 else name
        return _without_places(self.content.redact(text_of(error))) if self._is_own(error) else name

    def _is_own(self, error: BaseException) -> bool:
        """Return whether the flow's code, or Python for it, raised an exception of Python's or of the flow's own."""
        frames = traceback.extract_tb(error.__traceback__)
        file = getattr(sys.modules.get(type(error).__module__), "__file__", None)
        return (not frames or self._is_inside(frames[-1].filename)) and (file is None or self._is_inside(file))

    def _is_inside(self, file: str) -> bool:
        return Path(file).is_relative_to(self.folder) or Path(file).is_relative_to(_OWN_CODE)

    def _place(self, error: BaseException) -> str:
        """Return the line of the flow that raised an exception."""
        frames = reversed(traceback.extract_tb(error.__traceback__))
        own = next((frame for frame in frames if Path(frame.filename).is_relative_to(self.folder)), None)
        return f" ({Path(own.filename).name}, line {own.lineno})" if own else ""


def _without_places(text: str) -> str:
    """Return a text without addresses and paths."""
    for pattern, replacement in _HIDDEN:
        text = pattern.sub(replacement, text)
    return text
