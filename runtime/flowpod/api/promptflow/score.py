"""promptflow's serving: `POST /score`, `POST /feedback`, `GET /health`, `/version` and `/swagger.json`.

The behaviour is that of promptflow 1.18.5 (core/_serving): content negotiation, which outputs stream, and the shape of
errors. One difference: where promptflow responds with 500 after a run, this responds with 424, because clients retry a
500 and the flow has run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import orjson
from starlette.requests import Request
from starlette.responses import Response

from flowpod import __version__
from flowpod.api.http.encoder import chunk_frames
from flowpod.api.http.endpoint import Endpoint
from flowpod.api.http.errors import RUN_FAILED, JsonResponse, error_response
from flowpod.api.http.outcome import Outcome, fold, look_ahead
from flowpod.api.http.requests import as_object, read_bytes, read_caller, read_user_id
from flowpod.api.http.sse import event_stream
from flowpod.api.promptflow.swagger import swagger_document
from flowpod.engine.events import Event, NodeUpdated, RunOutput, RunStarted, RunTerminated
from flowpod.engine.request import RunRequest
from flowpod.engine.run import Run
from flowpod.errors import ErrorInfo, FlowpodError, InvalidRequest, NotAcceptable, Unavailable
from flowpod.jsonable import dumps
from flowpod.service import FlowService
from flowpod.settings import Settings

_JSON_TYPES = frozenset({"application/json", "application/*", "*/*"})
_FEEDBACK = "feedback"
_FEEDBACK_SPAN = "promptflow-feedback"
_MAX_INTEGER = 2**63 - 1
_MAX_FEEDBACK_KEYS = 1000
_MAX_FEEDBACK_KEY_CHARS = 255


@dataclass(frozen=True, slots=True)
class Accept:
    """The media types that a client accepts. A stream must be named explicitly; a wildcard means JSON."""

    json: bool
    stream: bool
    header: str = "*/*"

    @classmethod
    def from_headers(cls, values: Sequence[str]) -> "Accept":
        """Read the values of a request's `Accept` headers; without one, any type is accepted."""
        ranges = [item for value in values for item in value.lower().split(",") if item.strip()]
        if not ranges:
            return cls(json=True, stream=False)
        parsed = (item.partition(";") for item in ranges)
        types = {media_type.strip() for media_type, _, parameters in parsed if not _has_zero_quality(parameters)}
        return cls(bool(types & _JSON_TYPES), "text/event-stream" in types, ",".join(ranges))

    def choose(self, streaming: Sequence[str]) -> Literal["json", "stream"]:
        """Return the format of a response with these streaming outputs.

        Raises InvalidRequest for a stream of several outputs, NotAcceptable if the client accepts no possible format.
        """
        if self.stream and len(streaming) > 1:
            names = " and ".join(streaming)
            message = f"only one output can be streamed, but {names} would be; send Accept: application/json"
            raise InvalidRequest(message, code="several_streams")
        if self.stream and streaming:
            return "stream"
        if self.json:
            return "json"
        offered = "text/event-stream or application/json" if streaming else "application/json"
        raise NotAcceptable(f"the response can be {offered}, but Accept is {self.header}", param="Accept")


def _has_zero_quality(parameters: str) -> bool:
    quality = next((item.strip()[2:] for item in parameters.split(";") if item.strip().startswith("q=")), "1")
    return quality.replace(".", "").strip("0") == ""


class Score(Endpoint):
    """`POST /score`."""

    def __init__(self, service: FlowService, settings: Settings) -> None:
        super().__init__(service, settings)
        self._outputs = [name for name, output in service.flow.outputs.items() if not output.evaluation_only]
        self._streams = {name: always for name, always in service.streams.items() if name in self._outputs}

    async def handle(self, request: Request) -> Response:
        """Respond with JSON, or with a stream if `Accept` names one and an output streams."""
        try:
            return await self._score(request)
        except FlowpodError as error:
            return _error_response(error)

    async def _score(self, request: Request) -> Response:
        caller = read_caller(request)
        inputs = self._inputs(await read_bytes(request, self._settings.max_body_bytes), caller)
        accept = Accept.from_headers(request.headers.getlist("accept"))
        # Rejected before the run if only the flow matters, else once the run shows which outputs stream.
        always = [name for name, certain in self._streams.items() if certain]
        response_format = accept.choose(always if len(always) > 1 else list(self._streams)[:1])
        run = await self._service.start(
            replace(caller, inputs=inputs, protocol="score", streaming=response_format == "stream")
        )
        if response_format == "stream":
            outcome = await look_ahead(run, request, self._streams_are_known)
            if outcome.end is None or outcome.end.error is None:
                return await self._stream_or_json(run, request, outcome, accept)
        return await self._json_response(run, await fold(run, request))

    def _inputs(self, content: bytes, caller: RunRequest) -> dict[str, Any]:
        """Return the flow's inputs in the body; unknown keys are ignored.

        A body that is not JSON is the value of the only input of a flow. Raises InvalidRequest if the flow has several
        inputs, and for missing required inputs. A chat history without a default is required too, unless the caller
        names a session and so uses the stored history.
        """
        declared = self._service.flow.inputs
        if not declared:
            return {}
        try:
            body = as_object(orjson.loads(content))
        except orjson.JSONDecodeError:
            body = _text_as_input(content, list(declared))
        stored = None if caller.assigned else self._service.flow.chat_history
        missing = [
            name for name, one in declared.items() if name not in body and not one.has_default and name != stored
        ]
        if missing:
            raise InvalidRequest(f"Required input fields {missing} are missing", param=missing[0], code="missing_input")
        return {name: value for name, value in body.items() if name in declared}

    def _streams_are_known(self, outcome: Outcome) -> bool:
        return all(
            name in outcome.finished or (name in self._streams and name in outcome.begun) for name in self._outputs
        )

    async def _stream_or_json(self, run: Run, request: Request, outcome: Outcome, accept: Accept) -> Response:
        streaming = [name for name in self._outputs if name in self._streams and name in outcome.streamed]
        try:
            response_format = accept.choose(streaming)
        except FlowpodError:
            run.leave()
            raise
        if response_format == "json":
            return await self._json_response(run, await fold(run, request))
        others = {
            name: outcome.outputs[name] for name in self._outputs if name in outcome.outputs and name != streaming[0]
        }
        try:
            others = dict(await run.with_fetched_images(others))
        except BaseException:
            run.leave()
            raise
        return event_stream(run, ScoreStreamEncoder(streaming[0], others).encode, self._settings.heartbeat_s)

    async def _json_response(self, run: Run, outcome: Outcome) -> Response:
        error = outcome.terminated.error
        if error is None:
            outputs = {name: outcome.outputs[name] for name in self._outputs if name in outcome.outputs}
            return JsonResponse(await run.with_fetched_images(outputs))
        node = outcome.nodes.get(error.param or "")
        body = run_error(error, node.cause if node else "")
        return JsonResponse(body, 400 if body["error"]["code"] == "UserError" else RUN_FAILED)


def _text_as_input(content: bytes, names: list[str]) -> dict[str, Any]:
    if len(names) > 1:
        message = (
            f"the body is not JSON, and only a flow with a single input accepts text; this one has {', '.join(names)}"
        )
        raise InvalidRequest(message, code="invalid_json")
    try:
        return {names[0]: content.decode()}
    except UnicodeDecodeError:
        raise InvalidRequest("the body is neither JSON nor UTF-8 text", code="invalid_json") from None


class ScoreStreamEncoder:
    """Encodes a run as a stream: the outputs that do not stream in one frame, then the chunks of the one that does.

    `others` are the outputs that do not stream; they are known before the stream starts.
    """

    def __init__(self, output: str, others: Mapping[str, Any]) -> None:
        self._output = output
        self._others = others
        self._causes: dict[str, str] = {}

    def encode(self, event: Event) -> bytes:
        """Return the frame of an event, or b""."""
        match event:
            case RunStarted() if self._others:
                return _data_frame(self._others)
            case RunOutput() if event.chunk_lengths:
                return chunk_frames(event, self.encode)
            case RunOutput(output=self._output, has_delta=True) if event.delta or not event.reasoning:
                return _data_frame({self._output: event.delta})
            case NodeUpdated(status="Failed"):
                self._causes[event.node] = event.cause
                return b""
            case RunTerminated(error=error) if error is not None:
                return _data_frame(run_error(error, self._causes.get(error.param or "", "")))
            case _:
                return b""


def _data_frame(content: Mapping[str, Any]) -> bytes:
    return b"data: " + dumps(content) + b"\n\n"


def error_object(code: Literal["UserError", "SystemError"], message: str) -> dict[str, Any]:
    """Return promptflow's `{"error": {"code", "message"}}`."""
    return {"error": {"code": code, "message": message}}


def _error_response(error: FlowpodError) -> Response:
    code: Literal["UserError", "SystemError"] = "SystemError" if isinstance(error, Unavailable) else "UserError"
    return error_response(error, error_object(code, error.message))


def run_error(error: ErrorInfo, cause: str) -> dict[str, Any]:
    """Return the body for a failed run; `cause` is the exception of the node that failed, as `(Type) text`."""
    code: Literal["UserError", "SystemError"] = "UserError"
    if error.type == "internal_error" or error.code == "canceled":
        code = "SystemError"
    has_cause = error.type == "node_error" and cause
    return error_object(code, f"Execution failure in '{error.param}': {cause}" if has_cause else error.message)


async def health(request: Request) -> Response:  # noqa: ARG001
    """Respond to `GET /health` as long as the process can."""
    return JsonResponse({"status": "Healthy", "version": __version__})


async def version(request: Request) -> Response:  # noqa: ARG001
    """Respond to `GET /version`; `build_info` describes promptflow's own images, so it is empty here."""
    return JsonResponse({"status": "Healthy", "build_info": "", "version": __version__})


class Swagger:
    """`GET /swagger.json`."""

    def __init__(self, service: FlowService) -> None:
        self._document = swagger_document(service)

    async def handle(self, request: Request) -> Response:  # noqa: ARG002
        """Respond with the OpenAPI document of `/score`."""
        return JsonResponse(self._document)


class Feedback(Endpoint):
    """`POST /feedback`: records a user's feedback as a span in the trace of the request's `traceparent`."""

    async def handle(self, request: Request) -> Response:
        """Record the body as one attribute or, with `?flatten=true`, each key of the JSON object as its own."""
        try:
            user_id = read_user_id(request)
            content = await read_bytes(request, self._settings.max_body_bytes)
            flatten = request.query_params.get("flatten", "false").lower() == "true"
            attributes = _feedback_attributes(content, flatten)
        except FlowpodError as error:
            return _error_response(error)
        self._service.tracing.add_span(_FEEDBACK_SPAN, request.headers, attributes, user_id)
        return JsonResponse({"status": "Feedback received."})


def _feedback_attributes(content: bytes, flatten: bool) -> Mapping[str, str | bool | int | float]:
    try:
        feedback = orjson.loads(content) if flatten else None
    except orjson.JSONDecodeError:
        feedback = None
    if isinstance(feedback, dict):
        if len(feedback) > _MAX_FEEDBACK_KEYS:
            raise InvalidRequest(
                f"flatten: the body has {len(feedback)} keys; at most {_MAX_FEEDBACK_KEYS} are accepted"
            )
        if any(len(name) > _MAX_FEEDBACK_KEY_CHARS for name in feedback):
            raise InvalidRequest(f"flatten: a key has more than {_MAX_FEEDBACK_KEY_CHARS} characters")
        return {name: _attribute(value) for name, value in feedback.items()}
    return {_FEEDBACK: content.decode(errors="replace")}


def _attribute(value: Any) -> str | bool | int | float:
    # An integer beyond a signed 64 bits makes an exporter fail, and with it the whole batch.
    if isinstance(value, str | float) or (isinstance(value, int) and value <= _MAX_INTEGER):
        return value
    return dumps(value).decode()
