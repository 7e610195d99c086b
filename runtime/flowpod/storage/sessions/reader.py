"""What a run reads of its session, and the statements that several modules use to write one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson
from sqlalchemy import BindParameter, Integer, and_, bindparam, insert, select, update

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


class Variables:
    """Reads and writes the variables of a session."""

    def __init__(self, schema: Schema) -> None:
        variables = schema.variables
        session: BindParameter[str] = bindparam("session", type_=variables.c.session_id.type)
        variable: BindParameter[str] = bindparam("variable", type_=variables.c.name.type)
        json: BindParameter[str] = bindparam("json", type_=variables.c.value.type)
        this_session = variables.c.session_id == session
        self._select = PreparedStatement(select(variables.c.name, variables.c.value).where(this_session))
        self._update = PreparedStatement(
            update(variables).where(this_session, variables.c.name == variable).values(value=json)
        )
        self._insert = PreparedStatement(insert(variables).values(session_id=session, name=variable, value=json))

    async def read(self, executor: Executor, session_id: str) -> dict[str, Any]:
        """Return the variables that have been written."""
        rows = await executor.fetch_rows(self._select, session=session_id)
        return {name: orjson.loads(value) for name, value in rows}

    async def write(self, executor: Executor, session_id: str, values: Mapping[str, Any]) -> None:
        """Write variables of a session whose row the caller has updated in the same transaction."""
        for name, value in values.items():
            row = [{"session": session_id, "variable": name, "json": dumps(value).decode()}]
            if not await executor.execute_many(self._update, row):
                await executor.execute_many(self._insert, row)


class SessionReader:
    """Reads sessions and assigns their owners. Every method is one transaction, and may raise SQLAlchemy's errors."""

    def __init__(self, database: Database) -> None:
        self._database = database
        sessions = database.schema.sessions
        session: BindParameter[str] = bindparam("session", type_=sessions.c.session_id.type)
        user: BindParameter[str] = bindparam("user", type_=sessions.c.user_id.type)
        this_session = sessions.c.session_id == session
        self._session = PreparedStatement(select(sessions.c.user_id, sessions.c.last_turn).where(this_session))
        self._claim = PreparedStatement(
            update(sessions).where(this_session, sessions.c.user_id.is_(None)).values(user_id=user)
        )
        self._insert_session = PreparedStatement(database.dialect.insert_ignore(sessions))
        self._recent_turns = RecentTurns(database.schema)
        self._variables = Variables(database.schema)

    async def find_session(
        self, session_id: str, rounds: int, budget: int = _MAX_HISTORY_BYTES
    ) -> StoredSession | None:
        """Return a session with its newest `rounds` completed turns, as many as fit in `budget` bytes of JSON.

        Returns None when the session is not stored.
        """

        async def find(executor: Executor) -> StoredSession | None:
            rows = await executor.fetch_rows(self._session, session=session_id)
            if not rows:
                return None
            user_id, last = rows[0]
            history: History = ()
            if rounds:
                most = min(budget, _MAX_HISTORY_BYTES)
                history = await self._recent_turns.read_recent(executor, session_id, last, rounds, most)
            return StoredSession(user_id, last, history, await self._variables.read(executor, session_id))

        return await self._database.read(find)

    async def find_owner(self, session_id: str) -> str | None:
        """Return the user who owns a session, None when nobody does or the session is not stored."""
        return await self._database.read(lambda executor: self._owner(executor, session_id))

    async def claim_session(self, session_id: str, user_id: str) -> str | None:
        """Make the user the owner of a session that has none, and return its owner.

        A new session counts as assigned until it has a turn, so that retention deletes it when it never gets one.
        """

        async def claim(executor: Executor) -> str | None:
            if not await executor.execute_many(self._claim, [{"session": session_id, "user": user_id}]):
                await executor.execute_many(self._insert_session, [new_session(session_id, user_id, assigned=True)])
            return await self._owner(executor, session_id)

        return await self._database.write(claim)

    async def _owner(self, executor: Executor, session_id: str) -> str | None:
        rows = await executor.fetch_rows(self._session, session=session_id)
        return rows[0][0] if rows else None


def new_session(
    session_id: str, user_id: str | None, *, assigned: bool, created_at: datetime | None = None
) -> dict[str, Any]:
    """Return the row of a session that has no turn yet, created now if no time is given."""
    time = as_stored(created_at or datetime.now(UTC))
    row = {"session_id": session_id, "user_id": user_id, "assigned": assigned, "title": None, "last_turn": 0}
    return row | {"created_at": time, "updated_at": time}


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
