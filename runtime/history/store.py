"""What runs read and write of a conversation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson
from sqlalchemy import Insert, and_, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from runtime.history.database import Database, as_stored
from runtime.history.schema import Schema
from runtime.jsonable import dumps

_COMPLETED = "Completed"
_PAST_BYTES = 64 * 1024 * 1024  # what a run may be given of the past, however much the flow asks for


@dataclass(frozen=True, slots=True)
class Past:
    """What is stored of a session: whose it is, the number of its last turn, completed turns, and its variables.

    The turns are the newest ones, oldest first, each as `{"inputs": {...}, "outputs": {...}}`.
    """

    user_id: str | None = None
    last_turn: int = 0
    pairs: tuple[Mapping[str, Any], ...] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)


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
        now = as_stored(datetime.now(UTC))
        new = new_session(self._schema).values(
            session_id=session_id, user_id=user_id, assigned=True, last_turn=0, created_at=now, updated_at=now
        )

        async def take(connection: AsyncConnection) -> str | None:
            if not (await connection.execute(update(sessions).where(free).values(user_id=user_id))).rowcount:
                await connection.execute(new)
            return await connection.scalar(owner)

        return await self._database.write(take)


def new_session(schema: Schema) -> Insert:
    """Return the statement that adds a session where there is none of its id."""
    return insert(schema.sessions).prefix_with("OR IGNORE", dialect="sqlite").prefix_with("IGNORE", dialect="mysql")


async def write_variables(
    schema: Schema, connection: AsyncConnection, session_id: str, values: Mapping[str, Any]
) -> None:
    """Write variables of a session whose row the caller has updated in the same transaction."""
    variables = schema.variables
    for name, value in values.items():
        row = {"value": dumps(value).decode()}
        place = (variables.c.session_id == session_id) & (variables.c.name == name)
        if not (await connection.execute(update(variables).where(place).values(row))).rowcount:
            await connection.execute(insert(variables).values({"session_id": session_id, "name": name} | row))


def fitting(sizes: Sequence[int], budget: int) -> int:
    """Return how many of the first sizes are within the budget together."""
    count = 0
    for size in sizes:
        budget -= size
        if budget < 0:
            break
        count += 1
    return count
