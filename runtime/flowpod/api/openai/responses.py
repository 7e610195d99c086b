"""OpenAI's Responses, `/v1/responses`: stored answers, continued by later ones, also made in the background."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flowpod.api.http.endpoint import delete, get, post
from flowpod.api.http.errors import RUN_FAILED, JsonResponse
from flowpod.api.http.outcome import read_to_end
from flowpod.api.http.requests import RequestModel, read_model, read_object, read_query, read_user_id
from flowpod.api.http.sse import EventStream, event_stream
from flowpod.api.native.background import RESPONSE, read_idempotency_key, request_content, run_reader_of
from flowpod.api.openai.client_headers import read_chat_caller, with_user
from flowpod.api.openai.messages import ChatEndpoint, ChatFields, Conversation, read_conversation
from flowpod.api.openai.responses_events import ResponseEvents, encode_frame
from flowpod.api.openai.responses_input import (
    ItemReference,
    ResponseBody,
    item_texts,
    require_no_conversation,
    resolve_references,
    response_id,
    response_not_found,
    run_id_of,
)
from flowpod.background.recording import AttachedRecording, BackgroundRecording
from flowpod.engine.events import Readable
from flowpod.engine.request import RunRequest
from flowpod.errors import BodyTooLarge, InvalidRequest, NotFound
from flowpod.ids import new_uuid
from flowpod.storage.runs.continuations import Continuation
from flowpod.storage.runs.records import RecordedRun

_MAX_NUMBER = 999_999_999
_PREVIOUS = "previous_response_id"


class ResponseQuery(RequestModel):
    """Query parameters of a response: whether to stream its events, and the number of the last one received."""

    stream: Literal["true", "false"] = "false"
    starting_after: int = Field(-1, ge=0, le=_MAX_NUMBER)


@dataclass(frozen=True, slots=True)
class _ResponseRequest:
    """A request for a response, read from its headers and its body, whose JSON is `content`."""

    content: dict[str, Any]
    body: ResponseBody
    fields: ChatFields
    caller: RunRequest
    conversation: Conversation

    @property
    def turns(self) -> list[dict[str, Any]]:
        """The turns that the client sends before its question; none for a flow without a history input."""
        return self.fields.history_turns(self.conversation) if self.fields.chat_history is not None else []

    @property
    def previous_run_id(self) -> str | None:
        """The run of the previous response; raises NotFound for an invalid id."""
        previous = self.body.previous_response_id
        return None if previous is None else run_id_of(previous, _PREVIOUS)

    def in_new_session(self) -> "_ResponseRequest":
        """Return the request in a session of its own."""
        return replace(self, caller=replace(self.caller, session_id=new_uuid(), assigned=True))

    def recorded_request(self) -> tuple[RunRequest, Continuation | None]:
        """Return the request of a stored response's run, and what it continues."""
        turns, previous = self.turns, self.previous_run_id
        if previous is not None:
            return self.in_new_session().run_request(), Continuation(previous, turns)
        if turns and self.caller.assigned:
            return self.run_request(), Continuation(None, turns)
        return self.run_request(turns), None

    def run_request(self, history: list[dict[str, Any]] | None = None, *, keep: bool = True) -> RunRequest:
        """Return the request of the run; without `keep` its turn is not stored."""
        body, fields = self.body, self.fields
        inputs = fields.inputs(self.conversation.prompt)
        if history and fields.chat_history is not None:
            inputs[fields.chat_history] = history
        further = fields.further_inputs(body.inputs or {}, "inputs", "the input")
        return replace(
            self.caller,
            inputs={**inputs, **further},
            protocol="responses",
            streaming=bool(body.stream or body.background),
            keep_assigned=keep,
            instructions="\n\n".join(text for text in (body.instructions, self.conversation.instructions) if text),
            overrides=body.overrides,
        )


class Responses(ChatEndpoint):
    """The endpoints. A request that names a user in `Chat-User-Id` sees only that user's responses."""

    def routes(self) -> list[Route]:
        """Return the routes."""
        one = "/v1/responses/{response_id}"
        return [
            post("/v1/responses", self.create_response),
            get(one, self.show_response),
            delete(one, self.delete_response),
            post(f"{one}/cancel", self.cancel_response),
        ]

    async def create_response(self, request: Request) -> Response:
        """Answer with a response, or with its events as they come."""
        parsed, key = await self._read_request(request), read_idempotency_key(request)
        body = parsed.body
        store = body.store is not False and self._service.run_queue is not None
        details = body.response_fields() | {
            "kind": RESPONSE,
            "created_at": int(time.time()),
            "model": self._service.model,
            "store": store,
        }
        if body.background:
            return await self._create_in_background(request, parsed, details, key)
        if store:
            run_request, continuation = parsed.recorded_request()
            run: Readable = await self._service.start(run_request, AttachedRecording(details, continuation))
        else:
            run = await self._service.start(await self._unstored_request(parsed))
        request.state.session_id = run.session_id
        events = ResponseEvents(run.id, parsed.fields.chat_output, details)
        if body.stream:
            return event_stream(run, events.encode, self._settings.heartbeat_s)
        await read_to_end(run, request, events.add_event)
        return JsonResponse(events.response, RUN_FAILED if events.response["error"] else 200)

    async def show_response(self, request: Request) -> Response:
        """Return a response, or stream its events after number `starting_after`."""
        query = read_query(ResponseQuery, request)
        run = await self._read_run(request)
        if query.stream == "true":
            return EventStream(self._frames(run, query.starting_after), self._settings.heartbeat_s)
        return JsonResponse(await self._response(run))

    async def delete_response(self, request: Request) -> Response:
        """Delete a response with its turn; the responses that continue it stay."""
        run = await self._read_run(request)
        await run_reader_of(self._service).delete_run(run.run_id, read_user_id(request))
        return JsonResponse({"id": response_id(run.run_id), "object": "response", "deleted": True})

    async def cancel_response(self, request: Request) -> Response:
        """Cancel a response, and return it as far as it got."""
        run = await self._read_run(request)
        await self._service.cancel_run(run.run_id, read_user_id(request))
        await run_reader_of(self._service).wait_for_end(run.run_id)
        return JsonResponse(await self._response(await self._read_run(request)))

    async def _read_request(self, request: Request) -> _ResponseRequest:
        fields = self._fields
        caller = read_chat_caller(request, keep_chats=self._settings.openwebui_sessions == "on")
        content = await read_object(request, self._settings.max_body_bytes)
        body = read_model(ResponseBody, content)
        caller = with_user(caller, body.user)
        require_no_conversation(body)
        messages = resolve_references(body.input, await self._referenced_texts(body, caller.user_id))
        return _ResponseRequest(content, body, fields, caller, read_conversation(messages, "input"))

    async def _create_in_background(
        self, request: Request, parsed: _ResponseRequest, details: dict[str, Any], key: str | None
    ) -> Response:
        if parsed.body.store is False:
            raise InvalidRequest("background needs a response that is stored: leave store out", param="store")
        run_request, continuation = parsed.recorded_request()
        compared = request_content(request, RESPONSE, parsed.content)
        run = await self._service.start(run_request, BackgroundRecording(details, continuation, key, compared))
        request.state.session_id = run.session_id
        if parsed.body.stream:
            return EventStream(self._frames(run, -1), self._settings.heartbeat_s)
        return JsonResponse(await self._response(run))

    async def _unstored_request(self, parsed: _ResponseRequest) -> RunRequest:
        turns, previous = parsed.turns, parsed.body.previous_response_id
        if previous is not None:
            if self._service.run_queue is None:
                raise response_not_found(previous, _PREVIOUS)
            caller, rules = parsed.caller, self._service.flow.history
            rounds = rules.rounds if caller.history_rounds is None else caller.history_rounds
            rounds = rounds if parsed.fields.chat_history is not None else 0
            reader, run_id = run_reader_of(self._service), run_id_of(previous, _PREVIOUS)
            turns = [*await reader.read_history(run_id, caller.user_id, rounds, rules.tokens), *turns]
        return parsed.in_new_session().run_request(turns, keep=False)

    async def _referenced_texts(self, body: ResponseBody, user_id: str | None) -> dict[str, str | None]:
        """Return the texts of the items that the input references, by their ids; None for reasoning items.

        Raises NotFound for an item that does not exist, BodyTooLarge when the texts have more characters than a body
        may have bytes. A text counts as often as it is referenced.
        """
        texts_of_runs: dict[str, dict[str, str | None]] = {}
        texts: dict[str, str | None] = {}
        left = self._settings.max_body_bytes
        for number, item in enumerate(body.input):
            if not isinstance(item, ItemReference):
                continue
            param = f"input.{number}.id"
            run_id = run_id_of(item.id, param)
            if run_id not in texts_of_runs:
                run = await self._find_run(item.id, param, user_id)
                texts_of_runs[run_id] = item_texts(await self._response(run))
            if item.id not in texts_of_runs[run_id]:
                raise response_not_found(item.id, param)
            text = texts[item.id] = texts_of_runs[run_id][item.id]
            left -= len(text or "")
            if left < 0:
                raise BodyTooLarge(
                    "the items that the input references are over the limit of a body (FLOWPOD_MAX_BODY_BYTES)"
                )
        return texts

    async def _read_run(self, request: Request) -> RecordedRun:
        return await self._find_run(str(request.path_params["response_id"]), "response_id", read_user_id(request))

    async def _find_run(self, item_id: str, param: str, user_id: str | None) -> RecordedRun:
        run_id = run_id_of(item_id, param)
        try:
            run = await run_reader_of(self._service).read_run(run_id, user_id)
        except NotFound as error:
            raise response_not_found(item_id, param) from error
        if run.facts["kind"] != RESPONSE:
            raise response_not_found(item_id, param)
        return run

    async def _response(self, run: RecordedRun) -> dict[str, Any]:
        events = self._events(run)
        for event in await run_reader_of(self._service).read_events(run.run_id):
            events.add_event(event)
        return events.response

    async def _frames(self, run: RecordedRun, after: int) -> AsyncGenerator[bytes, None]:
        events = self._events(run)
        async with aclosing(run_reader_of(self._service).follow(run.run_id)) as pages:
            async for page in pages:
                sent = [one for _, event in page for one in events.add_event(event) if one["sequence_number"] > after]
                if data := b"".join(map(encode_frame, sent)):
                    yield data

    def _events(self, run: RecordedRun) -> ResponseEvents:
        return ResponseEvents(run.run_id, self._fields.chat_output, run.facts)
