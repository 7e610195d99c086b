"""How each of DashScope's endpoints answers a run: with frames or with one object."""

from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from flowpod.api.dashscope.errors import NO_REPEAT, dashscope_error, status_of
from flowpod.api.http.errors import JsonResponse
from flowpod.api.http.outcome import Outcome, fold
from flowpod.api.http.sse import event_stream
from flowpod.engine.events import Event
from flowpod.engine.run import Run


class AnswerEncoder(Protocol):
    """What an endpoint makes of a run."""

    def encode(self, event: Event) -> bytes:
        """Return the frame of an event, or nothing."""

    def body(self, outcome: Outcome) -> dict[str, Any]:
        """Return the whole answer."""


async def replied(run: Run, request: Request, reply: AnswerEncoder, *, streaming: bool, heartbeat_s: float) -> Response:
    """Return the response to a request; a failed run's asks the client not to repeat it."""
    if streaming:
        return event_stream(run, reply.encode, heartbeat_s)
    outcome = await fold(run, request)
    if (error := outcome.terminated.error) is not None:
        return JsonResponse(dashscope_error(error, request.state.request_id), status_of(error), NO_REPEAT)
    return JsonResponse(reply.body(outcome))
