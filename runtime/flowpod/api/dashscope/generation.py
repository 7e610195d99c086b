"""DashScope's calls of models, for which the flow stands: `Generation.call` and `MultiModalConversation.call`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response

from flowpod.api.dashscope.application import Input, Parameters
from flowpod.api.dashscope.frames import Frames, Growing
from flowpod.api.dashscope.messages import inputs_of, wants_stream, without_question
from flowpod.api.dashscope.reply import replied
from flowpod.api.http.api_settings import ApiSettings
from flowpod.api.http.outcome import Outcome
from flowpod.api.http.requests import Caller, read_caller, read_model, read_object
from flowpod.api.openai.chat import no_chat_flow
from flowpod.api.openai.messages import ChatRoles
from flowpod.engine.events import Event, NodeUpdated, RunOutput, RunTerminated
from flowpod.engine.request import RunRequest
from flowpod.jsonable import as_text
from flowpod.service import FlowService

Kind = Literal["text", "multimodal"]

PATHS: Mapping[Kind, str] = {
    "text": "/api/v1/services/aigc/text-generation/generation",
    "multimodal": "/api/v1/services/aigc/multimodal-generation/generation",
}
_FINISH_REASONS = ("stop", "length")
_COUNTS = ("prompt_tokens", "completion_tokens")
Models = Mapping[str, Mapping[str, int]]
"""What each model has counted, by its name."""


class GenerationParameters(Parameters):
    """How it is answered: a text, or with `result_format: message` a message. `inputs` are further ones by name."""

    result_format: Literal["text", "message"] | None = None
    inputs: dict[str, Any] | None = None


class GenerationBody(BaseModel):
    """The request's body. Any model name is taken, and whatever is not here is accepted and passed over."""

    model_config = ConfigDict(frozen=True)

    input: Input
    parameters: GenerationParameters | None = None


class Generation:
    """The endpoint of text generation, or of multimodal generation, whose messages are lists of parts."""

    def __init__(self, service: FlowService, settings: ApiSettings, kind: Kind) -> None:
        self._service = service
        self._settings = settings
        self._roles = ChatRoles.of(service)
        self._kind = kind

    async def answer(self, request: Request) -> Response:
        """Answer with a stream of frames or with one object."""
        if self._roles is None:
            raise no_chat_flow()
        caller = read_caller(request)
        body = read_model(GenerationBody, await read_object(request, self._settings.max_body_bytes))
        parameters = body.parameters or GenerationParameters()
        streaming = wants_stream(request)
        run = await self._service.start(_run_request(self._roles, body.input, parameters, caller, streaming))
        reply = GenerationAnswer(
            self._roles.answer,
            request.state.request_id,
            form="parts" if self._kind == "multimodal" else parameters.result_format or "text",
            incremental=bool(parameters.incremental_output),
        )
        return await replied(run, request, reply, streaming=streaming, heartbeat_s=self._settings.heartbeat_s)


def _run_request(
    roles: ChatRoles, given: Input, parameters: GenerationParameters, caller: Caller, streaming: bool
) -> RunRequest:
    conversation = given.conversation()
    # A model remembers nothing: the client's own history counts, or that of a session which it names by the header.
    brings_history = caller.assigned or conversation.user_turns > 1
    inputs = inputs_of(roles, conversation, brings_history=brings_history)
    return caller.request(
        {**inputs, **without_question(roles, parameters.inputs or {}, "parameters.inputs")},
        protocol="dashscope",
        streaming=streaming,
        keep_assigned=False,
        instructions=conversation.instructions,
        overrides=parameters.overrides,
    )


@dataclass(slots=True)
class GenerationAnswer:
    """One answer: its constant facts, and how events become frames or a body.

    `output` is the flow's chat output. `form`: a text, a message with a text, or a message with a list of parts.
    """

    output: str
    request_id: str
    form: Literal["text", "message", "parts"]
    incremental: bool
    _text: Growing = field(default_factory=Growing)
    _reasoning: Growing = field(default_factory=Growing)
    _models: Models = field(default_factory=dict)
    _frames: Frames = field(init=False)

    def __post_init__(self) -> None:
        self._frames = Frames(self.request_id)

    def encode(self, event: Event) -> bytes:
        """Return the frame of an event, or nothing."""
        if isinstance(event, NodeUpdated):
            self._models = event.models or {}
        match event:
            case RunOutput(output=self.output, has_delta=True):
                return self._piece(as_text(event.delta), event.reasoning)
            case RunTerminated(error=error) if error is not None:
                return self._frames.error(error)
            case RunTerminated():
                text, reasoning = ("", "") if self.incremental else (self._text.whole(), self._reasoning.whole())
                return self._frames.result(self._output(text, reasoning, _finish_reason(event)), _usage(event.models))
            case _:
                return b""

    def body(self, outcome: Outcome) -> dict[str, Any]:
        """Return the whole answer."""
        text, reasoning = as_text(outcome.outputs.get(self.output)), outcome.reasoning.get(self.output, "")
        return {
            "output": self._output(text, reasoning, _finish_reason(outcome.terminated)),
            "usage": _usage(outcome.terminated.models),
            "request_id": self.request_id,
        }

    def _piece(self, text: str, reasoning: str) -> bytes:
        if not (text or reasoning):
            return b""
        if not self.incremental:
            self._text.add(text)
            self._reasoning.add(reasoning)
            if not (self._text.is_due if text else self._reasoning.is_due):
                return b""
            text, reasoning = self._text.whole(), self._reasoning.whole()
        return self._frames.result(self._output(text, reasoning, "null"), _usage(self._models))

    def _output(self, text: str, reasoning: str, finish_reason: str) -> dict[str, Any]:
        if self.form == "text":
            return {"text": text, "finish_reason": finish_reason}
        content = text if self.form == "message" else [{"text": text}]
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if reasoning:
            message["reasoning_content"] = reasoning
        return {"choices": [{"finish_reason": finish_reason, "message": message}]}


def _finish_reason(event: RunTerminated) -> str:
    return event.finish_reason if event.finish_reason in _FINISH_REASONS else "stop"


def _usage(models: Models) -> dict[str, int]:
    """Return the tokens of all models together, {} where none has counted."""
    if not models:
        return {}
    asked, answered = (sum(counts[name] for counts in models.values()) for name in _COUNTS)
    return {"total_tokens": asked + answered, "output_tokens": answered, "input_tokens": asked}
