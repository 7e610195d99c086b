"""Runs that continue from a previous response: in its session, or in a new one that copies the turns up to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, String, Table, cast, func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from flowpod.errors import InvalidRequest, NotFound
from flowpod.ids import new_uuid
from flowpod.storage.database import Database, as_stored
from flowpod.storage.prepared import SQLAlchemyExecutor
from flowpod.storage.schema import ACTIVE
from flowpod.storage.sessions.reader import History, RecentTurns, new_session
from flowpod.storage.sessions.turns import Turn, turn_row


@dataclass(frozen=True, slots=True)
class Continuation:
    """What a run continues from: a previous run, then turns that the client sends.

    `previous_run_id` is None for a new session. A turn of `history` is
    `{"inputs": {...}, "outputs": {...}}`.
    """

    previous_run_id: str | None = None
    history: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class _TurnPosition:
    """A turn of a session, and the number of the session's last one."""

    session_id: str
    turn: int
    last_turn: int


class Continuations:
    """Finds or creates the session of a run that continues from another; every method is part of a transaction."""

    def __init__(self, database: Database) -> None:
        self._schema = database.schema
        self._recent_turns = RecentTurns(database.schema)

    async def continue_session(
        self, connection: AsyncConnection, continuation: Continuation, session_id: str, user_id: str | None
    ) -> str:
        """Return the session in which the continuing run is the next turn; `session_id` is for a new one.

        It is the previous run's session when that run is its last turn and no active run will add another. Raises
        NotFound or InvalidRequest for a run that cannot be continued.
        """
        if continuation.previous_run_id is None:
            await self._create_session(connection, session_id, user_id)
        else:
            position = await self._locate_turn(connection, continuation.previous_run_id, user_id)
            if position.turn == position.last_turn and not await self._has_active_run(connection, position.session_id):
                session_id = position.session_id
            else:
                await self._copy_session(connection, position, session_id)
        await self._append_history(connection, session_id, continuation.history)
        return session_id

    async def read_history(
        self, connection: AsyncConnection, run_id: str, user_id: str | None, rounds: int, budget: int
    ) -> History:
        """Return the newest `rounds` turns up to that of a run, as many as fit in `budget` bytes of JSON.

        Raises NotFound or InvalidRequest for a run that cannot be continued.
        """
        position = await self._locate_turn(connection, run_id, user_id)
        executor = SQLAlchemyExecutor(connection)
        return await self._recent_turns.read_recent(executor, position.session_id, position.turn, rounds, budget)

    async def _locate_turn(self, connection: AsyncConnection, run_id: str, user_id: str | None) -> _TurnPosition:
        """Return the turn of a recorded run, and lock its session until the transaction ends."""
        runs, sessions, turns = self._schema.runs, self._schema.sessions, self._schema.turns
        query = select(runs.c.user_id, runs.c.status).where(runs.c.run_id == run_id)
        run = (await connection.execute(query)).one_or_none()
        missing = NotFound(
            f"there is no response of run {run_id!r}, or its turn has been deleted",
            param="previous_response_id",
            code="previous_response_not_found",
        )
        if run is None or (user_id is not None and run.user_id != user_id):
            raise missing
        if run.status != "Completed":
            state = "has not ended" if run.status in ACTIVE else f"ended as {run.status}"
            raise InvalidRequest(
                f"the previous response {state}, so it cannot be continued", param="previous_response_id"
            )
        turn_query = select(turns.c.session_id, turns.c.turn).where(turns.c.run_id == run_id)
        turn = (await connection.execute(turn_query)).one_or_none()
        if turn is None:
            raise missing
        locked = select(sessions.c.last_turn).where(sessions.c.session_id == turn.session_id).with_for_update()
        session = (await connection.execute(locked)).one_or_none()
        if session is None:
            raise missing
        return _TurnPosition(turn.session_id, turn.turn, session.last_turn)

    async def _has_active_run(self, connection: AsyncConnection, session_id: str) -> bool:
        runs = self._schema.runs
        query = select(runs.c.run_id).where(runs.c.session_id == session_id, runs.c.status.in_(ACTIVE)).limit(1)
        return (await connection.execute(query)).first() is not None

    async def _create_session(self, connection: AsyncConnection, session_id: str, user_id: str | None) -> None:
        await connection.execute(insert(self._schema.sessions).values(new_session(session_id, user_id, assigned=True)))

    async def _copy_session(self, connection: AsyncConnection, position: _TurnPosition, session_id: str) -> None:
        """Create a session with the turns up to a position, and with the variables as they are now.

        The database copies the rows, because a session may be larger than memory.
        """
        sessions, turns, variables = self._schema.sessions, self._schema.turns, self._schema.variables
        source, now = position.session_id, as_stored(datetime.now(UTC))
        old = (await connection.execute(select(sessions).where(sessions.c.session_id == source))).one()
        changed = {"session_id": session_id, "assigned": True, "last_turn": position.turn}
        changed |= {"created_at": now, "updated_at": now}
        await connection.execute(insert(sessions).values(dict(old._mapping) | changed))
        # No run made the copied turns, but their run ids must still be unique.
        new = {"session_id": literal(session_id), "run_id": literal(f"{session_id}:") + cast(turns.c.turn, String)}
        await _copy_rows(connection, turns, (turns.c.session_id == source) & (turns.c.turn <= position.turn), new)
        await _copy_rows(connection, variables, variables.c.session_id == source, new)

    async def _append_history(
        self, connection: AsyncConnection, session_id: str, history: Sequence[Mapping[str, Any]]
    ) -> None:
        if not history:
            return
        sessions, now = self._schema.sessions, datetime.now(UTC)
        this_session = sessions.c.session_id == session_id
        last = await connection.scalar(select(func.max(sessions.c.last_turn)).where(this_session))
        rows = []
        for number, given in enumerate(history, (last or 0) + 1):
            inputs, outputs, run_id = given["inputs"], given["outputs"], new_uuid()
            turn = Turn(session_id, None, True, run_id, "Completed", inputs, outputs, None, "", now, now)
            rows.append(turn_row(turn) | {"turn": number})
        last_turn = sessions.c.last_turn + len(rows)
        await connection.execute(update(sessions).where(this_session).values(last_turn=last_turn))
        await connection.execute(insert(self._schema.turns), rows)


async def _copy_rows(
    connection: AsyncConnection, table: Table, condition: ColumnElement[bool], new: Mapping[str, ColumnElement[Any]]
) -> None:
    """Insert copies of the rows that meet the condition, with `new` values in some columns and ids of their own."""
    columns = {column.name: new.get(column.name, column) for column in table.c if column.name != "id"}
    await connection.execute(insert(table).from_select(list(columns), select(*columns.values()).where(condition)))
