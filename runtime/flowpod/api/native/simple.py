"""Simple mode, `POST /`: the flow's inputs as the body, its outputs as the answer (LangStudio, "Simple mode")."""

from starlette.requests import Request
from starlette.responses import Response

from flowpod.api.http.api_settings import ApiSettings
from flowpod.api.http.errors import RUN_FAILED, JsonResponse, error_body
from flowpod.api.http.outcome import fold
from flowpod.api.http.requests import read_caller, read_object
from flowpod.api.http.sse import event_stream
from flowpod.engine.events import Event, RunOutput, RunTerminated
from flowpod.jsonable import dumps
from flowpod.service import FlowService


class Simple:
    """The endpoint."""

    def __init__(self, service: FlowService, settings: ApiSettings) -> None:
        self._service = service
        self._settings = settings

    async def answer(self, request: Request) -> Response:
        """Answer with JSON or, where `Accept` names it, with an event stream."""
        caller = read_caller(request)
        inputs = await read_object(request, self._settings.max_body_bytes)
        streaming = "text/event-stream" in request.headers.get("accept", "").lower()
        run = await self._service.start(caller.request(inputs, protocol="simple", streaming=streaming))
        if streaming:
            return event_stream(run, encode, self._settings.heartbeat_s)
        outcome = await fold(run, request)
        if outcome.terminated.error is not None:
            return JsonResponse(error_body(outcome.terminated.error), RUN_FAILED)
        return JsonResponse(outcome.outputs)


def encode(event: Event) -> bytes:
    """Return the frame of an event, or nothing.

    An output that is streamed has one empty frame first and one last; others have one frame with their value.
    """
    match event:
        case RunOutput(has_delta=True) if not event.reasoning or event.delta:
            return b"event: Message\ndata: " + dumps({event.output: event.delta}) + b"\n\n"
        case RunTerminated(error=error) if error is not None:
            return b"event: Error\ndata: " + dumps(error_body(error)) + b"\n\n"
        case _:
            return b""
