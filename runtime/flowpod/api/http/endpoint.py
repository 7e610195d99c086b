"""What an endpoint is, and how it gets a route."""

from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


class Endpoint(Protocol):
    """Serves one path."""

    async def handle(self, request: Request) -> Response:
        """Handle a request. A FlowpodError that it raises becomes an error response."""


class EndpointGroup(Protocol):
    """Serves several related paths."""

    def routes(self) -> list[Route]:
        """Return the routes of all its endpoints."""


def get(path: str, endpoint: Endpoint) -> Route:
    """Return the route for `GET path`."""
    return Route(path, endpoint.handle, methods=["GET"])


def post(path: str, endpoint: Endpoint) -> Route:
    """Return the route for `POST path`."""
    return Route(path, endpoint.handle, methods=["POST"])
