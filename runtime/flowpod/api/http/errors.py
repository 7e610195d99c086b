"""Errors as HTTP responses: one shape per protocol, and a retryable status only if nothing ran."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ExceptionHandler, Scope

from flowpod.errors import (
    BodyTooLarge,
    ErrorInfo,
    FlowpodError,
    Forbidden,
    InvalidRequest,
    NotAcceptable,
    NotFound,
    TooManyRuns,
    Unauthorized,
    Unavailable,
)
from flowpod.jsonable import dumps

RUN_FAILED = 424
"""The status of a JSON response whose run failed. Clients retry 5xx, 408, 409 and 429, but the flow has run."""
DO_NOT_RETRY = {"x-should-retry": "false"}
"""The header by which clients of OpenAI and DashScope do not retry a response that they would retry by its status."""

ErrorRenderer = Callable[[ErrorInfo, str], dict[str, Any]]
"""Returns a protocol's JSON body for an error and the id of the request."""

_STATUS: dict[type[FlowpodError], int] = {
    InvalidRequest: 400,
    Unauthorized: 401,
    Forbidden: 403,
    NotFound: 404,
    NotAcceptable: 406,
    BodyTooLarge: 413,
    TooManyRuns: 429,
    Unavailable: 503,
}
_HEADERS = {
    401: {"WWW-Authenticate": "Bearer"},
    429: {"Retry-After": "1"},
    500: DO_NOT_RETRY,
    503: {"Retry-After": "2"},
}


class JsonResponse(Response):
    """A JSON response; the content may hold any values that a flow returned."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the body's bytes."""
        return dumps(content)


def error_body(error: ErrorInfo) -> dict[str, Any]:
    """Return `{"error": {"message", "type", "param", "code"}}`."""
    return {"error": asdict(error)}


def path_of(scope: Scope) -> str:
    """Return the request's path without the root path, the prefix under which a proxy serves us."""
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


def error_response(error: FlowpodError, body: Mapping[str, Any] | None = None) -> JsonResponse:
    """Return the response for an error that occurred before a run started; `body` overrides the default shape."""
    status = _STATUS[type(error)]
    return JsonResponse(body or error_body(error.info), status, _HEADERS.get(status))


class ErrorResponses:
    """Renders errors in the shape that the clients of a path expect.

    `renderers` maps a path prefix to the renderer of its protocol; all other paths use `error_body`.
    """

    def __init__(self, renderers: Mapping[str, ErrorRenderer]) -> None:
        self._renderers = renderers

    def handlers(self) -> Mapping[type[Exception], ExceptionHandler]:
        """Return Starlette's exception handlers."""
        return {FlowpodError: self._on_flowpod_error, HTTPException: self._on_http_exception, Exception: self._on_bug}

    def response(self, scope: Scope, error: FlowpodError) -> JsonResponse:
        """Return the response for an error that occurred before a run started."""
        return error_response(error, self._body(scope, error.info))

    def _body(self, scope: Scope, error: ErrorInfo) -> dict[str, Any]:
        path = path_of(scope)
        for prefix, render in self._renderers.items():
            if path.startswith(prefix):
                return render(error, scope["state"]["request_id"])
        return error_body(error)

    async def _on_flowpod_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, FlowpodError)
        return self.response(request.scope, error)

    async def _on_http_exception(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 404:
            info = ErrorInfo(f"there is nothing at {request.url.path}", "not_found_error", None, "unknown_path")
        elif error.status_code == 405:
            return self._method_not_allowed(request)
        else:
            info = ErrorInfo(error.detail, "invalid_request_error", None, "bad_request")
        return JsonResponse(self._body(request.scope, info), error.status_code, error.headers)

    def _method_not_allowed(self, request: Request) -> Response:
        methods: set[str] = set()  # each method of a path has its own route, and Starlette knows only the first
        for route in request.app.routes:
            if route.matches(request.scope)[0] != Match.NONE:
                methods |= route.methods
        allowed = ", ".join(sorted(methods))
        message = f"{request.url.path} does not support {request.method}; use {allowed}"
        info = ErrorInfo(message, "invalid_request_error", None, "method_not_allowed")
        return JsonResponse(self._body(request.scope, info), 405, {"Allow": allowed})

    async def _on_bug(self, request: Request, error: Exception) -> Response:  # noqa: ARG002
        """Respond to a bug of ours that occurred before a run started; the server logs it."""
        message = "internal error; the log has the details under this request's X-Request-Id"
        info = ErrorInfo(message, "internal_error", None, "internal_error")
        return JsonResponse(self._body(request.scope, info), 500, _HEADERS[500])
