"""What an endpoint is, and how it gets a route."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

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
