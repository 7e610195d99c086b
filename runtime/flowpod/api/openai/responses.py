"""OpenAI's Responses, `/v1/responses`: answers that are kept, replied to, and made in the background."""

import time
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flowpod.api.http.api_settings import ApiSettings
from flowpod.api.http.errors import RUN_FAILED, JsonResponse
from flowpod.api.http.outcome import read
from flowpod.api.http.requests import Caller, read_model, read_object, read_user_id
from flowpod.api.http.sse import event_stream, stream_of
from flowpod.api.native.background import RESPONSE, asked_by, read_key, run_queue_of, run_reader_of
from flowpod.api.openai.chat import no_chat_flow
from flowpod.api.openai.client_headers import read_chat_caller, with_user
from flowpod.api.openai.messages import ChatFields, Conversation, read_conversation
from flowpod.api.openai.responses_events import ResponseEvents, frame
from flowpod.api.openai.responses_input import (
    ItemReference,
    ResponseBody,
    check_conversation,
    item_texts,
    response_id,
    response_not_found,
    run_id_of,
    with_texts,
)
from flowpod.background.queue import Recording
from flowpod.engine.events import Readable
from flowpod.engine.request import RunRequest
from flowpod.errors import BodyTooLarge, InvalidRequest, NotFound
from flowpod.service import FlowService
from flowpod.storage.runs.continuations import Continuation
from flowpod.storage.runs.records import RecordedRun

_NUMBER_DIGITS = 9
_PREVIOUS = "previous_response_id"


class Responses:
    """The endpoints. A request that names a user in `Chat-User-Id` sees that user's responses only."""

    def __init__(self, service: FlowService, settings: ApiSettings) -> None:
        self._service = service
        self._settings = settings
        self._fields = ChatFields.of(service)

    def routes(self) -> list[Route]:
        """Return the endpoints' paths."""
        one = "/v1/responses/{response_id}"
        return [
            Route("/v1/responses", self.create, methods=["POST"]),
            Route(one, self.show, methods=["GET"]),
            Route(one, self.delete, methods=["DELETE"]),
            Route(f"{one}/cancel", self.cancel, methods=["POST"]),
        ]

    async def create(self, request: Request) -> Response:
        """Answer with a response, or with its events as they come."""
        fields = self._chat_fields
        caller = read_chat_caller(request, keep_chats=self._settings.openwebui_sessions)
        content = await read_object(request, self._settings.max_body_bytes)
        body = read_model(ResponseBody, content)
        caller = with_user(caller, body.user)
        check_conversation(body)
        texts = await self._texts(body, caller.user_id)
        conversation = read_conversation(with_texts(body.input, texts), "input")
        store = body.store is not False and self._service.background is not None
        facts = body.facts() | {
            "kind": RESPONSE,
            "created_at": int(time.time()),
            "model": self._service.model,
            "store": store,
        }
        if body.background:
            return await self._in_background(request, body, fields, caller, conversation, facts, content)
        if store:
            asked, reply = self._asked(body, fields, caller, conversation)
            run: Readable = await run_queue_of(self._service).attach(asked, Recording(facts, reply=reply))
        else:
            run = await self._service.start(await self._unstored(body, fields, caller, conversation))
        request.state.session_id = run.session_id
        events = ResponseEvents(run.id, fields.chat_output, facts)
        if body.stream:
            return event_stream(run, events.encode, self._settings.heartbeat_s)
        await read(run, request, events.add)
        return JsonResponse(events.response, RUN_FAILED if events.response["error"] else 200)

    async def show(self, request: Request) -> Response:
        """Show a response, or stream its events from behind `starting_after`."""
        query = request.query_params
        after = query.get("starting_after", "")
        if after and not (after.isascii() and after.isdecimal() and len(after) <= _NUMBER_DIGITS):
            raise InvalidRequest("starting_after must be an event's sequence number", param="starting_after")
        run = await self._read(request)
        if query.get("stream") in ("true", "1"):
            return stream_of(self._frames(run, int(after) if after else -1), self._settings.heartbeat_s)
        return JsonResponse(await self._response(run))

    async def delete(self, request: Request) -> Response:
        """Delete a response with its turn; replies to it stay."""
        run = await self._read(request)
        await run_reader_of(self._service).delete(run.run_id, read_user_id(request))
        return JsonResponse({"id": response_id(run.run_id), "object": "response", "deleted": True})

    async def cancel(self, request: Request) -> Response:
        """Cancel a response, and show what there is of it."""
        run = await self._read(request)
        await self._service.cancel(run.run_id, read_user_id(request))
        await run_reader_of(self._service).wait_for_end(run.run_id)
        return JsonResponse(await self._response(await self._read(request)))

    async def _in_background(
        self,
        request: Request,
        body: ResponseBody,
        fields: ChatFields,
        caller: Caller,
        conversation: Conversation,
        facts: dict[str, Any],
        content: dict[str, Any],
    ) -> Response:
        if body.store is False:
            raise InvalidRequest("background needs a response that is stored: leave store out", param="store")
        recorder = run_queue_of(self._service)
        asked, reply = self._asked(body, fields, caller, conversation)
        submission = Recording(facts, read_key(request), asked_by(request, RESPONSE, content), reply)
        run = await recorder.submit(replace(asked, streaming=True), submission)
        request.state.session_id = run.session_id
        if body.stream:
            return stream_of(self._frames(run, -1), self._settings.heartbeat_s)
        return JsonResponse(await self._response(run))

    def _asked(
        self, body: ResponseBody, fields: ChatFields, caller: Caller, conversation: Conversation
    ) -> tuple[RunRequest, Continuation | None]:
        """Return what is asked of the flow, and with what it goes on: its place among the stored turns."""
        earlier = fields.history_turns(conversation) if fields.chat_history is not None else []
        if body.previous_response_id is not None:
            reply = Continuation(run_id_of(body.previous_response_id, _PREVIOUS), earlier)
            caller = replace(caller, session_id=str(uuid.uuid4()), assigned=True)  # where it begins a session anew
            return self._request(body, fields, caller, conversation), reply
        if earlier and caller.assigned:
            return self._request(body, fields, caller, conversation), Continuation(None, earlier)
        return self._request(body, fields, caller, conversation, earlier), None

    async def _unstored(
        self, body: ResponseBody, fields: ChatFields, caller: Caller, conversation: Conversation
    ) -> RunRequest:
        """Return what is asked of the flow, with all that came before."""
        earlier = fields.history_turns(conversation) if fields.chat_history is not None else []
        if body.previous_response_id is not None:
            if self._service.background is None:
                raise response_not_found(body.previous_response_id, _PREVIOUS)
            run_id = run_id_of(body.previous_response_id, _PREVIOUS)
            rules = self._service.flow.history
            rounds = rules.rounds if caller.history_rounds is None else caller.history_rounds
            rounds = rounds if fields.chat_history is not None else 0
            past = await run_reader_of(self._service).past(run_id, caller.user_id, rounds, rules.tokens)
            earlier = [*past, *earlier]
        caller = replace(caller, session_id=str(uuid.uuid4()), assigned=True)
        return self._request(body, fields, caller, conversation, earlier, keep=False)

    def _request(
        self,
        body: ResponseBody,
        fields: ChatFields,
        caller: Caller,
        conversation: Conversation,
        history: list[Any] | None = None,
        *,
        keep: bool = True,
    ) -> RunRequest:
        inputs = fields.inputs(conversation.prompt)
        if history and fields.chat_history is not None:
            inputs[fields.chat_history] = history
        further = body.inputs or {}
        if fields.chat_input in further:
            param = f"inputs.{fields.chat_input}"
            raise InvalidRequest(f"{param}: the flow's chat input is the input; leave it out here", param=param)
        told = "\n\n".join(text for text in (body.instructions, conversation.instructions) if text)
        return caller.request(
            {**inputs, **further},
            protocol="responses",
            streaming=bool(body.stream),
            keep_assigned=keep,
            instructions=told,
            overrides=body.overrides,
        )

    async def _texts(self, body: ResponseBody, user: str | None) -> dict[str, str | None]:
        """Return the texts of the items that the input names by their ids; a model's thoughts have None.

        Raises NotFound for an item that is not there, BodyTooLarge where the texts have more characters than a body may
        have bytes, each counted as often as it is named.
        """
        found: dict[str, dict[str, str | None]] = {}
        texts: dict[str, str | None] = {}
        left = self._settings.max_body_bytes
        for number, item in enumerate(body.input):
            if not isinstance(item, ItemReference):
                continue
            param = f"input.{number}.id"
            run_id = run_id_of(item.id, param)
            if run_id not in found:
                run = await self._record(item.id, param, user)
                found[run_id] = item_texts(await self._response(run))
            if item.id not in found[run_id]:
                raise response_not_found(item.id, param)
            text = texts[item.id] = found[run_id][item.id]
            left -= len(text or "")
            if left < 0:
                raise BodyTooLarge(
                    "the items that the input names are over the limit of a body (FLOWPOD_MAX_BODY_BYTES)"
                )
        return texts

    async def _read(self, request: Request) -> RecordedRun:
        return await self._record(str(request.path_params["response_id"]), "response_id", read_user_id(request))

    async def _record(self, given: str, param: str, user: str | None) -> RecordedRun:
        """Return the run behind a response, or behind one of its items."""
        run_id = run_id_of(given, param)
        try:
            run = await run_reader_of(self._service).read(run_id, user)
        except NotFound as error:
            raise response_not_found(given, param) from error
        if run.facts["kind"] != RESPONSE:
            raise response_not_found(given, param)
        return run

    async def _response(self, run: RecordedRun) -> dict[str, Any]:
        events = self._events(run)
        for event in await run_reader_of(self._service).events(run.run_id):
            events.add(event)
        return events.response

    async def _frames(self, run: RecordedRun, after: int) -> AsyncIterator[bytes]:
        events = self._events(run)
        async with aclosing(run_reader_of(self._service).follow(run.run_id)) as pages:
            async for page in pages:
                sent = [one for _, event in page for one in events.add(event) if one["sequence_number"] > after]
                if data := b"".join(map(frame, sent)):
                    yield data

    def _events(self, run: RecordedRun) -> ResponseEvents:
        return ResponseEvents(run.run_id, self._chat_fields.chat_output, run.facts)

    @property
    def _chat_fields(self) -> ChatFields:
        if self._fields is None:
            raise no_chat_flow()
        return self._fields
