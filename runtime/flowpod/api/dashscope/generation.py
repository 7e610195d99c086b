"""DashScope's model calls, answered by the flow: `Generation.call` and `MultiModalConversation.call`."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response

from flowpod.api.dashscope.application import CallInput, CallParameters
from flowpod.api.dashscope.errors import dashscope_error, status_of
from flowpod.api.dashscope.frames import CumulativeText, FrameWriter
from flowpod.api.dashscope.messages import conversation_inputs, wants_stream
from flowpod.api.http.encoder import respond
from flowpod.api.http.outcome import Outcome
from flowpod.api.http.requests import RequestModel, read_caller, read_model, read_object
from flowpod.api.openai.messages import ChatEndpoint, ChatFields
from flowpod.engine.events import Event, NodeUpdated, RunOutput, RunTerminated
from flowpod.engine.request import RunRequest
from flowpod.jsonable import as_text
from flowpod.service import FlowService
from flowpod.settings import Settings

GenerationType = Literal["text", "multimodal"]

GENERATION_PATHS: Mapping[GenerationType, str] = {
    "text": "/api/v1/services/aigc/text-generation/generation",
    "multimodal": "/api/v1/services/aigc/multimodal-generation/generation",
}
_FINISH_REASONS = ("stop", "length")
_COUNTS = ("prompt_tokens", "completion_tokens")
ModelUsage = Mapping[str, Mapping[str, int]]
"""The token counts of each model by its name."""


class GenerationParameters(CallParameters):
    """The `parameters` of a call: `result_format: message` returns a message; `inputs` are further inputs by name."""

    result_format: Literal["text", "message"] | None = None
    inputs: dict[str, Any] | None = None


class GenerationBody(RequestModel):
    """The request body. Any model name is accepted; keys that are not listed here are ignored."""

    input: CallInput
    parameters: GenerationParameters | None = None


class Generation(ChatEndpoint):
    """Text generation, or multimodal generation, in which the content of a message is a list of parts."""

    def __init__(self, service: FlowService, settings: Settings, generation_type: GenerationType) -> None:
        super().__init__(service, settings)
        self._type = generation_type

    async def handle(self, request: Request) -> Response:
        """Respond with a stream of frames or with one object."""
        fields = self._fields
        caller = read_caller(request)
        body = read_model(GenerationBody, await read_object(request, self._settings.max_body_bytes))
        parameters = body.parameters or GenerationParameters()
        streaming = wants_stream(request)
        run = await self._service.start(_generation_request(fields, body.input, parameters, caller, streaming))
        encoder = GenerationEncoder(
            fields.chat_output,
            request.state.request_id,
            form="parts" if self._type == "multimodal" else parameters.result_format or "text",
            incremental=bool(parameters.incremental_output),
        )
        heartbeat_s = self._settings.heartbeat_s
        return await respond(
            run, request, encoder, streaming=streaming, heartbeat_s=heartbeat_s, failure_status=status_of
        )


def _generation_request(
    fields: ChatFields, call: CallInput, parameters: GenerationParameters, caller: RunRequest, streaming: bool
) -> RunRequest:
    conversation = call.conversation()
    # A model has no memory: the client's own history is used, or that of a session which the header names.
    sends_history = caller.assigned or conversation.user_turns > 1
    inputs = conversation_inputs(fields, conversation, sends_history=sends_history)
    return replace(
        caller,
        inputs={**inputs, **fields.further_inputs(parameters.inputs or {}, "parameters.inputs", "the prompt")},
        protocol="dashscope",
        streaming=streaming,
        keep_assigned=False,
        instructions=conversation.instructions,
        overrides=parameters.overrides,
    )


@dataclass(slots=True)
class GenerationEncoder:
    """Encodes a run as the result of a model call.

    `output` is the flow's chat output. `form`: a text, a message with a text, or a message with a list of parts.
    Frames repeat the text so far, or with `incremental` have only new text.
    """

    output: str
    request_id: str
    form: Literal["text", "message", "parts"]
    incremental: bool
    _text: CumulativeText = field(default_factory=CumulativeText)
    _reasoning: CumulativeText = field(default_factory=CumulativeText)
    _models: ModelUsage = field(default_factory=dict)
    _frames: FrameWriter = field(init=False)

    def __post_init__(self) -> None:
        self._frames = FrameWriter(self.request_id)

    def encode(self, event: Event) -> bytes:
        """Return the frame of an event, or b""."""
        if isinstance(event, NodeUpdated):
            self._models = event.models or {}
        match event:
            case RunOutput() if event.chunk_lengths:
                return b"".join(map(self.encode, event.split_chunks()))
            case RunOutput(output=self.output, has_delta=True):
                return self._chunk_frame(as_text(event.delta), event.reasoning)
            case RunTerminated(error=error) if error is not None:
                return self._frames.error(error)
            case RunTerminated():
                text, reasoning = ("", "") if self.incremental else (self._text.send(), self._reasoning.send())
                return self._frames.result(
                    self._output(text, reasoning, _finish_reason(event)), _total_usage(event.models)
                )
            case _:
                return b""

    def body(self, outcome: Outcome) -> dict[str, Any]:
        """Return the result, or the error of a run that failed."""
        if outcome.terminated.error is not None:
            return dashscope_error(outcome.terminated.error, self.request_id)
        text, reasoning = as_text(outcome.outputs.get(self.output)), outcome.reasoning.get(self.output, "")
        return {
            "output": self._output(text, reasoning, _finish_reason(outcome.terminated)),
            "usage": _total_usage(outcome.terminated.models),
            "request_id": self.request_id,
        }

    def _chunk_frame(self, text: str, reasoning: str) -> bytes:
        if not (text or reasoning):
            return b""
        if not self.incremental:
            self._text.add_chunk(text)
            self._reasoning.add_chunk(reasoning)
            if not (self._text.is_due if text else self._reasoning.is_due):
                return b""
            text, reasoning = self._text.send(), self._reasoning.send()
        return self._frames.result(self._output(text, reasoning, "null"), _total_usage(self._models))

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


def _total_usage(models: ModelUsage) -> dict[str, int]:
    if not models:
        return {}
    prompt_tokens, completion_tokens = (sum(counts[name] for counts in models.values()) for name in _COUNTS)
    return {
        "total_tokens": prompt_tokens + completion_tokens,
        "output_tokens": completion_tokens,
        "input_tokens": prompt_tokens,
    }
