"""OpenAI's chat completions, `POST /v1/chat/completions` and `GET /v1/models`, for flows that hold conversations."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from runtime.api.body import Caller, read_caller, read_model, read_object
from runtime.api.errors import RUN_FAILED, JsonResponse, error_body
from runtime.api.fold import Outcome, fold
from runtime.api.settings import ApiSettings
from runtime.api.sse import event_stream
from runtime.errors import InvalidRequest, NotFound
from runtime.jsonable import as_text, dumps
from runtime.run.events import Event, RunOutput, RunStarted, RunTerminated
from runtime.run.request import RunRequest
from runtime.run.service import FlowService

_FINISH_REASONS = ("stop", "length", "content_filter")
_DONE = b"data: [DONE]\n\n"


def _text_of(content: Any) -> Any:
    """Join the text parts of a message; other parts are passed over."""
    if content is None:
        return ""
    if not isinstance(content, list):
        return content
    parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
    return "\n".join(str(part.get("text") or "") for part in parts)


class Message(BaseModel):
    """A message of a conversation; its content as text."""

    model_config = ConfigDict(frozen=True)

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[str, BeforeValidator(_text_of)] = ""


class StreamOptions(BaseModel):
    """What a stream has besides the answer."""

    model_config = ConfigDict(frozen=True)

    include_usage: bool | None = None


class ChatBody(BaseModel):
    """The request's body. Any model name is taken; parameters of models are accepted and passed over."""

    model_config = ConfigDict(frozen=True)

    messages: tuple[Message, ...] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class ChatCompletions:
    """The endpoint."""

    def __init__(self, service: FlowService, settings: ApiSettings) -> None:
        self._service = service
        self._settings = settings

    async def answer(self, request: Request) -> Response:
        """Answer with a stream of chunks or with one completion."""
        chat_input = chat_input_of(self._service)
        caller = read_caller(request)
        body = read_model(ChatBody, await read_object(request, self._settings.max_body_bytes))
        streaming = bool(body.stream)
        run = await self._service.start(self._run_request(body, caller, chat_input, streaming))
        assert self._service.flow.chat_output is not None
        completion = Completion(
            model=self._service.model,
            output=self._service.flow.chat_output,
            id=f"chatcmpl-{run.id.replace('-', '')}",
            include_usage=body.stream_options is not None and body.stream_options.include_usage is True,
        )
        if streaming:
            return event_stream(run, completion.encode, self._settings.heartbeat_s)
        outcome = await fold(run, request)
        if outcome.terminated.error is not None:
            return JsonResponse(error_body(outcome.terminated.error), RUN_FAILED)
        return JsonResponse(completion.body(outcome))

    def _run_request(self, body: ChatBody, caller: Caller, chat_input: str, streaming: bool) -> RunRequest:
        flow = self._service.flow
        assert flow.chat_output is not None
        conversation = read_conversation(body.messages, chat_input, flow.chat_output)
        inputs: dict[str, Any] = {chat_input: conversation.question}
        # One question alone continues the stored session; a client that sends more brings the history itself.
        if flow.chat_history is not None and (conversation.user_turns > 1 or caller.assigned) and conversation.pairs:
            inputs[flow.chat_history] = conversation.pairs
        return RunRequest(
            inputs=inputs,
            session_id=caller.session_id,
            assigned=caller.assigned,
            keep_assigned=False,
            user_id=caller.user_id,
            streaming=streaming,
            instructions=conversation.instructions,
            request_id=caller.request_id,
            headers=caller.headers,
            protocol="openai",
        )


class Models:
    """`GET /v1/models`: the flow, under its service's name."""

    def __init__(self, service: FlowService) -> None:
        self._service = service
        self._created = int(time.time())

    async def answer(self, request: Request) -> Response:  # noqa: ARG002
        """List the models."""
        chat_input_of(self._service)
        names = dict.fromkeys((self._service.name, "default"))
        models = [{"id": name, "object": "model", "created": self._created, "owned_by": "flowpod"} for name in names]
        return JsonResponse({"object": "list", "data": models})


def chat_input_of(service: FlowService) -> str:
    """Return the name of the flow's chat input; raises NotFound when the flow holds no conversations."""
    flow = service.flow
    if not flow.is_chat or flow.chat_input is None:
        message = (
            "this flow holds no conversations: none of its inputs says is_chat_input: true, so there is no "
            "OpenAI-compatible API; use POST / or POST /run"
        )
        raise NotFound(message, code="not_a_chat_flow")
    return flow.chat_input


@dataclass(frozen=True, slots=True)
class Conversation:
    """A list of messages as a flow takes it."""

    question: str
    pairs: list[dict[str, dict[str, str]]]
    user_turns: int
    instructions: str


def read_conversation(messages: Sequence[Message], chat_input: str, chat_output: str) -> Conversation:
    """Return the last question, what came before it in promptflow's pairs, and the system messages.

    Messages of one side that follow each other are joined. Raises InvalidRequest when the last one is not the user's.
    """
    if messages[-1].role != "user":
        message = f"the last message must be the user's, not the {messages[-1].role}'s"
        raise InvalidRequest(message, param=f"messages.{len(messages) - 1}.role")
    turns: list[tuple[str, list[str]]] = []
    for item in messages:
        if item.role in ("user", "assistant"):
            if not turns or turns[-1][0] != item.role:
                turns.append((item.role, []))
            turns[-1][1].append(item.content)
    texts = [(role, "\n".join(contents)) for role, contents in turns]
    pairs = []
    asked = ""
    for role, text in texts[:-1]:
        if role == "assistant":
            pairs.append({"inputs": {chat_input: asked}, "outputs": {chat_output: text}})
            asked = ""
        else:
            asked = text
    instructions = "\n\n".join(item.content for item in messages if item.role in ("system", "developer"))
    return Conversation(texts[-1][1], pairs, sum(role == "user" for role, _ in texts), instructions)


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
