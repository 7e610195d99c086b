"""What runs read and write of a conversation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson
from sqlalchemy import Insert, and_, case, false, func, insert, or_, select, true, update
from sqlalchemy.ext.asyncio import AsyncConnection

from runtime.errors import FlowpodError
from runtime.history.database import Database, as_stored
from runtime.history.schema import TITLE_LENGTH
from runtime.jsonable import dumps

_COMPLETED = "Completed"
_PAST_BYTES = 64 * 1024 * 1024  # what a run may be given of the past, however much the flow asks for
_MOST_BYTES = 4  # of a character, in UTF-8
_ESCAPED = "\\'\"\n\r\0\x1a"
_STATEMENT_BYTES = 4096  # the rest of the statement that stores a turn


@dataclass(frozen=True, slots=True)
class Turn:
    """One run of a session as it is stored. `assigned`: the service made the session's id up.

    `variables` are those of the session that the run wrote; `question` makes the title of a new session.
    """

    session_id: str
    user_id: str | None
    assigned: bool
    run_id: str
    status: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    error: Mapping[str, Any] | None
    otel_trace_id: str
    started_at: datetime
    finished_at: datetime
    variables: Mapping[str, Any] = field(default_factory=dict)
    question: str = ""


@dataclass(frozen=True, slots=True)
class Past:
    """What is stored of a session: whose it is, the number of its last turn, completed turns, and its variables.

    The turns are the newest ones, oldest first, each as `{"inputs": {...}, "outputs": {...}}`.
    """

    user_id: str | None = None
    last_turn: int = 0
    pairs: tuple[Mapping[str, Any], ...] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)


class NotStored(FlowpodError):
    """A turn that the database can never take."""

    code = "turn_not_stored"


class Store:
    """Reads and writes sessions. Every method is one transaction, or raises SQLAlchemy's errors."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._schema = database.schema

    async def past(self, session_id: str, rounds: int, budget: int = _PAST_BYTES) -> Past | None:
        """Return what is stored of a session, with the newest `rounds` turns that fit in `budget` bytes of JSON.

        Returns None when the session is not stored.
        """
        sessions, variables = self._schema.sessions, self._schema.variables
        session = select(sessions.c.user_id, sessions.c.last_turn).where(sessions.c.session_id == session_id)
        written = select(variables.c.name, variables.c.value).where(variables.c.session_id == session_id)
        async with self._database.reading() as connection:
            row = (await connection.execute(session)).one_or_none()
            if row is None:
                return None
            pairs = await self._pairs(connection, session_id, rounds, min(budget, _PAST_BYTES)) if rounds else ()
            values = {name: orjson.loads(value) for name, value in await connection.execute(written)}
        return Past(row[0], row[1], pairs, values)

    async def _pairs(
        self, connection: AsyncConnection, session_id: str, rounds: int, budget: int
    ) -> tuple[Mapping[str, Any], ...]:
        turns = self._schema.turns
        completed = and_(turns.c.session_id == session_id, turns.c.status == _COMPLETED)
        newest = select(turns.c.turn, turns.c.size).where(completed).order_by(turns.c.turn.desc()).limit(rounds)
        sizes = (await connection.execute(newest)).all()
        count = fitting([size for _, size in sizes], budget)
        if not count:
            return ()
        query = (
            select(turns.c.inputs, turns.c.outputs)
            .where(completed, turns.c.turn.between(sizes[count - 1][0], sizes[0][0]))
            .order_by(turns.c.turn)
        )
        rows = await connection.execute(query)
        return tuple({"inputs": orjson.loads(row[0]), "outputs": orjson.loads(row[1])} for row in rows)

    async def claim(self, session_id: str, user_id: str) -> str | None:
        """Make a session the user's, unless it is somebody's already; return whose it is.

        A new one counts as assigned until it has a turn, so that it goes where none ever comes.
        """
        sessions = self._schema.sessions
        free = (sessions.c.session_id == session_id) & sessions.c.user_id.is_(None)
        owner = select(sessions.c.user_id).where(sessions.c.session_id == session_id)
        new = self._new_session(session_id, user_id, datetime.now(UTC), assigned=True)

        async def take(connection: AsyncConnection) -> str | None:
            if not (await connection.execute(update(sessions).where(free).values(user_id=user_id))).rowcount:
                await connection.execute(new)
            return await connection.scalar(owner)

        return await self._database.write(take)

    async def add_turn(self, turn: Turn) -> None:
        """Store a turn as the next one of its session; a turn whose run is stored already changes nothing.

        Raises NotStored for a turn that is too large for the database, or whose session is another user's by now.
        """
        row = _row_of(turn)
        self._check_size(row)
        new = self._new_session(turn.session_id, turn.user_id, turn.started_at, assigned=turn.assigned)

        async def begin(connection: AsyncConnection) -> None:
            await connection.execute(new)

        while not await self._database.write(partial(self._append, turn, row)):
            # In a transaction of its own: inserts that meet share the row, and none could then update it (a deadlock
            # in MySQL). Somebody may delete the session again before the turn is there.
            await self._database.write(begin)

    def _check_size(self, row: Mapping[str, Any]) -> None:
        limit = self._database.max_packet
        texts = [row[name] or "" for name in ("inputs", "outputs", "error")]
        if limit is None or 2 * sum(map(len, texts)) * _MOST_BYTES < limit:
            return
        # What the driver writes a backslash before, in a statement of its own.
        size = sum(len(text.encode()) + sum(map(text.count, _ESCAPED)) for text in texts) + _STATEMENT_BYTES
        if size > limit:
            message = f"a turn of {size} bytes is over the database's limit (max_allowed_packet, {limit} bytes)"
            raise NotStored(message)

    async def _append(self, turn: Turn, row: Mapping[str, Any], connection: AsyncConnection) -> bool:
        """Store a turn of a session that exists; return whether it does."""
        sessions, turns = self._schema.sessions, self._schema.turns
        mine = sessions.c.session_id == turn.session_id
        finished = as_stored(turn.finished_at)
        changes: dict[str, Any] = {
            "last_turn": sessions.c.last_turn + 1,
            "updated_at": case((sessions.c.updated_at < finished, finished), else_=sessions.c.updated_at),
            "title": func.coalesce(sessions.c.title, title_of(turn.question)),
        }
        if not turn.assigned:
            changes["assigned"] = false()
        if turn.user_id is not None:
            changes["user_id"] = turn.user_id
        allowed = or_(sessions.c.user_id.is_(None), sessions.c.user_id == turn.user_id) if turn.user_id else true()
        # The session's row is the lock under which its turns are numbered.
        if not (await connection.execute(update(sessions).where(mine, allowed).values(changes))).rowcount:
            if (await connection.execute(select(sessions.c.session_id).where(mine))).first() is None:
                return False
            raise NotStored(f"session {turn.session_id!r} belongs to another user")
        stored = select(turns.c.id).where(turns.c.run_id == turn.run_id)
        if (await connection.execute(stored)).first() is not None:
            await connection.rollback()
            return True
        number = await connection.scalar(select(sessions.c.last_turn).where(mine))
        await connection.execute(insert(turns).values(turn=number, **row))
        await self.write_variables(connection, turn.session_id, turn.variables)
        return True

    def _new_session(self, session_id: str, user_id: str | None, now: datetime, *, assigned: bool) -> Insert:
        return (
            insert(self._schema.sessions)
            .prefix_with("OR IGNORE", dialect="sqlite")
            .prefix_with("IGNORE", dialect="mysql")
            .values(
                session_id=session_id,
                user_id=user_id,
                assigned=assigned,
                last_turn=0,
                created_at=as_stored(now),
                updated_at=as_stored(now),
            )
        )

    async def write_variables(self, connection: AsyncConnection, session_id: str, values: Mapping[str, Any]) -> None:
        """Write variables of a session whose row the caller has updated in the same transaction."""
        variables = self._schema.variables
        for name, value in values.items():
            row = {"value": dumps(value).decode()}
            place = (variables.c.session_id == session_id) & (variables.c.name == name)
            if not (await connection.execute(update(variables).where(place).values(row))).rowcount:
                await connection.execute(insert(variables).values({"session_id": session_id, "name": name} | row))


def _row_of(turn: Turn) -> dict[str, Any]:
    inputs, outputs = dumps(turn.inputs), dumps(turn.outputs)
    return {
        "session_id": turn.session_id,
        "run_id": turn.run_id,
        "status": turn.status,
        "inputs": inputs.decode(),
        "outputs": outputs.decode(),
        "error": None if turn.error is None else dumps(turn.error).decode(),
        "size": len(inputs) + len(outputs),
        "otel_trace_id": turn.otel_trace_id,
        "started_at": as_stored(turn.started_at),
        "finished_at": as_stored(turn.finished_at),
    }


def fitting(sizes: Sequence[int], budget: int) -> int:
    """Return how many of the first sizes are within the budget together."""
    count = 0
    for size in sizes:
        budget -= size
        if budget < 0:
            break
        count += 1
    return count


def title_of(question: str) -> str | None:
    """Return the title of a session that begins with `question`: its first words, on one line."""
    words = " ".join(question[: TITLE_LENGTH * 4].split())
    return (words if len(words) <= TITLE_LENGTH else f"{words[: TITLE_LENGTH - 1]}…") or None
