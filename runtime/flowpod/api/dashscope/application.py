"""DashScope's call of an application, `POST /api/v1/apps/{app_id}/completion`, for flows that hold conversations.

What its clients make of the bytes was measured with dashscope's Python package 2.0.2: `Application.call`, and the newer
client's `apps.completions`.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.responses import Response

from flowpod.api.dashscope.answer import Answer, StreamMode
from flowpod.api.dashscope.messages import (
    DashScopeMessage,
    PastTurn,
    asked,
    inputs_of,
    said,
    wants_stream,
    with_images,
    without_question,
)
from flowpod.api.dashscope.reply import replied
from flowpod.api.http.api_settings import ApiSettings
from flowpod.api.http.requests import Caller, is_session_id, read_caller, read_model, read_object
from flowpod.api.openai.chat import no_chat_flow
from flowpod.api.openai.messages import ChatRoles, Conversation, read_conversation
from flowpod.engine.request import RunRequest
from flowpod.errors import InvalidRequest, NotFound, Unavailable
from flowpod.jsonable import MAX_DEPTH, is_too_deep
from flowpod.nodes import KINDS
from flowpod.service import FlowService

_FILES = ("File", "file")
_MOST_VALUES = 200
_USED_AT = "dashscope.used_at"
"""The mark on a session of its last request here: those by other protocols keep it alive elsewhere only."""


def _not_deep(value: Any) -> Any:
    if is_too_deep(value):
        text = f"Expected at most {MAX_DEPTH} lists and objects inside each other"
        raise PydanticCustomError("depth", text)
    return value


def _not_many(value: dict[str, Any]) -> dict[str, Any]:
    # Each is looked for in whatever the run says.
    if _count(value) > _MOST_VALUES:
        raise PydanticCustomError("count", f"Expected at most {_MOST_VALUES} texts and numbers for plugins")
    return value


def _count(value: Any) -> int:
    if isinstance(value, dict | list):
        return sum(map(_count, value.values() if isinstance(value, dict) else value))
    return 1


Url = Annotated[str, Field(min_length=1)]
ByPlugin = Annotated[dict[str, dict[str, Any]], AfterValidator(_not_deep), AfterValidator(_not_many)]


class BizParams(BaseModel):
    """The caller's own values: inputs of the flow by name, and what is meant for plugins, by their code."""

    model_config = ConfigDict(frozen=True, extra="allow")

    user_defined_params: ByPlugin | None = Field(None, repr=False)
    user_defined_tokens: ByPlugin | None = Field(None, repr=False)

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The values that are inputs of the flow."""
        return self.model_extra or {}


class Input(BaseModel):
    """What is asked. Keys that are not here are accepted and passed over, as everywhere in the body."""

    model_config = ConfigDict(frozen=True)

    prompt: str | None = None
    messages: tuple[DashScopeMessage, ...] | None = None
    history: tuple[PastTurn, ...] | None = None
    session_id: str | None = None
    biz_params: BizParams | None = None
    image_list: tuple[Url, ...] | None = None
    file_list: tuple[Url, ...] | None = None

    @property
    def brings_history(self) -> bool:
        """Whether the client keeps the conversation itself, so that none that is stored is added."""
        return bool(self.messages or self.history)

    def conversation(self) -> Conversation:
        """Return the question and what came before it; raises InvalidRequest, with the place, when nothing is asked."""
        if not (self.prompt or self.messages or self.image_list):
            raise InvalidRequest("input.prompt: a prompt or messages are required", param="input.prompt")
        messages = [*(self.messages or said(self.history or ()))]
        if self.prompt or not messages:
            messages.append(asked(self.prompt or ""))
        found = with_images(read_conversation(messages, "input.messages"), self.image_list or ())
        if not any(found.question):
            place = f"input.messages.{len(messages) - 1}.content"
            raise InvalidRequest(f"{place}: it has neither a text nor an image", param=place)
        return found


class Parameters(BaseModel):
    """How it is answered."""

    model_config = ConfigDict(frozen=True)

    incremental_output: bool | None = None
    has_thoughts: bool | None = None
    flow_stream_mode: StreamMode | None = None
    rag_options: Annotated[dict[str, Any], AfterValidator(_not_deep)] | None = None
    temperature: FiniteFloat | None = None
    top_p: FiniteFloat | None = None
    max_tokens: int | None = None
    seed: int | None = None

    @property
    def overrides(self) -> dict[str, Any]:
        """The parameters for the flow's models."""
        given = {name: getattr(self, name) for name in ("temperature", "top_p", "max_tokens", "seed")}
        given["max_completion_tokens"] = self.max_tokens  # the same limit by its newer name
        return {name: value for name, value in given.items() if value is not None}


class AppBody(BaseModel):
    """The request's body."""

    model_config = ConfigDict(frozen=True)

    input: Input
    parameters: Parameters | None = None


class Application:
    """The endpoint."""

    def __init__(self, service: FlowService, settings: ApiSettings) -> None:
        self._service = service
        self._settings = settings
        self._roles = ChatRoles.of(service)
        self._files = [name for name, declared in service.flow.inputs.items() if declared.type in _FILES]
        self._node_types = {name: KINDS[node.type].dashscope_type for name, node in service.flow.nodes.items()}

    async def answer(self, request: Request) -> Response:
        """Answer with a stream of frames or with one object."""
        app_id = request.path_params["app_id"]
        if self._settings.dashscope_app_ids and app_id not in self._settings.dashscope_app_ids:
            raise NotFound(f"there is no application {app_id!r} here (FLOWPOD_DASHSCOPE_APP_IDS)", param="app_id")
        if self._roles is None:
            raise no_chat_flow()
        caller = read_caller(request)
        body = read_model(AppBody, await read_object(request, self._settings.max_body_bytes))
        parameters = body.parameters or Parameters()
        streaming = wants_stream(request)
        caller = await self._in_session(caller, body.input.session_id)
        request.state.session_id = caller.session_id
        run = await self._service.start(self._run_request(self._roles, body.input, parameters, caller, streaming))
        answer = Answer(
            output=self._roles.answer,
            session_id=caller.session_id,
            request_id=request.state.request_id,
            node_types=self._node_types,
            default_model=self._service.model,
            mode=parameters.flow_stream_mode or "full_thoughts",
            has_thoughts=bool(parameters.has_thoughts),
            incremental=bool(parameters.incremental_output),
            # The newer client declares a text, and refuses the boolean that DashScope itself sends.
            flags_as_text=request.headers.get("x-dashscope-sdk-client", "").endswith("/app2"),
        )
        return await replied(run, request, answer, streaming=streaming, heartbeat_s=self._settings.heartbeat_s)

    async def _in_session(self, caller: Caller, given: str | None) -> Caller:
        """Return the caller in the session `given`, else in the header's, or in a new one if that has ended.

        One that is not stored begins, as everywhere: its first turn may not have been stored yet.
        """
        given = given or ("" if caller.assigned else caller.session_id)
        if not given:
            return replace(caller, session_id=uuid.uuid4().hex)
        if not is_session_id(given):
            message = "input.session_id: it is none that this service gave out"
            raise InvalidRequest(message, param="input.session_id", code="invalid_session_id")
        if await self._has_ended(given):
            return replace(caller, session_id=uuid.uuid4().hex, assigned=True)
        return replace(caller, session_id=given, assigned=False)

    async def _has_ended(self, session_id: str) -> bool:
        if self._service.history is None:
            return False
        try:
            used_at = (await self._service.history.archive.read_variables(session_id)).get(_USED_AT)
        except Unavailable:  # the run will tell whether it can do without the history
            return False
        lasts = timedelta(seconds=self._settings.dashscope_session_s)
        return used_at is not None and datetime.now(UTC) - datetime.fromisoformat(used_at) > lasts

    def _run_request(
        self, roles: ChatRoles, given: Input, parameters: Parameters, caller: Caller, streaming: bool
    ) -> RunRequest:
        conversation = given.conversation()
        biz = given.biz_params or BizParams()
        inputs = inputs_of(roles, conversation, brings_history=given.brings_history)
        inputs |= self._file_inputs(given.file_list or ())
        return replace(
            caller.request(
                {**inputs, **without_question(roles, biz.inputs, "input.biz_params")},
                protocol="dashscope",
                streaming=streaming,
                instructions=conversation.instructions,
                overrides=parameters.overrides,
            ),
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
            place = f"input.file_list.{len(self._files)}"
            raise InvalidRequest(f"{place}: the flow has {len(self._files)} inputs of type File", param=place)
        return {name: {"source_uri": url} for name, url in zip(self._files, urls, strict=False)}
