"""How turns are stored: as many as there are, in one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import BindParameter, bindparam, case, false, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from flowpod.jsonable import dumps
from flowpod.storage.database import Database, as_stored
from flowpod.storage.prepared import Executor, PreparedStatement, executor_of
from flowpod.storage.schema import TITLE_LENGTH
from flowpod.storage.sessions.reader import new_session, write_variables

_MOST_BYTES = 4  # of a character, in UTF-8
_ESCAPED = "\\'\"\n\r\0\x1a"
_ROUNDS = 50
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


class TurnWriter:
    """Adds turns to their sessions; a turn whose run is stored already changes nothing.

    The statements are the same for one turn and for many: each is sent once, with a row of values for each turn.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        schema = self._schema = database.schema
        sessions, turns = schema.sessions, schema.turns
        user: BindParameter[str] = bindparam("user", type_=sessions.c.user_id.type)
        finished: BindParameter[datetime] = bindparam("finished", type_=sessions.c.updated_at.type)
        mine = sessions.c.session_id == bindparam("session")
        allowed = or_(user.is_(None), sessions.c.user_id.is_(None), sessions.c.user_id == user)
        self._new = PreparedStatement(new_session(schema))
        self._touch = PreparedStatement(
            update(sessions)
            .where(mine, allowed)
            .values(
                last_turn=sessions.c.last_turn + 1,
                updated_at=case((sessions.c.updated_at < finished, finished), else_=sessions.c.updated_at),
                title=func.coalesce(sessions.c.title, bindparam("title")),
                assigned=case((bindparam("named"), false()), else_=sessions.c.assigned),
                user_id=func.coalesce(sessions.c.user_id, user),
            )
        )
        columns = [column for column in turns.c if column.name not in ("id", "turn")]
        values = [bindparam(f"new_{column.name}", type_=column.type) for column in columns]
        self._insert = PreparedStatement(
            insert(turns).from_select(
                ["turn", *(column.name for column in columns)],
                select(sessions.c.last_turn, *values).where(mine),
                include_defaults=False,
            )
        )

    async def add(self, turns: Sequence[Turn]) -> dict[str, str]:
        """Store turns, each as the next one of its session, of which no two may be of one.

        Returns why, by run id, for those that can never be stored: one that is too large for the database, or whose
        session is another user's by now. May raise SQLAlchemy's errors, with nothing stored.
        """
        rows = {turn.run_id: _row_of(turn) for turn in turns}
        refused = {run_id: text for run_id, row in rows.items() if (text := self._too_large(row))}
        left = [turn for turn in turns if turn.run_id not in refused]
        left.sort(key=lambda turn: turn.session_id)  # one order for all, so that no two wait for each other
        for _ in range(_ROUNDS):
            if not left or await self._append_all(left, rows):
                return refused
            # A write that was repeated, or a session that was deleted meanwhile or is somebody else's: the others are
            # done again, without it.
            stored = await self._stored(left)
            left = [turn for turn in left if turn.run_id not in stored]
            owners = await self._owners([turn.session_id for turn in left])
            for turn in list(left):
                if turn.user_id is not None and owners.get(turn.session_id) not in (None, turn.user_id):
                    refused[turn.run_id] = f"session {turn.session_id!r} belongs to another user"
                    left.remove(turn)
        return refused | {turn.run_id: f"session {turn.session_id!r} is deleted again and again" for turn in left}

    async def _append_all(self, turns: Sequence[Turn], rows: Mapping[str, Mapping[str, Any]]) -> bool:
        """Store turns, if the sessions of all are theirs and none is stored yet; return whether they are."""
        if not self._database.address.is_sqlite:
            # In a transaction of its own: inserts that meet share the row, and none could then update it (a deadlock
            # in MySQL). Somebody may delete a session again before its turn is there.
            await self._database.write(partial(self._begin, turns))
        try:
            return await self._database.write(partial(self._append, turns, rows))
        except IntegrityError:  # a run that is stored already
            return False

    async def _begin(self, turns: Sequence[Turn], connection: AsyncConnection) -> None:
        await self._add_sessions(turns, await executor_of(connection))

    async def _add_sessions(self, turns: Sequence[Turn], executor: Executor) -> None:
        await executor.change(self._new, [_head_of(turn) for turn in turns])

    async def _append(
        self, turns: Sequence[Turn], rows: Mapping[str, Mapping[str, Any]], connection: AsyncConnection
    ) -> bool:
        """Store turns, if the sessions of all are there and theirs; return whether they are."""
        executor = await executor_of(connection)
        if self._database.address.is_sqlite:
            await self._add_sessions(turns, executor)
        # A session's row is the lock under which its turns are numbered.
        if await executor.change(self._touch, [_changes_of(turn) for turn in turns]) != len(turns):
            await connection.rollback()
            return False
        await executor.change(self._insert, [{**rows[turn.run_id], **_place_of(turn)} for turn in turns])
        for turn in turns:
            await write_variables(self._schema, connection, turn.session_id, turn.variables)
        return True

    async def _stored(self, turns: Sequence[Turn]) -> set[str]:
        table = self._schema.turns
        query = select(table.c.run_id).where(table.c.run_id.in_([turn.run_id for turn in turns]))
        async with self._database.reading() as connection:
            return set((await connection.execute(query)).scalars())

    async def _owners(self, ids: Sequence[str]) -> dict[str, str | None]:
        sessions = self._schema.sessions
        query = select(sessions.c.session_id, sessions.c.user_id).where(sessions.c.session_id.in_(ids))
        async with self._database.reading() as connection:
            return {row[0]: row[1] for row in await connection.execute(query)}

    def _too_large(self, row: Mapping[str, Any]) -> str:
        limit = self._database.max_packet
        texts = [row[f"new_{name}"] or "" for name in ("inputs", "outputs", "error")]
        if limit is None or 2 * sum(map(len, texts)) * _MOST_BYTES < limit:
            return ""
        # What the driver writes a backslash before, in a statement of its own.
        size = sum(len(text.encode()) + sum(map(text.count, _ESCAPED)) for text in texts) + _STATEMENT_BYTES
        if size <= limit:
            return ""
        return f"a turn of {size} bytes is over the database's limit (max_allowed_packet, {limit} bytes)"


def _head_of(turn: Turn) -> dict[str, Any]:
    begun = as_stored(turn.started_at)
    facts = {"session_id": turn.session_id, "user_id": turn.user_id, "assigned": turn.assigned}
    return facts | {"title": None, "last_turn": 0, "created_at": begun, "updated_at": begun}


def _place_of(turn: Turn) -> dict[str, Any]:
    return {"session": turn.session_id, "user": turn.user_id}


def _changes_of(turn: Turn) -> dict[str, Any]:
    facts = {"finished": as_stored(turn.finished_at), "title": title_of(turn.question), "named": not turn.assigned}
    return _place_of(turn) | facts


def _row_of(turn: Turn) -> dict[str, Any]:
    inputs, outputs = dumps(turn.inputs), dumps(turn.outputs)
    row = {
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
    return {f"new_{name}": value for name, value in row.items()}


def title_of(question: str) -> str | None:
    """Return the title of a session that begins with `question`: its first words, on one line."""
    words = " ".join(question[: TITLE_LENGTH * 4].split())
    return (words if len(words) <= TITLE_LENGTH else f"{words[: TITLE_LENGTH - 1]}…") or None
