"""`/healthz`: the process is alive. `/readyz`: the service can receive requests."""

from starlette.requests import Request
from starlette.responses import Response

from flowpod.api.http.errors import JsonResponse
from flowpod.service import FlowService


async def healthz(request: Request) -> Response:  # noqa: ARG001
    """Respond to `GET /healthz` as long as the process can."""
    return JsonResponse({"status": "ok"})


class Readiness:
    """`GET /readyz`."""

    def __init__(self, service: FlowService) -> None:
        self._service = service

    async def handle(self, request: Request) -> Response:  # noqa: ARG002
        """Respond with 200, or with 503 and the reason."""
        if reason := self._service.not_ready:
            return JsonResponse({"status": "not ready", "reason": reason}, 503, {"Retry-After": "2"})
        # A database lost after start-up does not make the service unready: every instance has lost it, and taking all
        # of them out of the load balancer would help nobody.
        history = self._service.history
        lost = {"history": "out of reach"} if history is not None and history.availability.failure else {}
        return JsonResponse({"status": "ready", **lost})
