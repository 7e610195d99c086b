"""promptflow's serving: `POST /score`, `POST /feedback`, `GET /health`, `/version` and `/swagger.json`.

Behaviour is that of promptflow 1.18.5 (core/_serving): what a caller may accept, which outputs stream, the shape of
errors. Where promptflow answers 500 after a run, this answers 424: clients repeat a 500, and the flow has run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from starlette.requests import Request
from starlette.responses import Response

from flowpod import __version__
from flowpod.api.http.api_settings import ApiSettings
from flowpod.api.http.errors import RUN_FAILED, JsonResponse, error_response
from flowpod.api.http.outcome import Outcome, fold, look_ahead
from flowpod.api.http.requests import Caller, as_object, read_bytes, read_caller
from flowpod.api.http.sse import event_stream
from flowpod.api.promptflow.swagger import swagger_document
from flowpod.engine.events import Event, NodeUpdated, RunOutput, RunStarted, RunTerminated
from flowpod.engine.run import Run
from flowpod.errors import ErrorInfo, FlowpodError, InvalidRequest, NotAcceptable, Unavailable
from flowpod.jsonable import dumps
from flowpod.service import FlowService

_JSON_TYPES = frozenset({"application/json", "application/*", "*/*"})
_FEEDBACK = "feedback"
_FEEDBACK_SPAN = "promptflow-feedback"
_MAX_INTEGER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Accept:
    """What a caller takes. A stream must be named as such; a wildcard is JSON's."""

    json: bool
    stream: bool
    given: str = "*/*"

    @classmethod
    def of(cls, values: Sequence[str]) -> "Accept":
        """Read the `Accept` headers of a request; without one everything is taken."""
        ranges = [part for value in values for part in value.lower().split(",") if part.strip()]
        if not ranges:
            return cls(json=True, stream=False)
        types = {kind.strip() for kind, _, rest in (part.partition(";") for part in ranges) if not _is_zero(rest)}
        return cls(bool(types & _JSON_TYPES), "text/event-stream" in types, ",".join(ranges))

    def choose(self, streaming: Sequence[str]) -> Literal["json", "stream"]:
        """Return the form of an answer with these streaming outputs.

        Raises InvalidRequest for a stream of several, NotAcceptable when there is no form that the caller takes.
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
        raise NotAcceptable(f"the answer can be given as {offered}, but Accept is {self.given}", param="Accept")


def _is_zero(parameters: str) -> bool:
    quality = next((part.strip()[2:] for part in parameters.split(";") if part.strip().startswith("q=")), "1")
    return quality.replace(".", "").strip("0") == ""


class Score:
    """`POST /score`."""

    def __init__(self, service: FlowService, settings: ApiSettings) -> None:
        self._service = service
        self._settings = settings
        self._outputs = [name for name, output in service.flow.outputs.items() if not output.evaluation_only]
        self._streams = {name: always for name, always in service.streams.items() if name in self._outputs}

    async def answer(self, request: Request) -> Response:
        """Answer with JSON, or with a stream where `Accept` names it and an output streams."""
        try:
            return await self._answer(request)
        except FlowpodError as error:
            return _refusal(error)

    async def _answer(self, request: Request) -> Response:
        caller = read_caller(request)
        inputs = self._inputs(await read_bytes(request, self._settings.max_body_bytes), caller)
        accept = Accept.of(request.headers.getlist("accept"))
        # Refused before anything runs where the flow alone says so; where it depends on the run, once that is seen.
        always = [name for name, certain in self._streams.items() if certain]
        form = accept.choose(always if len(always) > 1 else list(self._streams)[:1])
        run = await self._service.start(caller.request(inputs, protocol="score", streaming=form == "stream"))
        if form == "stream":
            begun = await look_ahead(run, request, self._settled)
            if begun.end is None or begun.end.error is None:
                return await self._stream_or_json(run, request, begun, accept)
        return await self._json(run, await fold(run, request))

    def _inputs(self, content: bytes, caller: Caller) -> dict[str, Any]:
        """Return the flow's inputs; others are passed over.

        Text that is not JSON is the input of a flow with exactly one. Raises InvalidRequest for other text, and for
        required inputs that are missing. A chat history counts as one, save for a caller that names its session and so
        has the stored history.
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

    def _settled(self, outcome: Outcome) -> bool:
        """Whether every output has its value or, where it may stream, has begun to."""
        return all(
            name in outcome.finished or (name in self._streams and name in outcome.begun) for name in self._outputs
        )

    async def _stream_or_json(self, run: Run, request: Request, begun: Outcome, accept: Accept) -> Response:
        streaming = [name for name in self._outputs if name in self._streams and name in begun.streamed]
        try:
            form = accept.choose(streaming)
        except FlowpodError:
            run.leave()
            raise
        if form == "json":
            return await self._json(run, await fold(run, request))
        others = {name: begun.outputs[name] for name in self._outputs if name in begun.outputs and name != streaming[0]}
        try:
            others = dict(await run.with_fetched_images(others))
        except BaseException:
            run.leave()
            raise
        return event_stream(run, ScoreStream(streaming[0], others).encode, self._settings.heartbeat_s)

    async def _json(self, run: Run, outcome: Outcome) -> Response:
        error = outcome.terminated.error
        if error is None:
            outputs = {name: outcome.outputs[name] for name in self._outputs if name in outcome.outputs}
            return JsonResponse(await run.with_fetched_images(outputs))
        node = outcome.nodes.get(error.param or "")
        body = run_error(error, node.cause if node else "")
        return JsonResponse(body, 400 if body["error"]["code"] == "UserError" else RUN_FAILED)


def _text_as_input(content: bytes, names: list[str]) -> dict[str, Any]:
    if len(names) > 1:
        message = f"the body is not JSON, and only a flow with one input takes text; this one has {', '.join(names)}"
        raise InvalidRequest(message, code="invalid_json")
    try:
        return {names[0]: content.decode()}
    except UnicodeDecodeError:
        raise InvalidRequest("the body is neither JSON nor UTF-8 text", code="invalid_json") from None


class ScoreStream:
    """Encodes a streamed run: the outputs that do not stream in one frame, then the deltas of the one that does.

    `others` has the first: they are known before the first byte goes out.
    """

    def __init__(self, output: str, others: Mapping[str, Any]) -> None:
        self._output = output
        self._others = others
        self._causes: dict[str, str] = {}

    def encode(self, event: Event) -> bytes:
        """Return the frame of an event, or nothing."""
        match event:
            case RunStarted() if self._others:
                return _frame(self._others)
            case RunOutput(output=self._output, has_delta=True) if event.delta or not event.reasoning:
                return _frame({self._output: event.delta})
            case NodeUpdated(status="Failed"):
                self._causes[event.node] = event.cause
                return b""
            case RunTerminated(error=error) if error is not None:
                return _frame(run_error(error, self._causes.get(error.param or "", "")))
            case _:
                return b""


def _frame(content: Mapping[str, Any]) -> bytes:
    return b"data: " + dumps(content) + b"\n\n"


def error_object(code: Literal["UserError", "SystemError"], message: str) -> dict[str, Any]:
    """Return promptflow's `{"error": {"code", "message"}}`."""
    return {"error": {"code": code, "message": message}}


def _refusal(error: FlowpodError) -> Response:
    code: Literal["UserError", "SystemError"] = "SystemError" if isinstance(error, Unavailable) else "UserError"
    return error_response(error, error_object(code, error.message))


def run_error(error: ErrorInfo, cause: str) -> dict[str, Any]:
    """Return the body for a run that failed; `cause` is the exception of the node that failed, as `(Type) text`."""
    code: Literal["UserError", "SystemError"] = "UserError"
    if error.type == "internal_error" or error.code == "canceled":
        code = "SystemError"
    named = error.type == "node_error" and cause
    return error_object(code, f"Execution failure in '{error.param}': {cause}" if named else error.message)


async def health(request: Request) -> Response:  # noqa: ARG001
    """`GET /health`: the process answers."""
    return JsonResponse({"status": "Healthy", "version": __version__})


async def version(request: Request) -> Response:  # noqa: ARG001
    """`GET /version`; promptflow's images carry a `build_info` besides, which this has not."""
    return JsonResponse({"status": "Healthy", "build_info": "", "version": __version__})


class Swagger:
    """`GET /swagger.json`."""

    def __init__(self, service: FlowService) -> None:
        self._document = swagger_document(service)

    async def answer(self, request: Request) -> Response:  # noqa: ARG002
        """Answer with the description of `/score`."""
        return JsonResponse(self._document)


class Feedback:
    """`POST /feedback`: what a user thought of an answer, put on a span in the trace of the request's `traceparent`."""

    def __init__(self, service: FlowService, settings: ApiSettings) -> None:
        self._service = service
        self._settings = settings

    async def answer(self, request: Request) -> Response:
        """Take the body as one attribute or, with `?flatten=true`, each key of its object as one."""
        try:
            content = await read_bytes(request, self._settings.max_body_bytes)
        except FlowpodError as error:
            return _refusal(error)
        flatten = request.query_params.get("flatten", "false").lower() == "true"
        self._service.note(_FEEDBACK_SPAN, request.headers, _facts(content, flatten))
        return JsonResponse({"status": "Feedback received."})


def _facts(content: bytes, flatten: bool) -> Mapping[str, str | bool | int | float]:
    try:
        parts = orjson.loads(content) if flatten else None
    except orjson.JSONDecodeError:
        parts = None
    if isinstance(parts, dict):
        return {name: _attribute(value) for name, value in parts.items()}
    return {_FEEDBACK: content.decode(errors="replace")}


def _attribute(value: Any) -> str | bool | int | float:
    # An exporter fails on an integer beyond 64 bits with sign, and loses its whole batch.
    if isinstance(value, str | float) or (isinstance(value, int) and value <= _MAX_INTEGER):
        return value
    return dumps(value).decode()
