"""Manages stored sessions for their owners: lists, reads, changes and deletes them."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Row, and_, delete, func, or_, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from flowpod.errors import NotFound
from flowpod.storage.availability import Availability
from flowpod.storage.database import Database, as_stored
from flowpod.storage.prepared import SQLAlchemyExecutor
from flowpod.storage.sessions.deletion import delete_sessions
from flowpod.storage.sessions.reader import Variables, count_fitting

_BATCH = 100
_PAGE_BYTES = 8 * 1024 * 1024

AnyRow = Row[*tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Session:
    """A stored session; `last_turn` is the number of its newest turn, failed or not."""

    session_id: str
    user_id: str | None
    title: str | None
    last_turn: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class StoredTurn:
    """A stored turn."""

    turn: int
    run_id: str
    status: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    error: Mapping[str, Any] | None
    otel_trace_id: str
    started_at: datetime
    finished_at: datetime


@dataclass(frozen=True, slots=True)
class Totals:
    """The number of sessions and turns, and their `bytes` on disk, as far as the database tells."""

    sessions: int
    turns: int
    bytes: int


class Archive:
    """The sessions of one service. `owner` limits a method to one user's sessions; None means all.

    Raises NotFound for a session that does not exist or is not the owner's, and Unavailable when the database is
    unavailable.
    """

    def __init__(self, database: Database, availability: Availability) -> None:
        self._database = database
        self._schema = database.schema
        self._availability = availability
        self._variables = Variables(database.schema)

    async def list_sessions(self, owner: str | None, after: tuple[datetime, str] | None, limit: int) -> list[Session]:
        """Return up to `limit` sessions, the last used first.

        `after` is the time of the last use and the id of the session that precedes the first one to return.
        """
        sessions = self._schema.sessions
        following: ColumnElement[bool] = true()
        if after is not None:
            time = as_stored(after[0])
            same_time = and_(sessions.c.updated_at == time, sessions.c.session_id < after[1])
            following = or_(sessions.c.updated_at < time, same_time)
        query = (
            select(*self._session_columns())
            .where(self._owned(owner), following)
            .order_by(sessions.c.updated_at.desc(), sessions.c.session_id.desc())
            .limit(limit)
        )
        return [_session(row) for row in await self._rows(query)]

    async def fetch_session(self, owner: str | None, session_id: str) -> Session:
        """Return a session."""
        rows = await self._rows(select(*self._session_columns()).where(self._matches(owner, session_id)))
        if not rows:
            raise _session_not_found(session_id)
        return _session(rows[0])

    async def list_turns(self, session_id: str, after: int, limit: int) -> tuple[list[StoredTurn], bool]:
        """Return turns of a session after number `after`, oldest first, and whether there are more.

        Returns up to `limit` turns, fewer when they are large: about 8 MiB, and at least one.
        """
        turns = self._schema.turns
        following = and_(turns.c.session_id == session_id, turns.c.turn > after)
        sizes = await self._rows(
            select(turns.c.turn, turns.c.size).where(following).order_by(turns.c.turn).limit(limit + 1)
        )
        if not sizes:
            return [], False
        count = max(1, count_fitting([size for _, size in sizes[:limit]], _PAGE_BYTES))
        columns = [column for column in turns.c if column.name not in ("id", "session_id", "size")]
        query = select(*columns).where(following, turns.c.turn <= sizes[count - 1][0]).order_by(turns.c.turn)
        return [_turn(row) for row in await self._rows(query)], len(sizes) > count

    async def export_turns(self, session_id: str) -> AsyncIterator[StoredTurn]:
        """Yield every turn of a session, oldest first, read a page at a time."""
        after, more = 0, True
        while more:
            page, more = await self.list_turns(session_id, after, _BATCH)
            for turn in page:
                yield turn
                after = turn.turn

    async def read_variables(self, session_id: str) -> dict[str, Any]:
        """Return those variables of a session that have been written."""
        with self._availability.required():
            return await self._database.read(lambda executor: self._variables.read(executor, session_id))

    async def set_variables(self, owner: str | None, session_id: str, values: Mapping[str, Any]) -> None:
        """Write variables of a session; those that are not in `values` stay as they are."""
        if not values:
            await self.fetch_session(owner, session_id)
            return
        sessions = self._schema.sessions
        # Updated first, because the session's row is the lock under which its variables are written.
        touch = update(sessions).where(self._matches(owner, session_id)).values(updated_at=as_stored(datetime.now(UTC)))

        async def write(connection: AsyncConnection) -> bool:
            if not (await connection.execute(touch)).rowcount:
                return False
            await self._variables.write(SQLAlchemyExecutor(connection), session_id, values)
            return True

        with self._availability.required():
            written = await self._database.transact(write)
        if not written:
            raise _session_not_found(session_id)

    async def delete_session(self, owner: str | None, session_id: str) -> int:
        """Delete a session with everything that belongs to it; return how many turns it had."""
        deleted = await self._delete(self._matches(owner, session_id), [session_id])
        if not deleted:
            raise _session_not_found(session_id)
        return deleted[session_id]

    async def delete_user_sessions(self, user_id: str) -> tuple[int, int]:
        """Delete all sessions of a user; return how many sessions and how many turns there were."""
        sessions = self._schema.sessions
        query = select(sessions.c.session_id).where(sessions.c.user_id == user_id).limit(_BATCH)
        counts: list[int] = []
        while ids := [row[0] for row in await self._rows(query)]:
            counts += (await self._delete(sessions.c.user_id == user_id, ids)).values()
        return len(counts), sum(counts)

    async def delete_turns(self, owner: str | None, before: datetime) -> tuple[int, int]:
        """Delete the turns that ended before a time, and unused sessions that have no turn left.

        Returns how many sessions and how many turns were deleted. It takes many small transactions, so that runs do
        not wait to store their turns.
        """
        sessions, turns = self._schema.sessions, self._schema.turns
        old = turns.c.finished_at < as_stored(before)
        query = select(turns.c.id).where(old)
        if owner is not None:
            query = query.join(sessions, sessions.c.session_id == turns.c.session_id).where(self._owned(owner))
        deleted = 0
        while ids := [row[0] for row in await self._rows(query.limit(_BATCH))]:
            with self._availability.required():
                deleted += await self._database.execute(delete(turns).where(turns.c.id.in_(ids)))
        left = select(turns.c.id).where(turns.c.session_id == sessions.c.session_id).exists()
        empty = and_(self._owned(owner), sessions.c.updated_at < as_stored(before), ~left)
        emptied = 0
        while ids := [row[0] for row in await self._rows(select(sessions.c.session_id).where(empty).limit(_BATCH))]:
            emptied += len(await self._delete(sessions.c.updated_at < as_stored(before), ids))
        return emptied, deleted

    async def read_totals(self, owner: str | None) -> Totals:
        """Return how many sessions and turns the owner has; the bytes are those of all owners."""
        sessions, turns = self._schema.sessions, self._schema.turns
        of_sessions = select(func.count()).select_from(sessions).where(self._owned(owner))
        of_turns = select(func.count()).select_from(turns)
        if owner is not None:
            of_turns = of_turns.join(sessions, sessions.c.session_id == turns.c.session_id).where(self._owned(owner))
        counts = [(await self._rows(query))[0][0] for query in (of_sessions, of_turns)]
        tables = [table.name for table in self._schema.metadata.sorted_tables]
        with self._availability.required():
            async with self._database.reading() as connection:
                size = await self._database.dialect.size_on_disk(connection, tables)
        return Totals(counts[0], counts[1], size)

    async def _rows(self, query: Any) -> Sequence[AnyRow]:
        with self._availability.required():
            return await self._database.fetch_rows(query)

    async def _delete(self, condition: ColumnElement[bool], ids: Sequence[str]) -> dict[str, int]:
        with self._availability.required():
            return await delete_sessions(self._database, ids, condition)

    def _session_columns(self) -> Sequence[ColumnElement[Any]]:
        columns = self._schema.sessions.c
        names = ("session_id", "user_id", "title", "last_turn", "created_at", "updated_at")
        return [columns[name] for name in names]

    def _owned(self, owner: str | None) -> ColumnElement[bool]:
        return true() if owner is None else self._schema.sessions.c.user_id == owner

    def _matches(self, owner: str | None, session_id: str) -> ColumnElement[bool]:
        return and_(self._owned(owner), self._schema.sessions.c.session_id == session_id)


def _session_not_found(session_id: str) -> NotFound:
    return NotFound(f"there is no session {session_id!r}", param="session_id", code="session_not_found")


def _session(row: AnyRow) -> Session:
    return Session(row[0], row[1], row[2], row[3], row[4].replace(tzinfo=UTC), row[5].replace(tzinfo=UTC))


def _turn(row: AnyRow) -> StoredTurn:
    return StoredTurn(
        turn=row.turn,
        run_id=row.run_id,
        status=row.status,
        inputs=orjson.loads(row.inputs),
        outputs=orjson.loads(row.outputs),
        error=None if row.error is None else orjson.loads(row.error),
        otel_trace_id=row.otel_trace_id,
        started_at=row.started_at.replace(tzinfo=UTC),
        finished_at=row.finished_at.replace(tzinfo=UTC),
    )
