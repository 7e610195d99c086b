"""The errors that users see. All have one shape: the message names the thing, the place and the remedy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

ErrorType = Literal[
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "rate_limit_error",
    "unavailable_error",
    "node_error",
    "run_error",
    "internal_error",
]


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """The `error` object of responses and events, with OpenAI's four keys."""

    message: str
    type: ErrorType
    param: str | None = None
    code: str | None = None


class FlowpodError(Exception):
    """An error; each subclass sets its type. Callers get its `plain` text if it has one, otherwise the message."""

    type: ClassVar[ErrorType] = "internal_error"
    code: str = "internal_error"

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, plain: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.plain = plain
        self.param = param
        if code is not None:
            self.code = code

    @property
    def info(self) -> ErrorInfo:
        """The error as data, for events and responses."""
        return ErrorInfo(self.message if self.plain is None else self.plain, self.type, self.param, self.code)


class InvalidRequest(FlowpodError):
    """The request is invalid; `param` names the field."""

    type = "invalid_request_error"
    code = "invalid_value"


class NotAcceptable(InvalidRequest):
    """The `Accept` header allows no content type that the endpoint can return."""

    code = "not_acceptable"


class BodyTooLarge(InvalidRequest):
    """The request body exceeds FLOWPOD_MAX_BODY_BYTES."""

    code = "body_too_large"


class Unauthorized(FlowpodError):
    """The token is missing or invalid."""

    type = "authentication_error"
    code = "invalid_api_key"


class Forbidden(FlowpodError):
    """The request comes from a page, or for a host, that may not use a service without tokens."""

    type = "permission_error"
    code = "forbidden"


class NotFound(FlowpodError):
    """The resource does not exist, or belongs to another user."""

    type = "not_found_error"
    code = "not_found"


class TooManyRuns(FlowpodError):
    """The limit of concurrent runs is reached; nothing ran."""

    type = "rate_limit_error"
    code = "too_many_runs"


class Unavailable(FlowpodError):
    """The service cannot accept the request now; a retry may succeed. Nothing ran."""

    type = "unavailable_error"
    code = "unavailable"


class NodeError(FlowpodError):
    """A node failed; `code` is the kind of failure, the message its cause."""

    type = "node_error"
    code = "node_failed"


class RunError(FlowpodError):
    """The run failed as a whole: it timed out or was cancelled."""

    type = "run_error"
    code = "run_failed"


Severity = Literal["error", "warning", "environment"]
"""`environment` is a problem of the deployment, not of the flow: an unset variable of a connection."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem in a flow package: the file, the key, the line if known, and a message that names the remedy."""

    file: str
    key: str
    message: str
    line: int | None = None
    severity: Severity = "error"

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return ": ".join(part for part in (place, self.key, self.message) if part)


class FlowProblems(FlowpodError):
    """The flow package cannot be served; `problems` lists everything that is wrong with it."""

    type = "invalid_request_error"
    code = "invalid_flow"

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class BuildError(Exception):
    """A node cannot be built; `key` is the wrong key under the node."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key
        self.message = message


_MAX_TEXT_CHARS = 2000


def shorten(text: str) -> str:
    """Return `text`, truncated to 2000 characters."""
    return text if len(text) <= _MAX_TEXT_CHARS else f"{text[:_MAX_TEXT_CHARS]}..."


def text_of(error: BaseException) -> str:
    """Return an exception as `Type: text`, truncated to 2000 characters; never fails, even if its `__str__` does."""
    try:
        text = str(error)
    except BaseException:  # noqa: BLE001 - a flow's own exception class may raise anything
        text = "(its text cannot be read)"
    return f"{type(error).__name__}: {shorten(text)}" if text else type(error).__name__
