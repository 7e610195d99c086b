"""Stored sessions under `/chat`: list, read, change and delete sessions, turns and session variables."""

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from flowpod.api.http.endpoint import Endpoint, delete, get
from flowpod.api.http.errors import JsonResponse
from flowpod.api.http.pagination import NUMBER, PageQuery, Query, decode_cursor, page
from flowpod.api.http.requests import read_object, read_query, selected_user
from flowpod.engine.variables import session_values, typed_values
from flowpod.errors import InvalidRequest, NotFound
from flowpod.jsonable import dumps, timestamp
from flowpod.storage.sessions.archive import Archive, Session, StoredTurn

_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)
_SESSION_CURSOR = re.compile(r"([0-9]{1,17})-([A-Za-z0-9_:-]{32,255})")  # 17 digits: before the year 10000
UserId = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=255)]


def _in_utc(time: datetime) -> datetime:
    try:
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("the time is out of range") from error


def _no_number(text: str) -> str:
    # pydantic reads a number as seconds or, from some size on, as milliseconds.
    try:
        float(text)
    except ValueError:
        return text
    raise PydanticCustomError("time", "Expected a date and a time, such as 2026-01-31T12:00:00Z")


class SessionsQuery(PageQuery):
    """Query parameters of the list of sessions."""

    user: UserId | None = None


class TurnsQuery(PageQuery):
    """Query parameters of the list of a session's turns."""

    limit: int = Field(100, ge=1, le=100)


class FirstTurnsQuery(Query):
    """Query parameters of a session: the maximum number of turns in the response."""

    limit: int = Field(100, ge=1, le=100)


class DeleteSessionsQuery(Query):
    """Query parameters that select the sessions to delete."""

    user: UserId | None = None


class DeleteTurnsQuery(Query):
    """Query parameters that select the turns to delete; a time without a zone is in UTC."""

    before: Annotated[datetime, BeforeValidator(_no_number), AfterValidator(_in_utc)]
    user: UserId | None = None


class Sessions(Endpoint):
    """The endpoints under `/chat`. With `Chat-User-Id`, a request can access only the sessions of that user."""

    def routes(self) -> list[Route]:
        """Return the routes of the endpoints."""
        session = "/chat/sessions/{session_id}"
        return [
            get("/chat/sessions", self.list_sessions),
            delete("/chat/sessions", self.delete_user_sessions),
            get(session, self.get_session),
            delete(session, self.delete_session),
            get(f"{session}/turns", self.list_turns),
            get(f"{session}/export", self.export_session),
            get(f"{session}/variables", self.get_variables),
            Route(f"{session}/variables", self.set_variables, methods=["PATCH"]),
            delete("/chat/turns", self.delete_turns),
            get("/chat/stats", self.get_stats),
        ]

    async def list_sessions(self, request: Request) -> Response:
        """List sessions, most recently used first."""
        query = read_query(SessionsQuery, request)
        user = selected_user(request, query.user)
        sessions = await self._archive.list_sessions(user, _session_position(query.cursor), query.limit + 1)
        last = sessions[query.limit - 1] if len(sessions) > query.limit else None
        position = None if last is None else ((last.updated_at - _EPOCH) // _MICROSECOND, last.session_id)
        return JsonResponse(page([_session_json(session) for session in sessions[: query.limit]], position))

    async def get_session(self, request: Request) -> Response:
        """Respond with a session, its variables and its first turns."""
        limit = read_query(FirstTurnsQuery, request).limit
        session = await self._session(request)
        variables = await self._variables(session.session_id)
        turns = await self._page_of_turns(session.session_id, 0, limit)
        return JsonResponse({**_session_json(session), "variables": variables, "turns": turns})

    async def list_turns(self, request: Request) -> Response:
        """List a session's turns, oldest first."""
        query = read_query(TurnsQuery, request)
        session = await self._session(request)
        (after,) = decode_cursor(query.cursor, NUMBER) or ("0",)
        return JsonResponse(await self._page_of_turns(session.session_id, int(after), query.limit))

    async def export_session(self, request: Request) -> Response:
        """Stream all turns of a session, one line of JSON each."""
        read_query(Query, request)
        session = await self._session(request)
        lines = _json_lines(self._archive.export_turns(session.session_id))
        headers = {"Content-Disposition": f'attachment; filename="{session.session_id.replace(":", "_")}.jsonl"'}
        return StreamingResponse(lines, media_type="application/x-ndjson", headers=headers)

    async def delete_session(self, request: Request) -> Response:
        """Delete a session."""
        read_query(Query, request)
        turns = await self._archive.delete_session(selected_user(request), request.path_params["session_id"])
        return _deletion_response(1, turns)

    async def delete_user_sessions(self, request: Request) -> Response:
        """Delete all sessions of one user."""
        user = selected_user(request, read_query(DeleteSessionsQuery, request).user)
        if user is None:
            raise InvalidRequest("name the user whose sessions to delete: ?user=...", param="user")
        return _deletion_response(*await self._archive.delete_user_sessions(user))

    async def delete_turns(self, request: Request) -> Response:
        """Delete the turns that ended before a time, and sessions that are empty afterwards."""
        query = read_query(DeleteTurnsQuery, request)
        return _deletion_response(*await self._archive.delete_turns(selected_user(request, query.user), query.before))

    async def get_variables(self, request: Request) -> Response:
        """Respond with a session's variables."""
        read_query(Query, request)
        session = await self._session(request)
        return JsonResponse(await self._variables(session.session_id))

    async def set_variables(self, request: Request) -> Response:
        """Set some of a session's variables; the others keep their values."""
        read_query(Query, request)
        body = await read_object(request, self._settings.max_body_bytes)
        values = typed_values(self._service.flow.variables, body)
        session_id = request.path_params["session_id"]
        await self._archive.set_variables(selected_user(request), session_id, values)
        return JsonResponse(await self._variables(session_id))

    async def get_stats(self, request: Request) -> Response:
        """Respond with the numbers of sessions and turns and the size of the database."""
        read_query(Query, request)
        return JsonResponse(asdict(await self._archive.read_totals(selected_user(request))))

    @property
    def _archive(self) -> Archive:
        history = self._service.history
        if history is None:
            reason = "it has no chat input" if not self._service.flow.is_chat else "FLOWPOD_HISTORY is off"
            raise NotFound(f"this flow keeps no chat history: {reason}", code="no_history")
        return history.archive

    async def _session(self, request: Request) -> Session:
        return await self._archive.fetch_session(selected_user(request), request.path_params["session_id"])

    async def _variables(self, session_id: str) -> Mapping[str, Any]:
        return session_values(self._service.flow.variables, await self._archive.read_variables(session_id))

    async def _page_of_turns(self, session_id: str, after: int, limit: int) -> dict[str, Any]:
        turns, has_more = await self._archive.list_turns(session_id, after, limit)
        return page([_turn_json(turn) for turn in turns], (turns[-1].turn,) if has_more else None)


def _session_position(cursor: str) -> tuple[datetime, str] | None:
    position = decode_cursor(cursor, _SESSION_CURSOR)
    return None if position is None else (_EPOCH + int(position[0]) * _MICROSECOND, position[1])


async def _json_lines(turns: AsyncIterator[StoredTurn]) -> AsyncIterator[bytes]:
    async for turn in turns:
        yield dumps(_turn_json(turn)) + b"\n"


def _deletion_response(sessions: int, turns: int) -> JsonResponse:
    return JsonResponse({"deleted": {"sessions": sessions, "turns": turns}})


def _session_json(session: Session) -> dict[str, Any]:
    times = {"created_at": timestamp(session.created_at), "updated_at": timestamp(session.updated_at)}
    return asdict(session) | times


def _turn_json(turn: StoredTurn) -> dict[str, Any]:
    times = {"started_at": timestamp(turn.started_at), "finished_at": timestamp(turn.finished_at)}
    return asdict(turn) | times
