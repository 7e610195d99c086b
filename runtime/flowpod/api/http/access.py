"""Who may call: a request needs a valid `Host`, and a token or, without tokens, an origin that is ours or allowed."""

import hmac
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from flowpod.api.http.errors import ErrorResponses, path_of
from flowpod.api.http.middleware import DOCS, OPEN_PATHS
from flowpod.errors import FlowpodError, Forbidden, InvalidRequest, Unauthorized

_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[\w.~%!$&'()*+;=-]*)(:[0-9]*)?")
"""RFC 9110, 7.2: a name or an address, and a port."""
_PORT = re.compile(r":[0-9]*$")


@dataclass(frozen=True, slots=True)
class AccessRules:
    """The valid tokens; without any, the origins whose pages may call, and whether `Host` must be this machine.

    A name of another site can be made to resolve to this machine (DNS rebinding), and its pages would then be served as
    pages of our own origin. Only their `Host` gives them away.
    """

    tokens: Sequence[str]
    origins: Sequence[str]
    only_loopback: bool


class AccessControl:
    """Refuses the requests that `rules` do not allow."""

    def __init__(self, app: ASGIApp, rules: AccessRules, errors: ErrorResponses) -> None:
        self._app = app
        self._rules = rules
        self._tokens = tuple(token.encode() for token in rules.tokens)
        self._errors = errors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] == "http":
            try:
                self._check(scope)
            except FlowpodError as error:
                await self._errors.response(scope, error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        host = _host(scope)
        if self._tokens:
            if not _is_open(path_of(scope)):
                self._check_token(Headers(scope=scope))
            return
        if self._rules.only_loopback and host is not None and not _is_loopback(host):
            message = (
                f"this service has no token, so it serves localhost and not {host[:255]}; set FLOWPOD_TOKENS, or "
                "FLOWPOD_AUTH=off behind a gateway that authenticates clients"
            )
            raise Forbidden(message, param="Host", code="host_not_allowed")
        for origin in [value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"]:
            if not self._is_allowed(origin, host, Headers(scope=scope)):
                message = (
                    f"this service has no token, so pages of {origin[:255]} cannot call it; set FLOWPOD_TOKENS, or "
                    "allow the origin in FLOWPOD_CORS_ORIGINS"
                )
                raise Forbidden(message, param="Origin", code="origin_not_allowed")

    def _check_token(self, headers: Headers) -> None:
        value = headers.get("Authorization", "").strip()
        scheme, _, rest = value.partition(" ")
        token = (rest.strip() if scheme.lower() == "bearer" else value).encode("latin-1")
        # Every token is compared, so that the time taken does not reveal which one was close.
        if sum(hmac.compare_digest(token, valid) for valid in self._tokens) == 0:
            sent = "Authorization" in headers
            raise Unauthorized(
                "the token is not valid" if sent else "a token is needed: send Authorization: Bearer <token>"
            )

    def _is_allowed(self, origin: str, host: str | None, headers: Headers) -> bool:
        if "*" in self._rules.origins or origin in self._rules.origins:
            return True
        # A gateway may have changed Host. Browsers send Sec-Fetch-Site themselves; a page cannot set it.
        own = host is not None and origin.partition("://")[2].lower() == host.lower()
        return own or headers.get("sec-fetch-site") == "same-origin"


def _host(scope: Scope) -> str | None:
    """Return the request's host; None if it has none, as HTTP/1.0 allows."""
    hosts: list[bytes] = [value for name, value in scope["headers"] if name == b"host"]
    if len(hosts) == 1 and _HOST.fullmatch(hosts[0]):
        return hosts[0].decode("ascii")
    if hosts or scope["http_version"] != "1.0":
        raise InvalidRequest("a request needs one valid Host header", param="Host", code="invalid_host")
    return None


def _is_loopback(host: str) -> bool:
    name = _PORT.sub("", host).lower().removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_open(path: str) -> bool:
    return path.removesuffix("/") in OPEN_PATHS or path.startswith(f"{DOCS}/")
