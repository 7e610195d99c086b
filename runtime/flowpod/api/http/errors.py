"""Errors as HTTP responses: one shape, and a retryable status only where nothing ran."""

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from flowpod.api.dashscope.errors import PATHS as DASHSCOPE_PATHS
from flowpod.api.dashscope.errors import dashscope_error
from flowpod.errors import (
    BodyTooLarge,
    ErrorInfo,
    FlowpodError,
    InvalidRequest,
    NotAcceptable,
    NotFound,
    TooManyRuns,
    Unauthorized,
    Unavailable,
)
from flowpod.jsonable import dumps

logger = logging.getLogger(__name__)

RUN_FAILED = 424
"""The status of a JSON answer whose run failed: clients repeat 5xx, 408, 409 and 429, and the flow has run."""

_STATUS: dict[type[FlowpodError], int] = {
    InvalidRequest: 400,
    Unauthorized: 401,
    NotFound: 404,
    NotAcceptable: 406,
    BodyTooLarge: 413,
    TooManyRuns: 429,
    Unavailable: 503,
}
_HEADERS = {
    401: {"WWW-Authenticate": "Bearer"},
    429: {"Retry-After": "1"},
    500: {"x-should-retry": "false"},
    503: {"Retry-After": "2"},
}


class JsonResponse(Response):
    """A JSON answer, of whatever values a flow made."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the body's bytes."""
        return dumps(content)


def error_body(error: ErrorInfo) -> dict[str, Any]:
    """Return `{"error": {"message", "type", "param", "code"}}`."""
    return {"error": asdict(error)}


def path_of(scope: Scope) -> str:
    """Return the path without the prefix under which a proxy serves us, which the server puts in front of it."""
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


def body_for(scope: Scope, error: ErrorInfo) -> dict[str, Any]:
    """Return the body of an error in the shape that the clients of the request's path know."""
    if path_of(scope).startswith(DASHSCOPE_PATHS):
        return dashscope_error(error, scope["state"]["request_id"])
    return error_body(error)


def error_response(error: FlowpodError, body: Mapping[str, Any] | None = None) -> JsonResponse:
    """Return the response for an error that was met before a run began; `body` for a protocol with its own shape."""
    status = _STATUS[type(error)]
    return JsonResponse(body or error_body(error.info), status, _HEADERS.get(status))


async def on_flowpod_error(request: Request, error: Exception) -> Response:
    """Answer an error of ours."""
    assert isinstance(error, FlowpodError)
    return error_response(error, body_for(request.scope, error.info))


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Answer what Starlette refuses: unknown paths and wrong methods."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        info = ErrorInfo(f"there is nothing at {request.url.path}", "not_found_error", None, "unknown_path")
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        message = f"{request.url.path} does not take {request.method}; use {allowed}"
        info = ErrorInfo(message, "invalid_request_error", None, "method_not_allowed")
    else:
        info = ErrorInfo(error.detail, "invalid_request_error", None, "bad_request")
    return JsonResponse(body_for(request.scope, info), error.status_code, error.headers)


async def on_bug(request: Request, error: Exception) -> Response:  # noqa: ARG001
    """Answer a bug of ours that was met before a run began; the server logs it."""
    message = "internal error; the log has the details under this request's X-Request-Id"
    info = ErrorInfo(message, "internal_error", None, "internal_error")
    return JsonResponse(body_for(request.scope, info), 500, _HEADERS[500])
