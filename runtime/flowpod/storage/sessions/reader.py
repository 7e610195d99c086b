"""What a run reads of its session, and the statements that several modules use to write one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson
from sqlalchemy import BindParameter, Integer, and_, bindparam, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from flowpod.jsonable import dumps
from flowpod.storage.database import Database, as_stored
from flowpod.storage.prepared import Executor, PreparedStatement
from flowpod.storage.schema import Schema

History = tuple[dict[str, Any], ...]
"""Completed turns of a session, oldest first, each as `{"inputs": {...}, "outputs": {...}}`."""

_COMPLETED = "Completed"
_BYTES_PER_TOKEN = 4  # of JSON; each model has a tokenizer of its own, so this is an estimate
_MAX_HISTORY_BYTES = 64 * 1024 * 1024  # of JSON, however much the flow asks for


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A session: its owner, the number of its last turn, the newest part of its history, and its variables."""

    user_id: str | None = None
    last_turn: int = 0
    history: History = ()
    variables: Mapping[str, Any] = field(default_factory=dict)


class RecentTurns:
    """Reads the newest completed turns of a session."""

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

    async def read_recent(self, executor: Executor, session_id: str, last: int, rounds: int, budget: int) -> History:
        """Return the newest `rounds` turns up to number `last`, as many as fit in `budget` bytes of JSON."""
        sizes = await executor.fetch_rows(self._sizes, session=session_id, last=last, rounds=rounds)
        count = count_fitting([size for _, size in sizes], budget)
        if not count:
            return ()
        first = sizes[count - 1][0]
        rows = await executor.fetch_rows(self._contents, session=session_id, first=first, last=last)
        return tuple({"inputs": orjson.loads(inputs), "outputs": orjson.loads(outputs)} for inputs, outputs in rows)


class SessionReader:
    """Reads sessions and assigns their owners. Every method is one transaction, and may raise SQLAlchemy's errors."""

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
        self._recent_turns = RecentTurns(schema)

    async def find_session(
        self, session_id: str, rounds: int, budget: int = _MAX_HISTORY_BYTES
    ) -> StoredSession | None:
        """Return a session with its newest `rounds` completed turns, as many as fit in `budget` bytes of JSON.

        Returns None when the session is not stored.
        """
        history: History = ()
        async with self._database.reading() as connection:
            executor = await self._database.dialect.executor(connection)
            rows = await executor.fetch_rows(self._session, session=session_id)
            if not rows:
                return None
            user_id, last_turn = rows[0]
            if rounds:
                budget = min(budget, _MAX_HISTORY_BYTES)
                history = await self._recent_turns.read_recent(executor, session_id, last_turn, rounds, budget)
            variables = await executor.fetch_rows(self._variables, session=session_id)
        return StoredSession(user_id, last_turn, history, {name: orjson.loads(value) for name, value in variables})

    async def find_owner(self, session_id: str) -> str | None:
        """Return the user who owns a session, None when nobody does or the session is not stored."""
        async with self._database.reading() as connection:
            executor = await self._database.dialect.executor(connection)
            rows = await executor.fetch_rows(self._session, session=session_id)
        return rows[0][0] if rows else None

    async def claim_session(self, session_id: str, user_id: str) -> str | None:
        """Make the user the owner of a session that has none, and return its owner.

        A new session counts as assigned until it has a turn, so that retention deletes it when it never gets one.
        """
        sessions = self._schema.sessions
        unowned = (sessions.c.session_id == session_id) & sessions.c.user_id.is_(None)
        owner = select(sessions.c.user_id).where(sessions.c.session_id == session_id)
        now = as_stored(datetime.now(UTC))
        new = self._database.dialect.insert_ignore(sessions).values(
            session_id=session_id, user_id=user_id, assigned=True, last_turn=0, created_at=now, updated_at=now
        )

        async def claim(connection: AsyncConnection) -> str | None:
            if not (await connection.execute(update(sessions).where(unowned).values(user_id=user_id))).rowcount:
                await connection.execute(new)
            return await connection.scalar(owner)

        return await self._database.transact(claim)


async def write_variables(
    schema: Schema, connection: AsyncConnection, session_id: str, values: Mapping[str, Any]
) -> None:
    """Write variables of a session whose row the caller has updated in the same transaction."""
    variables = schema.variables
    for name, value in values.items():
        row = {"value": dumps(value).decode()}
        variable = (variables.c.session_id == session_id) & (variables.c.name == name)
        if not (await connection.execute(update(variables).where(variable).values(row))).rowcount:
            await connection.execute(insert(variables).values({"session_id": session_id, "name": name} | row))


def history_budget(tokens: int | None) -> int:
    """Return how many bytes of JSON the history of a run may have; `tokens` is the flow's own limit."""
    return _MAX_HISTORY_BYTES if tokens is None else min(tokens * _BYTES_PER_TOKEN, _MAX_HISTORY_BYTES)


def count_fitting(sizes: Sequence[int], budget: int) -> int:
    """Return how many of the first sizes add up to no more than the budget."""
    count = 0
    for size in sizes:
        budget -= size
        if budget < 0:
            break
        count += 1
    return count
