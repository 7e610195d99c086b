"""What holds for every request: its id, its token, and that connections close when the service does."""

import hmac
import re
import uuid
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flowpod.api.http.errors import body_for, error_response, path_of
from flowpod.errors import Unauthorized
from flowpod.logs import REQUEST_ID, RUN_ID, TRACE_ID
from flowpod.service import FlowService

REQUEST_ID_HEADER = "X-Request-Id"
SESSION_ID = "Chat-Session-Id"
CLIENT_REQUEST_ID = "x-ms-client-request-id"
"""promptflow's other name for the caller's id of a request; where it stands alone it is the request's id."""
OPENAPI, DOCS = "/openapi.json", "/docs"
PROBES = ("/healthz", "/readyz", "/health")
OPEN_PATHS = (*PROBES, OPENAPI, DOCS)

_REQUEST_ID = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,126}[\x21-\x7e])?")


class RequestHeaders:
    """Gives each request an id, and each response that id, its session and, while draining, `Connection: close`."""

    def __init__(self, app: ASGIApp, service: FlowService) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection as ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        given = Headers(scope=scope)
        own, client = (_valid(given.get(name, "")) for name in (REQUEST_ID_HEADER, CLIENT_REQUEST_ID))
        state["request_id"] = own or client or str(uuid.uuid4())
        REQUEST_ID.set(state["request_id"])
        RUN_ID.set("")  # known once the request has started its run
        TRACE_ID.set("")

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID_HEADER] = state["request_id"]
                if client:
                    headers[CLIENT_REQUEST_ID] = client
                if session_id := state.get("session_id"):
                    headers[SESSION_ID] = session_id
                if self._service.draining or self._service.closing:
                    headers["Connection"] = "close"
            await send(message)

        await self._app(scope, receive, with_headers)


def _valid(request_id: str) -> str:
    return request_id if _REQUEST_ID.fullmatch(request_id) else ""


class TokenAuth:
    """Lets a request pass that has one of the tokens: `Authorization: Bearer T`, or the bare `T` that EAS takes."""

    def __init__(self, app: ASGIApp, tokens: Sequence[str]) -> None:
        self._app = app
        self._tokens = tuple(token.encode() for token in tokens)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection as ASGI has it."""
        if scope["type"] != "http" or not self._tokens or _is_open(path_of(scope)) or self._allows(scope):
            await self._app(scope, receive, send)
            return
        given = "Authorization" in Headers(scope=scope)
        what = "the token is not valid" if given else "a token is needed: send Authorization: Bearer <token>"
        error = Unauthorized(what)
        await error_response(error, body_for(scope, error.info))(scope, receive, send)

    def _allows(self, scope: Scope) -> bool:
        value = Headers(scope=scope).get("Authorization", "").strip()
        scheme, _, rest = value.partition(" ")
        given = (rest.strip() if scheme.lower() == "bearer" else value).encode("latin-1")
        # Every token is compared, so that the time taken does not tell which one was close.
        return sum(hmac.compare_digest(given, token) for token in self._tokens) > 0


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(f"{DOCS}/")
