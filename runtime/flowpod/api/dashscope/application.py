"""DashScope's application call, `POST /api/v1/apps/{app_id}/completion`, for flows with a chat input.

The behaviour was verified against dashscope's Python package 2.0.2: `Application.call`, and `apps.completions` of the
newer client.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StrictBool, StrictInt
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.responses import Response

from flowpod.api.dashscope.application_encoder import ApplicationEncoder, StreamMode
from flowpod.api.dashscope.errors import status_of
from flowpod.api.dashscope.messages import (
    DashScopeMessage,
    HistoryTurn,
    conversation_inputs,
    history_messages,
    wants_stream,
    with_images,
)
from flowpod.api.http.encoder import respond
from flowpod.api.http.requests import (
    Limited,
    Number,
    RequestModel,
    is_session_id,
    read_caller,
    read_model,
    read_object,
)
from flowpod.api.openai.messages import (
    ChatEndpoint,
    ChatFields,
    Conversation,
    Message,
    model_overrides,
    read_conversation,
)
from flowpod.engine.request import RunRequest
from flowpod.errors import InvalidRequest, NotFound, Unavailable
from flowpod.ids import new_uuid
from flowpod.jsonable import MAX_DEPTH, is_too_deep
from flowpod.nodes import KINDS
from flowpod.service import FlowService
from flowpod.settings import Settings

_FILES = ("File", "file")
_MAX_VALUES = 200
_USED_AT = "dashscope.used_at"
"""The session mark with the time of its last DashScope request; other protocols do not extend a DashScope session."""


def _check_depth(value: Any) -> Any:
    if is_too_deep(value):
        raise PydanticCustomError("depth", f"Expected at most {MAX_DEPTH} levels of lists and objects")
    return value


def _check_count(value: dict[str, Any]) -> dict[str, Any]:
    # Every text of the run is searched for each of these values, to redact it.
    if _count(value) > _MAX_VALUES:
        raise PydanticCustomError("count", f"Expected at most {_MAX_VALUES} texts and numbers for plugins")
    return value


def _count(value: Any) -> int:
    if isinstance(value, dict | list):
        return sum(map(_count, value.values() if isinstance(value, dict) else value))
    return 1


Url = Annotated[str, Field(min_length=1)]
ByPlugin = Annotated[dict[str, dict[str, Any]], AfterValidator(_check_depth), AfterValidator(_check_count)]


class BizParams(RequestModel, extra="allow"):
    """The caller's own values: inputs of the flow by name, and values for plugins by plugin code."""

    user_defined_params: ByPlugin | None = Field(None, repr=False)
    user_defined_tokens: ByPlugin | None = Field(None, repr=False)

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The values that are inputs of the flow."""
        return self.model_extra or {}


class CallInput(RequestModel):
    """The `input` of a call. Keys that are not listed here are ignored, as everywhere in the body."""

    prompt: str | None = None
    messages: Annotated[tuple[DashScopeMessage, ...] | None, Limited] = None
    history: Annotated[tuple[HistoryTurn, ...] | None, Limited] = None
    session_id: str | None = None
    biz_params: BizParams | None = None
    image_list: Annotated[tuple[Url, ...] | None, Limited] = None
    file_list: Annotated[tuple[Url, ...] | None, Limited] = None

    @property
    def sends_history(self) -> bool:
        """Whether the client keeps the history itself, so that the stored one is not used."""
        return bool(self.messages or self.history)

    def conversation(self) -> Conversation:
        """Return the prompt and the history; raises InvalidRequest, which names the key, if there is no prompt."""
        if not (self.prompt or self.messages or self.image_list):
            raise InvalidRequest("input.prompt: a prompt or messages are required", param="input.prompt")
        messages = [*(self.messages or history_messages(self.history or ()))]
        if self.prompt or not messages:
            messages.append(Message.model_validate({"role": "user", "content": self.prompt or ""}))
        conversation = with_images(read_conversation(messages, "input.messages"), self.image_list or ())
        if not any(conversation.prompt):
            param = f"input.messages.{len(messages) - 1}.content"
            raise InvalidRequest(f"{param}: it has neither a text nor an image", param=param)
        return conversation


class CallParameters(RequestModel):
    """The `parameters` of a call."""

    incremental_output: StrictBool | None = None
    has_thoughts: StrictBool | None = None
    flow_stream_mode: StreamMode | None = None
    rag_options: Annotated[dict[str, Any], AfterValidator(_check_depth)] | None = None
    temperature: Number | None = None
    top_p: Number | None = None
    max_tokens: StrictInt | None = None
    seed: StrictInt | None = None

    @property
    def overrides(self) -> dict[str, Any]:
        """The parameters for the flow's models."""
        return model_overrides(self.max_tokens, temperature=self.temperature, top_p=self.top_p, seed=self.seed)


class ApplicationBody(RequestModel):
    """The request body."""

    input: CallInput
    parameters: CallParameters | None = None


class Application(ChatEndpoint):
    """`POST /api/v1/apps/{app_id}/completion`."""

    def __init__(self, service: FlowService, settings: Settings) -> None:
        super().__init__(service, settings)
        self._files = [name for name, declared in service.flow.inputs.items() if declared.type in _FILES]
        self._node_types = {name: KINDS[node.type].dashscope_type for name, node in service.flow.nodes.items()}

    async def handle(self, request: Request) -> Response:
        """Respond with a stream of frames or with one object."""
        app_id = request.path_params["app_id"]
        if self._settings.dashscope_app_ids and app_id not in self._settings.dashscope_app_ids:
            raise NotFound(f"there is no application {app_id!r} here (FLOWPOD_DASHSCOPE_APP_IDS)", param="app_id")
        fields = self._fields
        caller = read_caller(request)
        body = read_model(ApplicationBody, await read_object(request, self._settings.max_body_bytes))
        parameters = body.parameters or CallParameters()
        streaming = wants_stream(request)
        caller = await self._in_session(caller, body.input.session_id)
        request.state.session_id = caller.session_id
        run = await self._service.start(self._application_request(fields, body.input, parameters, caller, streaming))
        encoder = ApplicationEncoder(
            output=fields.chat_output,
            session_id=caller.session_id,
            request_id=request.state.request_id,
            node_types=self._node_types,
            default_model=self._service.model,
            mode=parameters.flow_stream_mode or "full_thoughts",
            has_thoughts=bool(parameters.has_thoughts),
            incremental=bool(parameters.incremental_output),
            # The newer client declares a string, and rejects the boolean that DashScope itself sends.
            flags_as_text=request.headers.get("x-dashscope-sdk-client", "").endswith("/app2"),
        )
        heartbeat_s = self._settings.heartbeat_s
        return await respond(
            run, request, encoder, streaming=streaming, heartbeat_s=heartbeat_s, failure_status=status_of
        )

    async def _in_session(self, caller: RunRequest, session_id: str | None) -> RunRequest:
        """Return the caller in the session of the body, else of the header; in a new one if that has expired.

        A session id that is not stored is accepted, as by all protocols: its first turn may not have been stored yet.
        """
        session_id = session_id or ("" if caller.assigned else caller.session_id)
        if not session_id:
            return replace(caller, session_id=new_uuid().replace("-", ""))
        if not is_session_id(session_id):
            message = "input.session_id: not a session id of this service"
            raise InvalidRequest(message, param="input.session_id", code="invalid_session_id")
        if await self._has_expired(session_id):
            return replace(caller, session_id=new_uuid().replace("-", ""), assigned=True)
        return replace(caller, session_id=session_id, assigned=False)

    async def _has_expired(self, session_id: str) -> bool:
        if self._service.history is None:
            return False
        try:
            used_at = (await self._service.history.archive.read_variables(session_id)).get(_USED_AT)
        except Unavailable:  # starting the run raises it again if the run needs the history
            return False
        lifetime = timedelta(seconds=self._settings.dashscope_session_s)
        return used_at is not None and datetime.now(UTC) - datetime.fromisoformat(used_at) > lifetime

    def _application_request(
        self, fields: ChatFields, call: CallInput, parameters: CallParameters, caller: RunRequest, streaming: bool
    ) -> RunRequest:
        conversation = call.conversation()
        biz = call.biz_params or BizParams()
        inputs = conversation_inputs(fields, conversation, sends_history=call.sends_history)
        inputs |= self._file_inputs(call.file_list or ())
        return replace(
            caller,
            inputs={**inputs, **fields.further_inputs(biz.inputs, "input.biz_params", "the prompt")},
            protocol="dashscope",
            streaming=streaming,
            instructions=conversation.instructions,
            overrides=parameters.overrides,
            given={
                "rag_options": parameters.rag_options,
                "plugin_params": biz.user_defined_params,
                "plugin_tokens": biz.user_defined_tokens,
            },
            marks={_USED_AT: datetime.now(UTC).isoformat()},
        )

    def _file_inputs(self, urls: Sequence[str]) -> dict[str, Any]:
        """Return an input of type File for each URL, in the file's order; raises InvalidRequest for too many URLs."""
        if len(urls) > len(self._files):
            param = f"input.file_list.{len(self._files)}"
            raise InvalidRequest(f"{param}: the flow has {len(self._files)} inputs of type File", param=param)
        return {name: {"source_uri": url} for name, url in zip(self._files, urls, strict=False)}
