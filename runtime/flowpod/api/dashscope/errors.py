"""DashScope's errors: a flat object with a code, a message and the request id (Model Studio, "Error messages")."""

from collections.abc import Mapping
from typing import Any

from flowpod.errors import ErrorInfo, ErrorType

PATH_PREFIX = "/api/v1/"
"""The prefix of the paths that DashScope's clients call."""

_CODES: Mapping[ErrorType, tuple[str, int]] = {
    "invalid_request_error": ("InvalidParameter", 400),
    "authentication_error": ("InvalidApiKey", 401),
    "permission_error": ("AccessDenied", 403),
    "not_found_error": ("NotFound", 404),
    "rate_limit_error": ("Throttling", 429),
    "unavailable_error": ("ServiceUnavailable", 503),
    "node_error": ("InternalError", 500),
    "run_error": ("InternalError", 500),
    "internal_error": ("InternalError", 500),
}
_TIMED_OUT = ("model_timeout", "node_timeout", "run_timeout")


def dashscope_error(error: ErrorInfo, request_id: str) -> dict[str, Any]:
    """Return `{"code", "message", "request_id"}`."""
    return {"code": _code_of(error)[0], "message": error.message, "request_id": request_id}


def status_of(error: ErrorInfo) -> int:
    """Return the HTTP status of an error; in a stream, the error frame has it."""
    return _code_of(error)[1]


def _code_of(error: ErrorInfo) -> tuple[str, int]:
    return ("GatewayTimeout", 504) if error.code in _TIMED_OUT else _CODES[error.type]
