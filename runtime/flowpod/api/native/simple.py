"""Simple mode, `POST /`: the body has the flow's inputs, the response its outputs (LangStudio, "Simple mode")."""

from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from flowpod.api.http.encoder import chunk_frames, respond
from flowpod.api.http.endpoint import Endpoint
from flowpod.api.http.errors import error_body
from flowpod.api.http.outcome import Outcome
from flowpod.api.http.requests import read_caller, read_object
from flowpod.engine.events import Event, RunOutput, RunTerminated
from flowpod.jsonable import dumps


class Simple(Endpoint):
    """`POST /`."""

    async def handle(self, request: Request) -> Response:
        """Respond with JSON, or with an event stream if `Accept` names one."""
        caller = read_caller(request)
        inputs = await read_object(request, self._settings.max_body_bytes)
        streaming = "text/event-stream" in request.headers.get("accept", "").lower()
        run = await self._service.start(replace(caller, inputs=inputs, protocol="simple", streaming=streaming))
        return await respond(run, request, SimpleEncoder(), streaming=streaming, heartbeat_s=self._settings.heartbeat_s)


class SimpleEncoder:
    """Encodes a run as its outputs."""

    def encode(self, event: Event) -> bytes:
        """Return the frame of an event, or b"".

        A streamed output starts and ends with an empty frame; any other output has one frame with its value.
        """
        match event:
            case RunOutput() if event.chunk_lengths:
                return chunk_frames(event, self.encode)
            case RunOutput(has_delta=True) if not event.reasoning or event.delta:
                return b"event: Message\ndata: " + dumps({event.output: event.delta}) + b"\n\n"
            case RunTerminated(error=error) if error is not None:
                return b"event: Error\ndata: " + dumps(error_body(error)) + b"\n\n"
            case _:
                return b""

    def body(self, outcome: Outcome) -> dict[str, Any]:
        """Return the outputs, or the error of a run that failed."""
        error = outcome.terminated.error
        return outcome.outputs if error is None else error_body(error)
