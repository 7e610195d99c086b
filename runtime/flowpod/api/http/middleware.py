"""Middleware for every request: request id, session id, token check, and closing connections on shutdown."""

import hmac
import re
import uuid
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flowpod.api.http.errors import ErrorResponses, path_of
from flowpod.errors import Unauthorized
from flowpod.logs import REQUEST_ID, RUN_ID, TRACE_ID
from flowpod.service import FlowService

REQUEST_ID_HEADER = "X-Request-Id"
SESSION_ID = "Chat-Session-Id"
CLIENT_REQUEST_ID = "x-ms-client-request-id"
"""promptflow's header for the caller's request id; used as the request id if there is no X-Request-Id."""
OPENAPI, DOCS = "/openapi.json", "/docs"
PROBES = ("/healthz", "/readyz", "/health")
OPEN_PATHS = (*PROBES, OPENAPI, DOCS)

_REQUEST_ID = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,126}[\x21-\x7e])?")


class RequestHeaders:
    """Gives every request an id and every response that id, its session id and, on shutdown, `Connection: close`."""

    def __init__(self, app: ASGIApp, service: FlowService) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        headers = Headers(scope=scope)
        request_id, client_id = (_valid(headers.get(name, "")) for name in (REQUEST_ID_HEADER, CLIENT_REQUEST_ID))
        state["request_id"] = request_id or client_id or str(uuid.uuid4())
        REQUEST_ID.set(state["request_id"])
        RUN_ID.set("")  # known once the request has started its run
        TRACE_ID.set("")

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                response = MutableHeaders(scope=message)
                response[REQUEST_ID_HEADER] = state["request_id"]
                if client_id:
                    response[CLIENT_REQUEST_ID] = client_id
                if session_id := state.get("session_id"):
                    response[SESSION_ID] = session_id
                if self._service.draining or self._service.closing:
                    response["Connection"] = "close"
            await send(message)

        await self._app(scope, receive, with_headers)


def _valid(request_id: str) -> str:
    return request_id if _REQUEST_ID.fullmatch(request_id) else ""


class TokenAuth:
    """Rejects requests without a valid token: `Authorization: Bearer T`, or the bare `T` that EAS accepts."""

    def __init__(self, app: ASGIApp, tokens: Sequence[str], errors: ErrorResponses) -> None:
        self._app = app
        self._tokens = tuple(token.encode() for token in tokens)
        self._errors = errors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http" or not self._tokens or _is_open(path_of(scope)) or self._allows(scope):
            await self._app(scope, receive, send)
            return
        sent = "Authorization" in Headers(scope=scope)
        message = "the token is not valid" if sent else "a token is needed: send Authorization: Bearer <token>"
        await self._errors.response(scope, Unauthorized(message))(scope, receive, send)

    def _allows(self, scope: Scope) -> bool:
        value = Headers(scope=scope).get("Authorization", "").strip()
        scheme, _, rest = value.partition(" ")
        token = (rest.strip() if scheme.lower() == "bearer" else value).encode("latin-1")
        # Every token is compared, so that the time taken does not reveal which one was close.
        return sum(hmac.compare_digest(token, valid) for valid in self._tokens) > 0


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(f"{DOCS}/")
