"""Writes turns, any number of them in one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import BindParameter, bindparam, case, false, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from flowpod.jsonable import dumps
from flowpod.storage.database import Database, as_stored
from flowpod.storage.prepared import Executor, PreparedStatement
from flowpod.storage.schema import TITLE_LENGTH
from flowpod.storage.sessions.reader import Variables, new_session

_MAX_ATTEMPTS = 50


@dataclass(frozen=True, slots=True)
class Turn:
    """A run to be stored in its session. `assigned`: the service made the session's id, not the client.

    `variables` are the session variables that the run wrote; `question` becomes the title of a new session.
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


class _SessionUnusable(Exception):
    """A session is missing, or belongs to another user."""


class TurnWriter:
    """Appends turns to their sessions. A turn whose run is stored already changes nothing.

    One turn and many take the same statements: each is sent once, with a row of parameters for each turn.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        schema = self._schema = database.schema
        self._variables = Variables(schema)
        sessions, turns = schema.sessions, schema.turns
        user: BindParameter[str] = bindparam("user", type_=sessions.c.user_id.type)
        finished: BindParameter[datetime] = bindparam("finished", type_=sessions.c.updated_at.type)
        this_session = sessions.c.session_id == bindparam("session")
        allowed = or_(user.is_(None), sessions.c.user_id.is_(None), sessions.c.user_id == user)
        self._insert_session = PreparedStatement(database.dialect.insert_ignore(sessions))
        self._update_session = PreparedStatement(
            update(sessions)
            .where(this_session, allowed)
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
        self._insert_turn = PreparedStatement(
            insert(turns).from_select(
                ["turn", *(column.name for column in columns)],
                select(sessions.c.last_turn, *values).where(this_session),
                include_defaults=False,
            )
        )

    async def append_turns(self, turns: Sequence[Turn]) -> dict[str, str]:
        """Store turns, each as the next one of its session; no two may be of the same session.

        Returns the reason, by run id, for those that can never be stored: the turn is too large for the database, or
        its session now belongs to another user. May raise SQLAlchemy's errors, with nothing stored.
        """
        rows = {turn.run_id: {f"new_{name}": value for name, value in turn_row(turn).items()} for turn in turns}
        refused = {run_id: reason for run_id, row in rows.items() if (reason := self._why_too_large(row))}
        left = [turn for turn in turns if turn.run_id not in refused]
        left.sort(key=lambda turn: turn.session_id)  # every writer locks sessions in this order, so none deadlock
        for _ in range(_MAX_ATTEMPTS):
            if not left or await self._append_all(left, rows):
                return refused
            # A run was stored already, or a session was deleted since or is another user's: without those, try again.
            stored = await self._stored_runs(left)
            left = [turn for turn in left if turn.run_id not in stored]
            owners = await self._owners([turn.session_id for turn in left])
            for turn in list(left):
                if turn.user_id is not None and owners.get(turn.session_id) not in (None, turn.user_id):
                    refused[turn.run_id] = f"session {turn.session_id!r} belongs to another user"
                    left.remove(turn)
        return refused | {turn.run_id: f"session {turn.session_id!r} is deleted again and again" for turn in left}

    async def _append_all(self, turns: Sequence[Turn], rows: Mapping[str, Mapping[str, Any]]) -> bool:
        """Store all turns or none; return whether they are stored.

        None are when a session is missing or another user's, or a run is stored already.
        """
        sessions_first = self._database.dialect.inserts_sessions_first
        if sessions_first:  # another client may delete a session before its turn follows
            await self._database.write(partial(self._insert_sessions, turns))

        async def append(executor: Executor) -> None:
            if not sessions_first:
                await self._insert_sessions(turns, executor)
            await self._insert_turns(turns, rows, executor)

        try:
            await self._database.write(append)
        except (IntegrityError, _SessionUnusable):  # IntegrityError: a run that is stored already
            return False
        return True

    async def _insert_sessions(self, turns: Sequence[Turn], executor: Executor) -> None:
        await executor.execute_many(self._insert_session, [_session_row(turn) for turn in turns])

    async def _insert_turns(
        self, turns: Sequence[Turn], rows: Mapping[str, Mapping[str, Any]], executor: Executor
    ) -> None:
        # A session's row is the lock under which its turns are numbered.
        if await executor.execute_many(self._update_session, [_session_changes(turn) for turn in turns]) != len(turns):
            raise _SessionUnusable
        await executor.execute_many(self._insert_turn, [{**rows[turn.run_id], **_session_key(turn)} for turn in turns])
        for turn in turns:
            await self._variables.write(executor, turn.session_id, turn.variables)

    async def _stored_runs(self, turns: Sequence[Turn]) -> set[str]:
        table = self._schema.turns
        query = select(table.c.run_id).where(table.c.run_id.in_([turn.run_id for turn in turns]))
        return {run_id for (run_id,) in await self._database.fetch_rows(query)}

    async def _owners(self, ids: Sequence[str]) -> dict[str, str | None]:
        sessions = self._schema.sessions
        query = select(sessions.c.session_id, sessions.c.user_id).where(sessions.c.session_id.in_(ids))
        return {row[0]: row[1] for row in await self._database.fetch_rows(query)}

    def _why_too_large(self, row: Mapping[str, Any]) -> str:
        return self._database.dialect.why_too_large(
            [row[f"new_{name}"] or "" for name in ("inputs", "outputs", "error")]
        )


def _session_row(turn: Turn) -> dict[str, Any]:
    return new_session(turn.session_id, turn.user_id, assigned=turn.assigned, created_at=turn.started_at)


def _session_key(turn: Turn) -> dict[str, Any]:
    return {"session": turn.session_id, "user": turn.user_id}


def _session_changes(turn: Turn) -> dict[str, Any]:
    return {
        **_session_key(turn),
        "finished": as_stored(turn.finished_at),
        "title": title_of(turn.question),
        "named": not turn.assigned,
    }


def turn_row(turn: Turn) -> dict[str, Any]:
    """Return the row of a turn, without its number."""
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


def title_of(question: str) -> str | None:
    """Return the title of a session that begins with `question`: its first words, on one line."""
    words = " ".join(question[: TITLE_LENGTH * 4].split())
    return (words if len(words) <= TITLE_LENGTH else f"{words[: TITLE_LENGTH - 1]}…") or None
