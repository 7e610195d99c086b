"""OpenAI's chat completions, `POST /v1/chat/completions` and `GET /v1/models`, for flows with a chat input."""

import time
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import Field, StrictBool, StrictInt
from starlette.requests import Request
from starlette.responses import Response

from flowpod.api.http.encoder import chunk_frames, respond
from flowpod.api.http.errors import JsonResponse, error_body
from flowpod.api.http.outcome import Outcome
from flowpod.api.http.requests import Limited, Number, RequestModel, read_model, read_object
from flowpod.api.openai.client_headers import read_chat_caller, with_user
from flowpod.api.openai.messages import (
    ChatEndpoint,
    ChatFields,
    Message,
    is_side_request,
    model_overrides,
    read_conversation,
)
from flowpod.engine.events import Event, RunOutput, RunStarted, RunTerminated
from flowpod.engine.request import RunRequest
from flowpod.jsonable import as_text, dumps
from flowpod.service import FlowService

_FINISH_REASONS = ("stop", "length", "content_filter")
_DONE = b"data: [DONE]\n\n"


class StreamOptions(RequestModel):
    """Options of a stream."""

    include_usage: StrictBool | None = None


class ChatBody(RequestModel):
    """The request body. Any model name is accepted; keys that are not listed here are ignored.

    `inputs` are further inputs of the flow by name; OpenAI's clients send them in `extra_body`.
    """

    messages: Annotated[tuple[Message, ...], Limited] = Field(min_length=1)
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    inputs: dict[str, Any] | None = None
    user: Any = None
    temperature: Number | None = None
    top_p: Number | None = None
    max_tokens: StrictInt | None = None
    max_completion_tokens: StrictInt | None = None
    seed: StrictInt | None = None

    @property
    def overrides(self) -> dict[str, Any]:
        """The parameters for the flow's models; both of OpenAI's names for the token limit have the same value."""
        limit = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        return model_overrides(limit, temperature=self.temperature, top_p=self.top_p, seed=self.seed)


class ChatCompletions(ChatEndpoint):
    """`POST /v1/chat/completions`."""

    async def handle(self, request: Request) -> Response:
        """Respond with a stream of chunks or with one completion."""
        fields = self._fields
        caller = read_chat_caller(request, keep_chats=self._settings.openwebui_sessions == "on")
        body = read_model(ChatBody, await read_object(request, self._settings.max_body_bytes))
        caller = with_user(caller, body.user)
        streaming = bool(body.stream)
        run = await self._service.start(_chat_request(fields, body, caller, streaming))
        encoder = ChatEncoder(
            model=self._service.model,
            output=fields.chat_output,
            id=f"chatcmpl-{run.id.replace('-', '')}",
            include_usage=body.stream_options is not None and body.stream_options.include_usage is True,
        )
        return await respond(run, request, encoder, streaming=streaming, heartbeat_s=self._settings.heartbeat_s)


def _chat_request(fields: ChatFields, body: ChatBody, caller: RunRequest, streaming: bool) -> RunRequest:
    if is_side_request(body.messages):
        caller = replace(caller, assigned=True)  # a side request is not a turn of the chat and gets no stored history
    conversation = read_conversation(body.messages)
    inputs = fields.inputs(conversation.prompt)
    # A single prompt continues the stored session; a client that sends more messages keeps the history itself.
    sends_history = conversation.user_turns > 1 or caller.assigned
    if fields.chat_history is not None and sends_history and conversation.history:
        inputs[fields.chat_history] = fields.history_turns(conversation)
    further = fields.further_inputs(body.inputs or {}, "inputs", "the last message")
    return replace(
        caller,
        inputs={**inputs, **further},
        protocol="openai",
        streaming=streaming,
        keep_assigned=False,
        instructions=conversation.instructions,
        overrides=body.overrides,
    )


class ModelList:
    """`GET /v1/models`: the flow as a model, under the name of its service."""

    def __init__(self, service: FlowService) -> None:
        self._service = service
        self._created = int(time.time())

    async def handle(self, request: Request) -> Response:  # noqa: ARG002
        """Respond with the list of models."""
        ChatFields.from_flow(self._service.flow)  # raises NotFound for a flow without a chat input
        names = dict.fromkeys((self._service.name, "default"))
        models = [{"id": name, "object": "model", "created": self._created, "owned_by": "flowpod"} for name in names]
        return JsonResponse({"object": "list", "data": models})


@dataclass(frozen=True, slots=True)
class ChatEncoder:
    """Encodes a run as a chat completion; `output` is the flow's chat output."""

    model: str
    output: str
    id: str
    include_usage: bool
    created: int = field(default_factory=lambda: int(time.time()))

    def encode(self, event: Event) -> bytes:
        """Return the chunks of an event, or b""."""
        match event:
            case RunStarted():
                return self._chunk({"role": "assistant", "content": ""})
            case RunOutput() if event.chunk_lengths:
                return chunk_frames(event, self.encode)
            case RunOutput(output=self.output, has_delta=True):
                delta: dict[str, str] = {}
                if event.reasoning:
                    delta["reasoning_content"] = event.reasoning
                if text := as_text(event.delta):
                    delta["content"] = text
                return self._chunk(delta) if delta else b""
            case RunTerminated(error=error) if error is not None:
                return _data_line(error_body(error)) + _DONE
            case RunTerminated():
                last = self._chunk({"content": ""}, _finish_reason(event))
                return last + (self._usage_chunk(event) if self.include_usage else b"") + _DONE
            case _:
                return b""

    def body(self, outcome: Outcome) -> dict[str, Any]:
        """Return the completion, or the error of a run that failed."""
        if outcome.terminated.error is not None:
            return error_body(outcome.terminated.error)
        message = {"role": "assistant", "content": as_text(outcome.outputs.get(self.output))}
        if reasoning := outcome.reasoning.get(self.output):
            message["reasoning_content"] = reasoning
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish_reason(outcome.terminated)}
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
        return self._chunk_line([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}], None)

    def _usage_chunk(self, event: RunTerminated) -> bytes:
        zero = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        return self._chunk_line([], zero | dict(event.usage))

    def _chunk_line(self, choices: list[dict[str, Any]], usage: dict[str, int] | None) -> bytes:
        chunk = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": choices,
            "usage": usage,
            "system_fingerprint": None,
        }
        return _data_line(chunk)


def _finish_reason(event: RunTerminated) -> str:
    return event.finish_reason if event.finish_reason in _FINISH_REASONS else "stop"


def _data_line(content: dict[str, Any]) -> bytes:
    return b"data: " + dumps(content) + b"\n\n"
