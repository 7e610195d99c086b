"""What runs read and write of a conversation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson
from sqlalchemy import BindParameter, Insert, Integer, and_, bindparam, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from flowpod.jsonable import dumps
from flowpod.storage.database import Database, as_stored
from flowpod.storage.prepared import Executor, PreparedStatement, executor_of
from flowpod.storage.schema import Schema

_COMPLETED = "Completed"
_BYTES_A_TOKEN = 4
_PAST_BYTES = 64 * 1024 * 1024  # what a run may be given of the past, however much the flow asks for


@dataclass(frozen=True, slots=True)
class StoredSession:
    """What is stored of a session: whose it is, the number of its last turn, completed turns, and its variables.

    The turns are the newest ones, oldest first, each as `{"inputs": {...}, "outputs": {...}}`.
    """

    user_id: str | None = None
    last_turn: int = 0
    pairs: tuple[Mapping[str, Any], ...] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)


class RecentTurns:
    """The newest completed turns of a session, as a run is given them: `{"inputs": {...}, "outputs": {...}}` each."""

    def __init__(self, schema: Schema) -> None:
        turns = schema.turns
        session: BindParameter[str] = bindparam("session", type_=turns.c.session_id.type)
        completed = and_(turns.c.session_id == session, turns.c.status == _COMPLETED)
        first, last = bindparam("first", type_=Integer), bindparam("last", type_=Integer)
        self._sizes = PreparedStatement(
            select(turns.c.turn, turns.c.size)
            .where(completed, turns.c.turn <= last)
            .order_by(turns.c.turn.desc())
            .limit(bindparam("rounds"))
        )
        self._contents = PreparedStatement(
            select(turns.c.inputs, turns.c.outputs)
            .where(completed, turns.c.turn.between(first, last))
            .order_by(turns.c.turn)
        )

    async def newest(
        self, executor: Executor, session_id: str, last: int, rounds: int, budget: int
    ) -> tuple[dict[str, Any], ...]:
        """Return the newest `rounds` turns up to number `last` that fit in `budget` bytes of JSON, oldest first."""
        sizes = await executor.rows(self._sizes, session=session_id, last=last, rounds=rounds)
        count = fitting([size for _, size in sizes], budget)
        if not count:
            return ()
        rows = await executor.rows(self._contents, session=session_id, first=sizes[count - 1][0], last=last)
        return tuple({"inputs": orjson.loads(inputs), "outputs": orjson.loads(outputs)} for inputs, outputs in rows)


class SessionReader:
    """Reads and writes sessions. Every method is one transaction, or raises SQLAlchemy's errors."""

    def __init__(self, database: Database) -> None:
        self._database = database
        schema = self._schema = database.schema
        sessions, variables = schema.sessions, schema.variables
        session: BindParameter[str] = bindparam("session", type_=sessions.c.session_id.type)
        self._session = PreparedStatement(
            select(sessions.c.user_id, sessions.c.last_turn).where(sessions.c.session_id == session)
        )
        self._variables = PreparedStatement(
            select(variables.c.name, variables.c.value).where(variables.c.session_id == session)
        )
        self._pairs = RecentTurns(schema)

    async def past(self, session_id: str, rounds: int, budget: int = _PAST_BYTES) -> StoredSession | None:
        """Return what is stored of a session, with the newest `rounds` turns that fit in `budget` bytes of JSON.

        Returns None when the session is not stored.
        """
        async with self._database.reading() as connection:
            executor = await executor_of(connection)
            found = await executor.rows(self._session, session=session_id)
            if not found:
                return None
            user_id, last_turn = found[0]
            budget = min(budget, _PAST_BYTES)
            pairs = await self._pairs.newest(executor, session_id, last_turn, rounds, budget) if rounds else ()
            written = await executor.rows(self._variables, session=session_id)
        return StoredSession(user_id, last_turn, pairs, {name: orjson.loads(value) for name, value in written})

    async def owner(self, session_id: str) -> str | None:
        """Return the user that a session belongs to, None when it belongs to nobody or is not stored."""
        async with self._database.reading() as connection:
            found = await (await executor_of(connection)).rows(self._session, session=session_id)
        return found[0][0] if found else None

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


def past_budget(tokens: int | None) -> int:
    """Return how many bytes of JSON of the past a run may be given, of about `tokens` tokens where there is a limit."""
    # Models count tokens in ways of their own: four bytes of JSON are one here.
    return _PAST_BYTES if tokens is None else min(tokens * _BYTES_A_TOKEN, _PAST_BYTES)


def fitting(sizes: Sequence[int], budget: int) -> int:
    """Return how many of the first sizes are within the budget together."""
    count = 0
    for size in sizes:
        budget -= size
        if budget < 0:
            break
        count += 1
    return count
