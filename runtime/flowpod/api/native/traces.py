"""`GET /traces` and `GET /traces/{id}`: the traces that are kept here."""

import asyncio
from collections.abc import Callable
from sqlite3 import Error
from typing import Literal, TypeVar

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flowpod.api.http.errors import JsonResponse
from flowpod.api.http.pagination import PageQuery, decode_cursor, page
from flowpod.api.http.requests import read_query
from flowpod.errors import NotFound, Unavailable
from flowpod.telemetry.recorder import TraceRecorder
from flowpod.telemetry.store import Filters
from flowpod.telemetry.tree import summary_as_json, trace_as_json

T = TypeVar("T")

_FLUSH_MS = 1000
_LONGEST_S = 1e9
_LONGEST_TEXT = 1000  # characters: SQLite refuses patterns of more than 50,000 bytes


class TracesQuery(PageQuery):
    """Which runs are listed; durations in seconds."""

    session: str = Field("", description="Only runs of this session.")
    user: str = Field("", description="Only runs of this user.")
    status: Literal["", "Completed", "Failed", "Canceled"] = Field("", description="Only runs that ended so.")
    min_duration: float | None = Field(
        None, ge=0, le=_LONGEST_S, description="Only runs that took at least so long, in seconds."
    )
    max_duration: float | None = Field(
        None, ge=0, le=_LONGEST_S, description="Only runs that took at most so long, in seconds."
    )
    text: str = Field(
        "", max_length=_LONGEST_TEXT, description="Only runs with this text in their input, output or error."
    )


class Traces:
    """The endpoints of the local trace store."""

    def __init__(self, recorder: TraceRecorder | None) -> None:
        self._recorder = recorder

    def routes(self) -> list[Route]:
        """Return the endpoints' paths."""
        return [
            Route("/traces", self.listing, methods=["GET"]),
            Route("/traces/{id}", self.one, methods=["GET"]),
        ]

    async def listing(self, request: Request) -> Response:
        """Answer a page of runs, the newest first."""
        query = read_query(TracesQuery, request)
        position = decode_cursor(query.cursor, int)
        filters = Filters(query.session, query.user, query.status, query.min_duration, query.max_duration, query.text)
        before = None if position is None else position[0]
        found = await self._read(lambda recorder: recorder.store.newest(filters, query.limit + 1, before))
        shown = found[: query.limit]
        return JsonResponse(
            page(list(map(summary_as_json, shown)), [shown[-1].id] if len(found) > len(shown) else None)
        )

    async def one(self, request: Request) -> Response:
        """Answer the runs of one trace with their spans as trees: one, unless the caller's own trace has several."""
        name = request.path_params["id"]
        found = await self._read(lambda recorder: recorder.store.find(name))
        if not found:
            raise NotFound(f"there is no trace, run, request or session {name!r} here", code="trace_not_found")
        return JsonResponse(trace_as_json(found))

    async def _read(self, read: Callable[[TraceRecorder], T]) -> T:
        """Return what `read` finds, called in a thread; runs that have ended by now are among it."""
        recorder = self._recorder
        if recorder is None:
            text = (
                "no traces are kept here: they are exported, or the history is in MySQL and there may be several "
                "instances, or tracing is off (FLOWPOD_TRACE_STORE=on keeps them)"
            )
            raise NotFound(text, code="no_trace_store")

        def work() -> T:
            recorder.force_flush(_FLUSH_MS)
            return read(recorder)

        try:
            return await asyncio.to_thread(work)
        except (Error, OSError) as error:
            raise Unavailable(f"the traces cannot be read: {error}", code="traces_unavailable") from error
