"""Complete mode, `POST /run`: the run's four events (LangStudio, "Complete mode")."""

from dataclasses import asdict, replace
from typing import Any

from pydantic import StrictBool
from starlette.requests import Request
from starlette.responses import Response

from flowpod.api.http.encoder import chunk_frames, respond
from flowpod.api.http.endpoint import Endpoint
from flowpod.api.http.errors import JsonResponse, error_body
from flowpod.api.http.outcome import Outcome
from flowpod.api.http.requests import RequestModel, read_caller, read_model, read_object
from flowpod.api.native.background import ACCEPTED, IDEMPOTENCY_KEY, RUN, read_idempotency_key, request_content
from flowpod.background.recording import BackgroundRecording
from flowpod.engine.events import Event, NodeUpdated, RunOutput, RunStarted, RunTerminated
from flowpod.engine.request import RunRequest
from flowpod.errors import ErrorInfo, InvalidRequest
from flowpod.jsonable import dumps, timestamp


class ResponseConfig(RequestModel):
    """What the response contains about the nodes."""

    include_node_description: StrictBool = False
    include_node_display_name: StrictBool = False
    include_node_output: StrictBool = False
    exclude_nodes: tuple[str, ...] = ()


class RunBody(RequestModel):
    """The request's body."""

    inputs: dict[str, Any] | None = None
    stream: StrictBool | None = None
    background: StrictBool | None = None
    response_config: ResponseConfig | None = None


class Complete(Endpoint):
    """The endpoint."""

    async def handle(self, request: Request) -> Response:
        """Answer with an event stream, with one JSON body, or with the id of a background run."""
        caller = read_caller(request)
        content = await read_object(request, self._settings.max_body_bytes)
        body = read_model(RunBody, content)
        key = read_idempotency_key(request)
        if body.background:
            return await self._start_background(caller, body, key, request_content(request, RUN, content))
        if key is not None:
            raise InvalidRequest(f"{IDEMPOTENCY_KEY} needs background: true", param=IDEMPOTENCY_KEY)
        streaming = _wants_stream(request) if body.stream is None else body.stream
        run = await self._service.start(_complete_request(caller, body, streaming=streaming))
        encoder = Encoder(body.response_config or ResponseConfig())
        return await respond(run, request, encoder, streaming=streaming, heartbeat_s=self._settings.heartbeat_s)

    async def _start_background(self, caller: RunRequest, body: RunBody, key: str | None, content: bytes) -> Response:
        if body.stream:
            message = "stream: a background run has no reader; leave it out and follow GET /runs/{id}/events"
            raise InvalidRequest(message, param="stream")
        config = body.response_config or ResponseConfig()
        recording = BackgroundRecording(
            {"kind": RUN, "response_config": config.model_dump()}, idempotency_key=key, content=content
        )
        run = await self._service.start(_complete_request(caller, body, streaming=True), recording)
        return JsonResponse({"run_id": run.run_id, "status": run.status}, ACCEPTED, {"Location": f"runs/{run.run_id}"})


def _complete_request(caller: RunRequest, body: RunBody, *, streaming: bool) -> RunRequest:
    return replace(caller, inputs=body.inputs or {}, protocol="complete", streaming=streaming)


def _wants_stream(request: Request) -> bool:
    # The page calls the default both True and dynamic: a caller that takes JSON and no stream gets JSON.
    accept = request.headers.get("accept", "").lower()
    return "application/json" not in accept or "text/event-stream" in accept


class Encoder:
    """Encodes events with the keys of the LangStudio page, in its order."""

    def __init__(self, config: ResponseConfig) -> None:
        self._config = config
        self._excluded = frozenset(config.exclude_nodes)

    def encode(self, event: Event) -> bytes:
        """Return the frame of an event; empty for an event that the caller does not get."""
        if isinstance(event, RunOutput) and event.chunk_lengths:
            return chunk_frames(event, self.encode)
        run_id = event.run_id
        match event:
            case RunStarted():
                fields: dict[str, Any] = {"flow_run_info": _flow_run_info(run_id, "Running", None, event.trace_id)}
            case NodeUpdated():
                if event.node in self._excluded:
                    return b""
                fields = {"node_run_infos": [self._node_run_info(event)]}
            case RunOutput():
                if event.reasoning and not event.delta:
                    return b""
                run_id = f"{run_id}_{event.node}_{event.node_run_id}"  # as the page has it
                fields = _output_fields(event)
            case RunTerminated():
                fields = _end_fields(event)
        head = {"event": type(event).__name__, "run_id": run_id, "timestamp": timestamp(event.timestamp)}
        return b"data: " + dumps(head | fields) + b"\n\n"

    def body(self, outcome: Outcome) -> dict[str, Any]:
        """Return a run's events as one object; a failure is also under `error`, as in every JSON answer."""
        end = outcome.terminated
        error = {} if end.error is None else error_body(end.error)
        return {
            **error,
            "run_id": end.run_id,
            "timestamp": timestamp(end.timestamp),
            **_end_fields(end),
            **self._node_and_output_fields(outcome),
        }

    def run_state(self, run_id: str, status: str, outcome: Outcome) -> dict[str, Any]:
        """Return the events so far of a run as one object; `status` is that of a run without a last event."""
        end = outcome.end
        fields = {"flow_run_info": _flow_run_info(run_id, status, None, "")} if end is None else _end_fields(end)
        error = {} if end is None or end.error is None else error_body(end.error)
        return {**error, **fields, **self._node_and_output_fields(outcome)}

    def _node_and_output_fields(self, outcome: Outcome) -> dict[str, Any]:
        return {
            "node_run_infos": [
                self._node_run_info(node) for node in outcome.nodes.values() if node.node not in self._excluded
            ],
            "outputs": outcome.outputs,
            "output_metadata": {
                name: {"is_stream": False, "status": "Finished" if name in outcome.finished else "Streaming"}
                for name in outcome.outputs
            },
        }

    def _node_run_info(self, event: NodeUpdated) -> dict[str, Any]:
        config = self._config
        return {
            "node_name": event.node,
            "node": event.node,
            "status": event.status,
            "error": _error(event.error),
            "duration": round(event.duration, 6),
            "description": event.description if config.include_node_description else None,
            "display_name": event.display_name if config.include_node_display_name else None,
            "output": event.output if config.include_node_output and event.status == "Completed" else None,
        }


def _output_fields(event: RunOutput) -> dict[str, Any]:
    return {
        "outputs": {event.output: event.delta} if event.has_delta else {},
        "output_metadata": {event.output: {"is_stream": event.is_stream, "status": event.status}},
    }


def _end_fields(event: RunTerminated) -> dict[str, Any]:
    info = _flow_run_info(event.run_id, event.status, event.error, event.trace_id)
    metadata = {name: value for name, value in (("usage", event.usage), ("history", event.history)) if value}
    return {"flow_run_info": info, **({"metadata": metadata} if metadata else {})}


def _flow_run_info(run_id: str, status: str, error: ErrorInfo | None, trace_id: str) -> dict[str, Any]:
    return {"run_id": run_id, "status": status, "error": _error(error), "otel_trace_id": trace_id}


def _error(error: ErrorInfo | None) -> dict[str, Any] | None:
    return None if error is None else asdict(error)
