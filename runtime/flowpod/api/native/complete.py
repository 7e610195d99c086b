"""Complete mode, `POST /run`: the run's four events (LangStudio, "Complete mode")."""

from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response

from flowpod.api.http.api_settings import ApiSettings
from flowpod.api.http.encoder import respond
from flowpod.api.http.errors import JsonResponse, error_body
from flowpod.api.http.outcome import Outcome
from flowpod.api.http.requests import Caller, read_caller, read_model, read_object
from flowpod.api.native.background import ACCEPTED, IDEMPOTENCY_KEY, RUN, asked_by, read_key, run_queue_of
from flowpod.background.queue import Recording
from flowpod.engine.events import Event, NodeUpdated, RunOutput, RunStarted, RunTerminated
from flowpod.errors import ErrorInfo, InvalidRequest
from flowpod.jsonable import dumps, timestamp
from flowpod.service import FlowService


class ResponseConfig(BaseModel):
    """What a caller wants to see of the nodes."""

    model_config = ConfigDict(frozen=True)

    include_node_description: bool = False
    include_node_display_name: bool = False
    include_node_output: bool = False
    exclude_nodes: tuple[str, ...] = ()


class RunBody(BaseModel):
    """The request's body."""

    model_config = ConfigDict(frozen=True)

    inputs: dict[str, Any] | None = None
    stream: bool | None = None
    background: bool | None = None
    response_config: ResponseConfig | None = None


class Complete:
    """The endpoint."""

    def __init__(self, service: FlowService, settings: ApiSettings) -> None:
        self._service = service
        self._settings = settings

    async def handle(self, request: Request) -> Response:
        """Answer with an event stream or with one JSON body."""
        caller = read_caller(request)
        content = await read_object(request, self._settings.max_body_bytes)
        body = read_model(RunBody, content)
        key = read_key(request)
        if body.background:
            return await self._submit(caller, body, key, asked_by(request, RUN, content))
        if key is not None:
            raise InvalidRequest(f"{IDEMPOTENCY_KEY} needs background: true", param=IDEMPOTENCY_KEY)
        streaming = _wants_stream(request) if body.stream is None else body.stream
        run = await self._service.start(caller.request(body.inputs or {}, protocol="complete", streaming=streaming))
        encoder = Encoder(body.response_config or ResponseConfig())
        return await respond(run, request, encoder, streaming=streaming, heartbeat_s=self._settings.heartbeat_s)

    async def _submit(self, caller: Caller, body: RunBody, key: str | None, asked: bytes) -> Response:
        if body.stream:
            message = "stream: a background run has no reader; leave it out and follow GET /runs/{id}/events"
            raise InvalidRequest(message, param="stream")
        config = body.response_config or ResponseConfig()
        submission = Recording({"kind": RUN, "response_config": config.model_dump()}, key, asked)
        request = caller.request(body.inputs or {}, protocol="complete", streaming=True)
        run = await run_queue_of(self._service).submit(request, submission)
        return JsonResponse({"run_id": run.run_id, "status": run.status}, ACCEPTED, {"Location": f"runs/{run.run_id}"})


def _wants_stream(request: Request) -> bool:
    # The page calls the default both True and dynamic: a caller that takes JSON and no stream gets JSON.
    accept = request.headers.get("accept", "").lower()
    return "application/json" not in accept or "text/event-stream" in accept


class Encoder:
    """Encodes events with the page's keys in the page's order."""

    def __init__(self, config: ResponseConfig) -> None:
        self._config = config
        self._excluded = frozenset(config.exclude_nodes)

    def encode(self, event: Event) -> bytes:
        """Return the frame of an event, or nothing."""
        match event:
            case RunStarted():
                facts: dict[str, Any] = {"flow_run_info": _flow_run_info(event.run_id, "Running", None, event.trace_id)}
            case NodeUpdated():
                if event.node in self._excluded:
                    return b""
                facts = {"node_run_infos": [self._node_run_info(event)]}
            case RunOutput():
                if event.reasoning and not event.delta:
                    return b""
                facts = _output(event)
            case RunTerminated():
                facts = _end(event)
        head = {
            "event": type(event).__name__,
            "run_id": event.run_id,
            "timestamp": timestamp(event.timestamp),
        }
        return b"data: " + dumps(head | facts) + b"\n\n"

    def body(self, outcome: Outcome) -> dict[str, Any]:
        """Return the same facts as one object; a failure is also under `error`, where every JSON answer has it."""
        end = outcome.terminated
        error = {} if end.error is None else error_body(end.error)
        return {
            **error,
            "run_id": end.run_id,
            "timestamp": timestamp(end.timestamp),
            **_end(end),
            **self.parts(outcome),
        }

    def state(self, run_id: str, status: str, outcome: Outcome) -> dict[str, Any]:
        """Return the facts about a run that may not have ended; its `status` counts where no event tells."""
        end = outcome.end
        facts = {"flow_run_info": _flow_run_info(run_id, status, None, "")} if end is None else _end(end)
        error = {} if end is None or end.error is None else error_body(end.error)
        return {**error, **facts, **self.parts(outcome)}

    def parts(self, outcome: Outcome) -> dict[str, Any]:
        """Return what there is of the nodes and outputs."""
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


def _output(event: RunOutput) -> dict[str, Any]:
    return {
        "outputs": {event.output: event.delta} if event.has_delta else {},
        "output_metadata": {event.output: {"is_stream": event.is_stream, "status": event.status}},
    }


def _end(event: RunTerminated) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "flow_run_info": _flow_run_info(event.run_id, event.status, event.error, event.trace_id),
    }
    metadata: dict[str, Any] = {}
    if event.usage:
        metadata["usage"] = event.usage
    if event.history:
        metadata["history"] = event.history
    if metadata:
        facts["metadata"] = metadata
    return facts


def _flow_run_info(run_id: str, status: str, error: ErrorInfo | None, trace_id: str) -> dict[str, Any]:
    return {"run_id": run_id, "status": status, "error": _error(error), "otel_trace_id": trace_id}


def _error(error: ErrorInfo | None) -> dict[str, Any] | None:
    return None if error is None else asdict(error)
