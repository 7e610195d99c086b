"""Every failure that a user can meet, in one shape: what, where, and what to do about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

ErrorType = Literal[
    "invalid_request_error",
    "authentication_error",
    "not_found_error",
    "rate_limit_error",
    "unavailable_error",
    "node_error",
    "run_error",
    "internal_error",
]


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """The inner object of every error that goes over the wire; OpenAI's four keys."""

    message: str
    type: ErrorType
    param: str | None = None
    code: str | None = None


class FlowpodError(Exception):
    """A failure with a message for the caller; subclasses say of which type it is."""

    type: ClassVar[ErrorType] = "internal_error"
    code: str = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code

    @property
    def info(self) -> ErrorInfo:
        """The error as data, the form in which it crosses task boundaries."""
        return ErrorInfo(self.message, self.type, self.param, self.code)


class InvalidRequest(FlowpodError):
    """The caller's request cannot be served as it is; `param` names the field."""

    type = "invalid_request_error"
    code = "invalid_value"


class NotAcceptable(InvalidRequest):
    """The caller's `Accept` names no form in which the answer can be given."""

    code = "not_acceptable"


class BodyTooLarge(InvalidRequest):
    """The request body is over the configured limit."""

    code = "body_too_large"


class Unauthorized(FlowpodError):
    """No token, or one that is not valid."""

    type = "authentication_error"
    code = "invalid_api_key"


class NotFound(FlowpodError):
    """What the request names does not exist, or not for this caller."""

    type = "not_found_error"
    code = "not_found"


class TooManyRuns(FlowpodError):
    """The process runs as many runs as it may; nothing ran."""

    type = "rate_limit_error"
    code = "too_many_runs"


class Unavailable(FlowpodError):
    """The service cannot take this request now and a retry may succeed; nothing ran."""

    type = "unavailable_error"
    code = "unavailable"


class NodeError(FlowpodError):
    """A node failed; `code` says how, the message says why."""

    type = "node_error"
    code = "node_failed"


class RunError(FlowpodError):
    """The run as a whole failed: its time was up, or it was cancelled."""

    type = "run_error"
    code = "run_failed"


Severity = Literal["error", "warning", "environment"]
"""`environment` marks what the flow is fine without until it runs: an unset variable of a connection."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a flow package: the file, the key in it, the line if known, and the remedy."""

    file: str
    key: str
    message: str
    line: int | None = None
    severity: Severity = "error"

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return ": ".join(part for part in (place, self.key, self.message) if part)


class FlowProblems(FlowpodError):
    """A flow package that cannot be served; holds every problem that was found."""

    type = "invalid_request_error"
    code = "invalid_flow"

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class BuildError(Exception):
    """A node that cannot be built: the key under the node, and what is wrong with it."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key
        self.message = message


_TEXT_LENGTH = 2000


def text_of(error: BaseException) -> str:
    """Return the type and text of an exception of a flow's own code, whatever that code does, and not endless."""
    try:
        text = str(error)
    except BaseException:  # noqa: BLE001 - an exception's own code may raise anything
        text = "(its text cannot be shown)"
    shown = text if len(text) <= _TEXT_LENGTH else f"{text[:_TEXT_LENGTH]}..."
    return f"{type(error).__name__}: {shown}" if shown else type(error).__name__
