"""`GET /traces` and `GET /traces/{id}`: the stored traces."""

import asyncio
from collections.abc import Callable
from sqlite3 import Error
from typing import Literal, TypeVar

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flowpod.api.http.endpoint import get
from flowpod.api.http.errors import JsonResponse
from flowpod.api.http.pagination import NUMBER, PageQuery, decode_cursor, page
from flowpod.api.http.requests import read_query
from flowpod.errors import NotFound, Unavailable
from flowpod.telemetry.trace_store import Filters, TraceStore
from flowpod.telemetry.trace_store_processor import TraceStoreProcessor
from flowpod.telemetry.tree import summary_as_json, trace_as_json

T = TypeVar("T")

_FLUSH_MS = 1000
_MAX_S = 1e9
_MAX_TEXT = 1000  # characters: SQLite refuses patterns of more than 50,000 bytes


class TracesQuery(PageQuery):
    """The filters of a listing; durations in seconds."""

    session: str = Field("", description="Only runs of this session.")
    user: str = Field("", description="Only runs of this user.")
    status: Literal["", "Completed", "Failed", "Canceled"] = Field("", description="Only runs with this status.")
    min_duration: float | None = Field(
        None, ge=0, le=_MAX_S, description="Only runs that took at least this long, in seconds."
    )
    max_duration: float | None = Field(
        None, ge=0, le=_MAX_S, description="Only runs that took at most this long, in seconds."
    )
    text: str = Field("", max_length=_MAX_TEXT, description="Only runs with this text in their input, output or error.")


class Traces:
    """The endpoints of the local trace store."""

    def __init__(self, processor: TraceStoreProcessor | None) -> None:
        self._processor = processor

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [get("/traces", self.list_runs), get("/traces/{id}", self.get_trace)]

    async def list_runs(self, request: Request) -> Response:
        """Answer a page of runs, newest first."""
        query = read_query(TracesQuery, request)
        position = decode_cursor(query.cursor, NUMBER)
        filters = Filters(query.session, query.user, query.status, query.min_duration, query.max_duration, query.text)
        before = None if position is None else int(position[0])
        found = await self._read_store(lambda store: store.newest(filters, query.limit + 1, before))
        runs = found[: query.limit]
        return JsonResponse(page(list(map(summary_as_json, runs)), [runs[-1].id] if len(found) > len(runs) else None))

    async def get_trace(self, request: Request) -> Response:
        """Answer the runs of one trace with their spans as trees: one, unless the caller's own trace has several."""
        name = request.path_params["id"]
        found = await self._read_store(lambda store: store.find(name))
        if not found:
            raise NotFound(f"no stored trace, run, request or session has the id {name!r}", code="trace_not_found")
        return JsonResponse(trace_as_json(found))

    async def _read_store(self, read: Callable[[TraceStore], T]) -> T:
        """Call `read` in a thread, after the runs that have ended by now were stored."""
        processor = self._processor
        if processor is None:
            text = (
                "traces are not stored here: they are exported, or the history is in MySQL and there may be several "
                "instances, or tracing is off (set FLOWPOD_TRACE_STORE=on to store them)"
            )
            raise NotFound(text, code="no_trace_store")

        def work() -> T:
            processor.force_flush(_FLUSH_MS)
            return read(processor.store)

        try:
            return await asyncio.to_thread(work)
        except (Error, OSError) as error:
            raise Unavailable(f"the traces cannot be read: {error}", code="traces_unavailable") from error
