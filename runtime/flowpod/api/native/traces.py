"""`GET /traces` and `GET /traces/{id}`: the stored traces."""

from collections.abc import Callable
from typing import Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flowpod.api.http.endpoint import get
from flowpod.api.http.errors import JsonResponse
from flowpod.api.http.pagination import NUMBER, PageQuery, decode_cursor, encode_cursor, page
from flowpod.api.http.requests import read_query, selected_user, while_connected
from flowpod.errors import NotFound
from flowpod.jsonable import dumps
from flowpod.telemetry.trace_reader import TraceReader
from flowpod.telemetry.trace_store import Filters, Stopped, TraceStore
from flowpod.telemetry.tree import summary_as_json, trace_as_json

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
    """The endpoints of the local trace store. With `Chat-User-Id`, a request finds only the runs of that user."""

    def __init__(self, reader: TraceReader | None) -> None:
        self._reader = reader

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [get("/traces", self.list_runs), get("/traces/{id}", self.get_trace)]

    async def list_runs(self, request: Request) -> Response:
        """Answer a page of runs, newest first."""
        query = read_query(TracesQuery, request)
        position = decode_cursor(query.cursor, NUMBER)
        user = selected_user(request, query.user or None) or ""
        filters = Filters(query.session, user, query.status, query.min_duration, query.max_duration, query.text)
        before = None if position is None else int(position[0])

        def search(store: TraceStore, stopped: Stopped) -> bytes:
            found = store.newest(filters, query.limit + 1, before, stopped)
            runs = found[: query.limit]
            return dumps(page(list(map(summary_as_json, runs)), [runs[-1].id] if len(found) > len(runs) else None))

        return await self._respond(request, search)

    async def get_trace(self, request: Request) -> Response:
        """Answer a page of the runs of one trace, oldest first, with their spans as trees.

        A trace has one run, unless callers continued it in several requests.
        """
        query = read_query(PageQuery, request)
        name, user = request.path_params["id"], selected_user(request) or ""
        position = decode_cursor(query.cursor, NUMBER)
        after = 0 if position is None else int(position[0])

        def search(store: TraceStore, stopped: Stopped) -> bytes:
            found = store.find(name, user=user, after=after, limit=query.limit, stopped=stopped)
            if not found.runs:
                raise NotFound(f"no stored trace, run, request or session has the id {name!r}", code="trace_not_found")
            more = {} if found.next_after is None else {"next_cursor": encode_cursor([found.next_after])}
            return dumps(trace_as_json(found.runs) | more)

        return await self._respond(request, search)

    async def _respond(self, request: Request, search: Callable[[TraceStore, Stopped], bytes]) -> Response:
        """Answer with the JSON that a search returns, which encodes it in its thread."""
        if self._reader is None:
            text = (
                "traces are not stored here: they are exported, or the history is in MySQL and there may be several "
                "instances, or tracing is off (set FLOWPOD_TRACE_STORE=on to store them)"
            )
            raise NotFound(text, code="no_trace_store")
        content = await while_connected(request, self._reader.read(search))
        return Response(content, media_type=JsonResponse.media_type)
