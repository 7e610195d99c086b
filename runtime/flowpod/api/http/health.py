"""`/healthz`: the process answers. `/readyz`: the service should get requests."""

from starlette.requests import Request
from starlette.responses import Response

from flowpod.api.http.errors import JsonResponse
from flowpod.service import FlowService


async def healthz(request: Request) -> Response:  # noqa: ARG001
    """Answer as long as the process can."""
    return JsonResponse({"status": "ok"})


class Readyz:
    """The readiness endpoint."""

    def __init__(self, service: FlowService) -> None:
        self._service = service

    async def answer(self, request: Request) -> Response:  # noqa: ARG002
        """Answer 200, or 503 with the reason."""
        if reason := self._service.not_ready:
            return JsonResponse({"status": "not ready", "reason": reason}, 503, {"Retry-After": "2"})
        # A loss after the start is only told: all instances have it, and all of them out of service helps nobody.
        lost = {"history": "out of reach"} if self._service.history_unavailable else {}
        return JsonResponse({"status": "ready", **lost})
