"""Recorded runs under `/runs`: their state and events, and their cancellation, on any instance."""

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flowpod.api.http.endpoint import Endpoint, get, post
from flowpod.api.http.errors import JsonResponse
from flowpod.api.http.outcome import Outcome
from flowpod.api.http.requests import read_user_id
from flowpod.api.http.sse import EventStream
from flowpod.api.native.background import ACCEPTED, run_reader_of
from flowpod.api.native.complete import Encoder, ResponseConfig
from flowpod.background.reader import run_not_found
from flowpod.engine.events import Event, RunOutput
from flowpod.errors import InvalidRequest
from flowpod.jsonable import timestamp
from flowpod.storage.runs.records import RecordedRun

_RUN_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
LAST_EVENT_ID = "Last-Event-ID"
_INVALID = "invalid_last_event_id"
_NUMBER_DIGITS = 9
_NO_MORE_EVENTS = 204
"""No Content: it tells a browser's EventSource not to reconnect."""


class Runs(Endpoint):
    """The endpoints. A request that names a user in `Chat-User-Id` reads and cancels only that user's runs."""

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            get("/runs/{run_id}", self.show_run),
            get("/runs/{run_id}/events", self.stream_events),
            post("/runs/{run_id}/cancel", self.cancel_run),
        ]

    async def show_run(self, request: Request) -> Response:
        """Return a run's state, with its result once it has ended."""
        run = await self._read_run(request)
        outcome = Outcome()
        for event in await run_reader_of(self._service).read_events(run.run_id):
            outcome.add_event(event)
        outcome.settle()
        if run.active and outcome.end is not None:  # it has ended in the meantime
            run = await self._read_run(request)
        status = run.status if outcome.end is None else outcome.end.status
        return JsonResponse(_state(run, status) | _encoder(run).run_state(run.run_id, status, outcome))

    async def stream_events(self, request: Request) -> Response:
        """Stream a run's events from the first one, or the one after `Last-Event-ID`, to the last."""
        after = _last_event_id(request)
        run = await self._read_run(request)
        if after > run.last_event:
            message = f"{LAST_EVENT_ID} is {after}, and the run's newest event is {run.last_event}"
            raise InvalidRequest(message, param=LAST_EVENT_ID, code=_INVALID)
        if after == run.last_event and not run.active:
            return Response(status_code=_NO_MORE_EVENTS)
        return EventStream(self._frames(run, after), self._settings.heartbeat_s)

    async def cancel_run(self, request: Request) -> Response:
        """Cancel a run, recorded or not."""
        run_id = _run_id(request)
        ended = await self._service.cancel_run(run_id, read_user_id(request))
        return JsonResponse({"run_id": run_id, "status": ended or "Canceling"}, 200 if ended else ACCEPTED)

    async def _read_run(self, request: Request) -> RecordedRun:
        return await run_reader_of(self._service).read_run(_run_id(request), read_user_id(request))

    async def _frames(self, run: RecordedRun, after: int) -> AsyncGenerator[bytes, None]:
        encode = _encoder(run).encode
        async with aclosing(run_reader_of(self._service).follow(run.run_id, after)) as pages:
            async for page in pages:
                # A stored event has one number, so the chunks that were merged into it make one frame.
                frames = [(number, encode(_as_one_chunk(event))) for number, event in page]
                if data := b"".join(b"id: %d\n%b" % (number, frame) for number, frame in frames if frame):
                    yield data


def _run_id(request: Request) -> str:
    run_id = str(request.path_params["run_id"])
    if not _RUN_ID.fullmatch(run_id):
        raise run_not_found(run_id)
    return run_id


def _as_one_chunk(event: Event) -> Event:
    return replace(event, chunk_lengths=()) if isinstance(event, RunOutput) else event


def _encoder(run: RecordedRun) -> Encoder:
    return Encoder(ResponseConfig.model_validate(run.facts.get("response_config", {})))


def _state(run: RecordedRun, status: str) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "status": status,
        "session_id": run.session_id,
        "user_id": run.user_id,
        "cancel_requested": run.cancel_requested,
        "created_at": timestamp(run.created_at),
        "started_at": _time(run.started_at),
        "finished_at": _time(run.finished_at),
        "last_event_id": run.last_event,
    }


def _time(time: datetime | None) -> str | None:
    return None if time is None else timestamp(time)


def _last_event_id(request: Request) -> int:
    given = request.headers.get(LAST_EVENT_ID, "0")
    if not (given.isascii() and given.isdecimal() and len(given) <= _NUMBER_DIGITS):
        message = f"{LAST_EVENT_ID} must be the id of an event, a number"
        raise InvalidRequest(message, param=LAST_EVENT_ID, code=_INVALID)
    return int(given)
