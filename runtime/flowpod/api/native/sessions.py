"""The stored conversations under `/chat`: sessions, turns and variables are listed, read, changed and deleted."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StringConstraints
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from flowpod.api.http.api_settings import ApiSettings
from flowpod.api.http.errors import JsonResponse
from flowpod.api.http.pagination import PageQuery, Query, page, position_of
from flowpod.api.http.requests import read_object, read_query, read_user_id
from flowpod.errors import InvalidRequest, NotFound
from flowpod.jsonable import dumps, timestamp
from flowpod.service import FlowService
from flowpod.storage.sessions.archive import Archive, Session, StoredTurn

User = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=255)]


def _in_utc(time: datetime) -> datetime:
    try:
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("the time is out of range") from error


class SessionsQuery(PageQuery):
    """The query of the list of sessions."""

    user: User | None = None


class TurnsQuery(PageQuery):
    """The query of a session's turns."""

    limit: int = Field(100, ge=1, le=100)


class FirstTurnsQuery(Query):
    """The query of a session: how many of its turns come with it."""

    limit: int = Field(100, ge=1, le=100)


class DeleteSessionsQuery(Query):
    """The query that says whose sessions are deleted."""

    user: User | None = None


class DeleteTurnsQuery(Query):
    """The query that says which turns are deleted; a time without a zone is UTC."""

    before: Annotated[datetime, AfterValidator(_in_utc)]
    user: User | None = None


class Chats:
    """The endpoints. A request that names a user in `Chat-User-Id` sees and changes that user's sessions only."""

    def __init__(self, service: FlowService, settings: ApiSettings) -> None:
        self._service = service
        self._settings = settings

    def routes(self) -> list[Route]:
        """Return the endpoints' paths."""
        session = "/chat/sessions/{session_id}"
        return [
            Route("/chat/sessions", self.list, methods=["GET"]),
            Route("/chat/sessions", self.delete_of_user, methods=["DELETE"]),
            Route(session, self.show, methods=["GET"]),
            Route(session, self.delete, methods=["DELETE"]),
            Route(f"{session}/turns", self.turns, methods=["GET"]),
            Route(f"{session}/export", self.export, methods=["GET"]),
            Route(f"{session}/variables", self.variables, methods=["GET"]),
            Route(f"{session}/variables", self.set_variables, methods=["PATCH"]),
            Route("/chat/turns", self.delete_turns, methods=["DELETE"]),
            Route("/chat/stats", self.stats, methods=["GET"]),
        ]

    async def list(self, request: Request) -> Response:
        """List sessions, the last used ones first."""
        query = read_query(SessionsQuery, request)
        found = await self._archive.list_sessions(
            _owner(request, query.user), _session_position(query.cursor), query.limit + 1
        )
        last = found[query.limit - 1] if len(found) > query.limit else None
        position = None if last is None else (timestamp(last.updated_at), last.session_id)
        return JsonResponse(page([_session(session) for session in found[: query.limit]], position))

    async def show(self, request: Request) -> Response:
        """Show a session with its variables and its first turns."""
        limit = read_query(FirstTurnsQuery, request).limit
        session = await self._session(request)
        variables = await self._variables(session.session_id)
        turns = await self._page_of_turns(session.session_id, 0, limit)
        return JsonResponse({**_session(session), "variables": variables, "turns": turns})

    async def turns(self, request: Request) -> Response:
        """List a session's turns, oldest first."""
        query = read_query(TurnsQuery, request)
        session = await self._session(request)
        after = position_of(query.cursor, int) or (0,)
        return JsonResponse(await self._page_of_turns(session.session_id, after[0], query.limit))

    async def export(self, request: Request) -> Response:
        """Send all turns of a session, a line of JSON each."""
        read_query(Query, request)
        session = await self._session(request)
        lines = _lines(self._archive.export_turns(session.session_id))
        name = {"Content-Disposition": f'attachment; filename="{session.session_id.replace(":", "_")}.jsonl"'}
        return StreamingResponse(lines, media_type="application/x-ndjson", headers=name)

    async def delete(self, request: Request) -> Response:
        """Delete a session."""
        read_query(Query, request)
        turns = await self._archive.delete_session(_owner(request), request.path_params["session_id"])
        return _deleted(1, turns)

    async def delete_of_user(self, request: Request) -> Response:
        """Delete all sessions of one user."""
        user = _owner(request, read_query(DeleteSessionsQuery, request).user)
        if user is None:
            raise InvalidRequest("name the user whose sessions are to be deleted: ?user=...", param="user")
        return _deleted(*await self._archive.delete_user_sessions(user))

    async def delete_turns(self, request: Request) -> Response:
        """Delete the turns that ended before a time, and the sessions that this leaves empty."""
        query = read_query(DeleteTurnsQuery, request)
        return _deleted(*await self._archive.delete_turns(_owner(request, query.user), query.before))

    async def variables(self, request: Request) -> Response:
        """Show a session's variables."""
        read_query(Query, request)
        session = await self._session(request)
        return JsonResponse(await self._variables(session.session_id))

    async def set_variables(self, request: Request) -> Response:
        """Set variables of a session; those that are not named keep their values."""
        read_query(Query, request)
        body = await read_object(request, self._settings.max_body_bytes)
        values = self._service.typed_variables(body)
        session_id = request.path_params["session_id"]
        await self._archive.set_variables(_owner(request), session_id, values)
        return JsonResponse(await self._variables(session_id))

    async def stats(self, request: Request) -> Response:
        """Say how much is stored."""
        read_query(Query, request)
        return JsonResponse(asdict(await self._archive.read_totals(_owner(request))))

    @property
    def _archive(self) -> Archive:
        history = self._service.history
        if history is None:
            why = "it holds no conversations" if not self._service.flow.is_chat else "FLOWPOD_HISTORY is off"
            raise NotFound(f"this flow keeps no chat history: {why}", code="no_history")
        return history.archive

    async def _session(self, request: Request) -> Session:
        return await self._archive.fetch_session(_owner(request), request.path_params["session_id"])

    async def _variables(self, session_id: str) -> Mapping[str, Any]:
        return self._service.session_variables(await self._archive.read_variables(session_id))

    async def _page_of_turns(self, session_id: str, after: int, limit: int) -> dict[str, Any]:
        found, more = await self._archive.list_turns(session_id, after, limit)
        return page([_turn(turn) for turn in found], (found[-1].turn,) if more else None)


def _owner(request: Request, named: str | None = None) -> str | None:
    """Return the user whose sessions the request is about; None when it names none."""
    user_id = read_user_id(request)
    if user_id is not None and named is not None and user_id != named:
        raise InvalidRequest("user and the header Chat-User-Id name two users", param="user")
    return named if user_id is None else user_id


def _session_position(cursor: str) -> tuple[datetime, str] | None:
    position = position_of(cursor, str, str)
    if position is None:
        return None
    try:
        return _in_utc(datetime.fromisoformat(position[0])), position[1]
    except ValueError as error:
        raise InvalidRequest("the cursor is none that a page has named", param="cursor") from error


async def _lines(turns: AsyncIterator[StoredTurn]) -> AsyncIterator[bytes]:
    async for turn in turns:
        yield dumps(_turn(turn)) + b"\n"


def _deleted(sessions: int, turns: int) -> JsonResponse:
    return JsonResponse({"deleted": {"sessions": sessions, "turns": turns}})


def _session(session: Session) -> dict[str, Any]:
    times = {"created_at": timestamp(session.created_at), "updated_at": timestamp(session.updated_at)}
    return asdict(session) | times


def _turn(turn: StoredTurn) -> dict[str, Any]:
    times = {"started_at": timestamp(turn.started_at), "finished_at": timestamp(turn.finished_at)}
    return asdict(turn) | times
