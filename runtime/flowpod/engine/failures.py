"""What is said of a node that failed."""

import traceback
from pathlib import Path

from flowpod.errors import ErrorInfo, FlowpodError, text_of
from flowpod.telemetry.content import Content


def error_info(path: str, error: BaseException, folder: Path, content: Content) -> ErrorInfo:
    """Return what callers learn of an error: its text without secrets, and the line of the flow in `folder`.

    `path` is the node's. Of a group of exceptions the first one counts.
    """
    if isinstance(error, FlowpodError):
        return ErrorInfo(f"node {path!r}: {content.said(error.message)}", error.type, path, error.code)
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    frames = traceback.extract_tb(error.__traceback__)
    own = next((frame for frame in reversed(frames) if Path(frame.filename).is_relative_to(folder)), None)
    place = f" ({Path(own.filename).name}, line {own.lineno})" if own else ""
    return ErrorInfo(f"node {path!r} failed: {content.said(text_of(error))}{place}", "node_error", path, "node_failed")


def cause_of(error: BaseException) -> str:
    """Return an exception as promptflow words it: `(Type) text`."""
    name = type(error).__name__
    return f"({name}) {text_of(error).removeprefix(f'{name}: ')}"
