"""OpenAI's chat completions, `POST /v1/chat/completions` and `GET /v1/models`, for flows that hold conversations."""

import time
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat
from starlette.requests import Request
from starlette.responses import Response

from flowpod.api.http.api_settings import ApiSettings
from flowpod.api.http.errors import RUN_FAILED, JsonResponse, error_body
from flowpod.api.http.outcome import Outcome, fold
from flowpod.api.http.requests import Caller, read_model, read_object
from flowpod.api.http.sse import event_stream
from flowpod.api.openai.client_headers import read_chat_caller, with_user
from flowpod.api.openai.messages import ChatRoles, Message, is_side_request, read_conversation
from flowpod.engine.events import Event, RunOutput, RunStarted, RunTerminated
from flowpod.engine.request import RunRequest
from flowpod.errors import InvalidRequest, NotFound
from flowpod.jsonable import as_text, dumps
from flowpod.service import FlowService

_FINISH_REASONS = ("stop", "length", "content_filter")
_DONE = b"data: [DONE]\n\n"


class StreamOptions(BaseModel):
    """What a stream has besides the answer."""

    model_config = ConfigDict(frozen=True)

    include_usage: bool | None = None


class ChatBody(BaseModel):
    """The request's body. Any model name is taken, and whatever is not here is accepted and passed over.

    `inputs` are further inputs of the flow by name, as `extra_body` of OpenAI's clients sends them.
    """

    model_config = ConfigDict(frozen=True)

    messages: tuple[Message, ...] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    inputs: dict[str, Any] | None = None
    user: Any = None
    temperature: FiniteFloat | None = None
    top_p: FiniteFloat | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    seed: int | None = None

    @property
    def overrides(self) -> dict[str, Any]:
        """The parameters for the flow's models; OpenAI's two names of one limit both have its value."""
        limit = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        given: dict[str, Any] = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": limit,
            "max_completion_tokens": limit,
            "seed": self.seed,
        }
        return {name: value for name, value in given.items() if value is not None}


class ChatCompletions:
    """The endpoint."""

    def __init__(self, service: FlowService, settings: ApiSettings) -> None:
        self._service = service
        self._settings = settings
        self._roles = ChatRoles.of(service)

    async def answer(self, request: Request) -> Response:
        """Answer with a stream of chunks or with one completion."""
        if self._roles is None:
            raise no_chat_flow()
        caller = read_chat_caller(request, keep_chats=self._settings.openwebui_sessions)
        body = read_model(ChatBody, await read_object(request, self._settings.max_body_bytes))
        caller = with_user(caller, body.user)
        streaming = bool(body.stream)
        run = await self._service.start(_run_request(self._roles, body, caller, streaming))
        completion = Completion(
            model=self._service.model,
            output=self._roles.answer,
            id=f"chatcmpl-{run.id.replace('-', '')}",
            include_usage=body.stream_options is not None and body.stream_options.include_usage is True,
        )
        if streaming:
            return event_stream(run, completion.encode, self._settings.heartbeat_s)
        outcome = await fold(run, request)
        if outcome.terminated.error is not None:
            return JsonResponse(error_body(outcome.terminated.error), RUN_FAILED)
        return JsonResponse(completion.body(outcome))


def _run_request(roles: ChatRoles, body: ChatBody, caller: Caller, streaming: bool) -> RunRequest:
    if is_side_request(body.messages):
        caller = replace(caller, assigned=True)  # it is no turn of the conversation, and does not go on with it
    conversation = read_conversation(body.messages)
    inputs = roles.inputs(conversation.question)
    # One question alone continues the stored session; a client that sends more brings the history itself.
    if roles.history is not None and (conversation.user_turns > 1 or caller.assigned) and conversation.earlier:
        inputs[roles.history] = roles.pairs(conversation)
    further = body.inputs or {}
    if roles.question in further:
        param = f"inputs.{roles.question}"
        raise InvalidRequest(f"{param}: the flow's chat input is the last message; leave it out here", param=param)
    return caller.request(
        {**inputs, **further},
        protocol="openai",
        streaming=streaming,
        keep_assigned=False,
        instructions=conversation.instructions,
        overrides=body.overrides,
    )


class Models:
    """`GET /v1/models`: the flow, under its service's name."""

    def __init__(self, service: FlowService) -> None:
        self._service = service
        self._created = int(time.time())

    async def answer(self, request: Request) -> Response:  # noqa: ARG002
        """List the models."""
        if not self._service.flow.is_chat:
            raise no_chat_flow()
        names = dict.fromkeys((self._service.name, "default"))
        models = [{"id": name, "object": "model", "created": self._created, "owned_by": "flowpod"} for name in names]
        return JsonResponse({"object": "list", "data": models})


def no_chat_flow() -> NotFound:
    """Return the error for a flow that holds no conversations."""
    message = (
        "this flow holds no conversations: none of its inputs says is_chat_input: true, so there is no "
        "OpenAI-compatible API; use POST / or POST /run"
    )
    return NotFound(message, code="not_a_chat_flow")


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer: its constant facts, and how events become chunks or a body."""

    model: str
    output: str
    id: str
    include_usage: bool
    created: int = field(default_factory=lambda: int(time.time()))

    def encode(self, event: Event) -> bytes:
        """Return the chunks of an event, or nothing."""
        match event:
            case RunStarted():
                return self._chunk({"role": "assistant", "content": ""})
            case RunOutput(output=self.output, has_delta=True):
                delta: dict[str, str] = {}
                if event.reasoning:
                    delta["reasoning_content"] = event.reasoning
                if text := as_text(event.delta):
                    delta["content"] = text
                return self._chunk(delta) if delta else b""
            case RunTerminated(error=error) if error is not None:
                return b"data: " + dumps(error_body(error)) + b"\n\n" + _DONE
            case RunTerminated():
                last = self._chunk({"content": ""}, _finish_reason(event))
                return last + (self._usage_chunk(event) if self.include_usage else b"") + _DONE
            case _:
                return b""

    def body(self, outcome: Outcome) -> dict[str, Any]:
        """Return the whole completion."""
        message = {"role": "assistant", "content": as_text(outcome.outputs.get(self.output))}
        if reasoning := outcome.reasoning.get(self.output):
            message["reasoning_content"] = reasoning
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": _finish_reason(outcome.terminated),
        }
        return {
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [choice],
            "usage": outcome.terminated.usage or None,
            "system_fingerprint": None,
        }

    def _chunk(self, delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        return self._frame(
            [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}],
            None,
        )

    def _usage_chunk(self, event: RunTerminated) -> bytes:
        zero = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        return self._frame([], zero | dict(event.usage))

    def _frame(self, choices: list[dict[str, Any]], usage: dict[str, int] | None) -> bytes:
        chunk = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": choices,
            "usage": usage,
            "system_fingerprint": None,
        }
        return b"data: " + dumps(chunk) + b"\n\n"


def _finish_reason(event: RunTerminated) -> str:
    return event.finish_reason if event.finish_reason in _FINISH_REASONS else "stop"
