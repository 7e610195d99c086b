"""What an endpoint is, and how it gets a route."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from flowpod.service import FlowService
from flowpod.settings import Settings

Handler = Callable[[Request], Awaitable[Response]]
"""Handles a request. A FlowpodError that it raises becomes an error response."""


class Endpoint:
    """Serves one path, or several related ones, of a service."""

    def __init__(self, service: FlowService, settings: Settings) -> None:
        self._service = service
        self._settings = settings


def get(path: str, handler: Handler) -> Route:
    """Return the route for `GET path`."""
    return Route(path, handler, methods=["GET"])


def post(path: str, handler: Handler) -> Route:
    """Return the route for `POST path`."""
    return Route(path, handler, methods=["POST"])


def delete(path: str, handler: Handler) -> Route:
    """Return the route for `DELETE path`."""
    return Route(path, handler, methods=["DELETE"])


def ignore_trailing_slash(router: Router) -> None:
    """Serve a path with one slash too many like the path without it.

    Starlette would redirect to the host that the request names, which behind a proxy may be anything.
    """
    not_found = router.default

    async def without_slash(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removesuffix("/")
        is_root = path == scope.get("root_path", "")
        if path == scope["path"] or path.endswith("/") or is_root or scope["type"] != "http":
            await not_found(scope, receive, send)
        else:
            scope["path"] = path
            await router.app(scope, receive, send)

    router.redirect_slashes = False
    router.default = without_slash
