"""What runs read and write of a conversation."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson
from sqlalchemy import Insert, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from runtime.history.database import Database, as_stored
from runtime.history.schema import TITLE_LENGTH
from runtime.jsonable import dumps

_COMPLETED = "Completed"


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
    """What is stored of a session: the number of its last turn, its completed turns, oldest first, its variables.

    A turn is `{"inputs": {...}, "outputs": {...}}`; `sizes` has the bytes of each as JSON.
    """

    user_id: str | None = None
    last_turn: int = 0
    pairs: tuple[Mapping[str, Any], ...] = ()
    sizes: tuple[int, ...] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)


class Store:
    """Reads and writes sessions. Every method is one transaction, or raises SQLAlchemy's errors."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._schema = database.schema

    async def past(self, session_id: str, rounds: int) -> Past | None:
        """Return what is stored of a session, with up to `rounds` turns; None when it is not stored."""
        sessions, turns, variables = self._schema.sessions, self._schema.turns, self._schema.variables
        session = select(sessions.c.user_id, sessions.c.last_turn).where(sessions.c.session_id == session_id)
        last = (
            select(turns.c.inputs, turns.c.outputs)
            .where(turns.c.session_id == session_id, turns.c.status == _COMPLETED)
            .order_by(turns.c.turn.desc())
            .limit(rounds)
        )
        written = select(variables.c.name, variables.c.value).where(variables.c.session_id == session_id)
        async with self._database.reading() as connection:
            row = (await connection.execute(session)).one_or_none()
            if row is None:
                return None
            rows = (await connection.execute(last)).all() if rounds else []
            values = {name: orjson.loads(value) for name, value in await connection.execute(written)}
        pairs = [{"inputs": orjson.loads(inputs), "outputs": orjson.loads(outputs)} for inputs, outputs in rows]
        sizes = [len(inputs.encode()) + len(outputs.encode()) for inputs, outputs in rows]
        return Past(row[0], row[1], tuple(reversed(pairs)), tuple(reversed(sizes)), values)

    async def claim(self, session_id: str, user_id: str) -> str | None:
        """Make a session the user's, unless it is somebody's already; return whose it is."""
        sessions = self._schema.sessions
        free = (sessions.c.session_id == session_id) & sessions.c.user_id.is_(None)
        owner = select(sessions.c.user_id).where(sessions.c.session_id == session_id)
        new = self._new_session(session_id, user_id, datetime.now(UTC), assigned=False)

        async def take(connection: AsyncConnection) -> str | None:
            if not (await connection.execute(update(sessions).where(free).values(user_id=user_id))).rowcount:
                await connection.execute(new)
            return await connection.scalar(owner)

        return await self._database.write(take)

    async def add_turn(self, turn: Turn) -> None:
        """Store a turn as the next one of its session; a turn whose run is stored already changes nothing."""
        new = self._new_session(turn.session_id, turn.user_id, turn.started_at, assigned=turn.assigned)

        async def begin(connection: AsyncConnection) -> None:
            await connection.execute(new)

        while not await self._database.write(partial(self._append, turn)):
            # In a transaction of its own: inserts that meet share the row, and none could then update it (a deadlock
            # in MySQL). Somebody may delete the session again before the turn is there.
            await self._database.write(begin)

    async def _append(self, turn: Turn, connection: AsyncConnection) -> bool:
        """Store a turn of a session that exists; return whether it does."""
        sessions, turns = self._schema.sessions, self._schema.turns
        # The session's row is the lock under which its turns are numbered.
        touched = (
            update(sessions)
            .where(sessions.c.session_id == turn.session_id)
            .values(
                last_turn=sessions.c.last_turn + 1,
                updated_at=as_stored(turn.finished_at),
                user_id=func.coalesce(sessions.c.user_id, turn.user_id),
                title=func.coalesce(sessions.c.title, title_of(turn.question)),
            )
        )
        stored = select(turns.c.id).where(turns.c.run_id == turn.run_id)
        number = select(sessions.c.last_turn).where(sessions.c.session_id == turn.session_id)
        if not (await connection.execute(touched)).rowcount:
            return False
        if (await connection.execute(stored)).first() is not None:
            await connection.rollback()
            return True
        await connection.execute(self._new_turn(turn, await connection.scalar(number)))
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

    def _new_turn(self, turn: Turn, number: Any) -> Insert:
        return insert(self._schema.turns).values(
            session_id=turn.session_id,
            turn=number,
            run_id=turn.run_id,
            status=turn.status,
            inputs=dumps(turn.inputs).decode(),
            outputs=dumps(turn.outputs).decode(),
            error=None if turn.error is None else dumps(turn.error).decode(),
            otel_trace_id=turn.otel_trace_id,
            started_at=as_stored(turn.started_at),
            finished_at=as_stored(turn.finished_at),
        )

    async def write_variables(self, connection: AsyncConnection, session_id: str, values: Mapping[str, Any]) -> None:
        """Write variables of a session whose row the caller has updated in the same transaction."""
        variables = self._schema.variables
        for name, value in values.items():
            row = {"value": dumps(value).decode()}
            place = (variables.c.session_id == session_id) & (variables.c.name == name)
            if not (await connection.execute(update(variables).where(place).values(row))).rowcount:
                await connection.execute(insert(variables).values({"session_id": session_id, "name": name} | row))


def title_of(question: str) -> str | None:
    """Return the title of a session that begins with `question`: its first words, on one line."""
    words = " ".join(question[: TITLE_LENGTH * 4].split())
    return (words if len(words) <= TITLE_LENGTH else f"{words[: TITLE_LENGTH - 1]}…") or None
