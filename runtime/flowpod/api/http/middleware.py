"""Middleware for every request: request id, session id, and closing connections on shutdown."""

import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flowpod.ids import new_uuid
from flowpod.logs import REQUEST_ID, RUN_ID, TRACE_ID
from flowpod.service import FlowService

REQUEST_ID_HEADER = "X-Request-Id"
SESSION_ID = "Chat-Session-Id"
HISTORY = "X-Flowpod-History"
"""`deferred` on a JSON response whose turn is not stored yet; a stream has it in a comment."""
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
        state["request_id"] = request_id or client_id or new_uuid()
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
                if history := state.get("history"):
                    response[HISTORY] = history
                if self._service.draining or self._service.closing:
                    response["Connection"] = "close"
            await send(message)

        await self._app(scope, receive, with_headers)


def _valid(request_id: str) -> str:
    return request_id if _REQUEST_ID.fullmatch(request_id) else ""
