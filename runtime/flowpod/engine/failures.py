"""Error messages about a node that failed."""

import traceback
from pathlib import Path

from flowpod.errors import ErrorInfo, FlowpodError, text_of
from flowpod.telemetry.content import Content


def error_info(path: str, error: BaseException, folder: Path, content: Content) -> ErrorInfo:
    """Return the error that callers see: its redacted text, and the line of the flow in `folder` that raised it.

    `path` is the path of the node. A group of exceptions is represented by its first one.
    """
    if isinstance(error, FlowpodError):
        return ErrorInfo(f"node {path!r}: {content.redact(error.message)}", error.type, path, error.code)
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    frames = traceback.extract_tb(error.__traceback__)
    own = next((frame for frame in reversed(frames) if Path(frame.filename).is_relative_to(folder)), None)
    place = f" ({Path(own.filename).name}, line {own.lineno})" if own else ""
    return ErrorInfo(
        f"node {path!r} failed: {content.redact(text_of(error))}{place}", "node_error", path, "node_failed"
    )


def cause_of(error: BaseException) -> str:
    """Return an exception in promptflow's words: `(Type) text`."""
    name = type(error).__name__
    return f"({name}) {text_of(error).removeprefix(f'{name}: ')}"
