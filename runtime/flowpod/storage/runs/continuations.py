"""Where a reply belongs: to the session that it answers in, or to a new one with a copy of the turns up to there."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, String, Table, cast, func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from flowpod.errors import InvalidRequest, NotFound
from flowpod.jsonable import dumps
from flowpod.storage.database import as_stored
from flowpod.storage.prepared import executor_of
from flowpod.storage.schema import ACTIVE, Schema
from flowpod.storage.sessions.reader import RecentTurns


@dataclass(frozen=True, slots=True)
class Continuation:
    """What a run goes on with: the run that it replies to, and then turns that the client brings itself.

    A turn is `{"inputs": {...}, "outputs": {...}}`.
    """

    previous: str | None = None
    earlier: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """A turn of a session: its number, and that of the session's last one."""

    session_id: str
    turn: int
    last_turn: int


async def place(
    connection: AsyncConnection, schema: Schema, reply: Continuation, session_id: str, user_id: str | None
) -> str:
    """Return the session in which a reply is the next turn; `session_id` is a new one's.

    The session goes on where the turn that is replied to is its last, and no other run is about to be its next.
    Raises NotFound or InvalidRequest for a run that cannot be replied to.
    """
    if reply.previous is not None:
        at = await find(connection, schema, reply.previous, user_id)
        if at.turn == at.last_turn and not await _is_busy(connection, schema, at.session_id):
            session_id = at.session_id
        else:
            await _copy(connection, schema, at, session_id)
    else:
        await _begin(connection, schema, session_id, user_id)
    await _bring(connection, schema, session_id, reply.earlier)
    return session_id


async def find(connection: AsyncConnection, schema: Schema, run_id: str, user_id: str | None) -> Place:
    """Return where the turn of a recorded run is; until the transaction ends, its session does not change."""
    runs, sessions, turns = schema.runs, schema.sessions, schema.turns
    run = (await connection.execute(select(runs.c.user_id, runs.c.status).where(runs.c.run_id == run_id))).one_or_none()
    missing = NotFound(
        f"the response of run {run_id!r} is not there, or its turn is not stored any more",
        param="previous_response_id",
        code="previous_response_not_found",
    )
    if run is None or (user_id is not None and run.user_id != user_id):
        raise missing
    if run.status != "Completed":
        how = "has not ended" if run.status in ACTIVE else f"ended as {run.status}"
        raise InvalidRequest(
            f"the response before {how}, so there is nothing to reply to", param="previous_response_id"
        )
    turn = (
        await connection.execute(select(turns.c.session_id, turns.c.turn).where(turns.c.run_id == run_id))
    ).one_or_none()
    if turn is None:
        raise missing
    held = select(sessions.c.last_turn).where(sessions.c.session_id == turn.session_id)
    session = (await connection.execute(held.with_for_update())).one_or_none()
    if session is None:
        raise missing
    return Place(turn.session_id, turn.turn, session.last_turn)


async def past(
    schema: Schema,
    pairs: RecentTurns,
    run_id: str,
    user_id: str | None,
    rounds: int,
    budget: int,
    connection: AsyncConnection,
) -> list[dict[str, Any]]:
    """Return the last `rounds` completed turns up to that of a run, oldest first, as far as they fit in `budget` bytes.

    Raises what `find` raises.
    """
    at = await find(connection, schema, run_id, user_id)
    return list(await pairs.newest(await executor_of(connection), at.session_id, at.turn, rounds, budget))


async def _is_busy(connection: AsyncConnection, schema: Schema, session_id: str) -> bool:
    runs = schema.runs
    query = select(runs.c.run_id).where(runs.c.session_id == session_id, runs.c.status.in_(ACTIVE)).limit(1)
    return (await connection.execute(query)).first() is not None


async def _begin(connection: AsyncConnection, schema: Schema, session_id: str, user_id: str | None) -> None:
    now = as_stored(datetime.now(UTC))
    values = {"session_id": session_id, "user_id": user_id, "assigned": True, "last_turn": 0}
    await connection.execute(insert(schema.sessions).values(values | {"created_at": now, "updated_at": now}))


async def _copy(connection: AsyncConnection, schema: Schema, at: Place, session_id: str) -> None:
    """Make a new session of a session's turns up to a place, and of its variables as they are now.

    The database copies them: a session may be larger than the memory.
    """
    sessions, turns, variables = schema.sessions, schema.turns, schema.variables
    old = (await connection.execute(select(sessions).where(sessions.c.session_id == at.session_id))).one()
    now = as_stored(datetime.now(UTC))
    changed = {"session_id": session_id, "assigned": True, "last_turn": at.turn, "created_at": now, "updated_at": now}
    await connection.execute(insert(sessions).values(dict(old._mapping) | changed))
    # No run made these turns; their ids must differ all the same.
    new = {"session_id": literal(session_id), "run_id": literal(f"{session_id}:") + cast(turns.c.turn, String)}
    await _copy_rows(connection, turns, (turns.c.session_id == at.session_id) & (turns.c.turn <= at.turn), new)
    await _copy_rows(connection, variables, variables.c.session_id == at.session_id, new)


async def _copy_rows(
    connection: AsyncConnection, table: Table, which: ColumnElement[bool], new: Mapping[str, ColumnElement[Any]]
) -> None:
    """Add copies of rows with `new` values in some columns, and a number of their own."""
    columns = {column.name: new.get(column.name, column) for column in table.c if column.name != "id"}
    await connection.execute(insert(table).from_select(list(columns), select(*columns.values()).where(which)))


async def _bring(
    connection: AsyncConnection, schema: Schema, session_id: str, earlier: Sequence[Mapping[str, Any]]
) -> None:
    """Add the turns that a client brings to a session."""
    if not earlier:
        return
    sessions, now = schema.sessions, as_stored(datetime.now(UTC))
    this = sessions.c.session_id == session_id
    last = await connection.scalar(select(func.max(sessions.c.last_turn)).where(this))
    rows = [
        {
            "session_id": session_id,
            "turn": number,
            "run_id": str(uuid.uuid4()),
            "status": "Completed",
            "inputs": inputs.decode(),
            "outputs": outputs.decode(),
            "size": len(inputs) + len(outputs),
            "otel_trace_id": "",
            "started_at": now,
            "finished_at": now,
        }
        for number, turn in enumerate(earlier, (last or 0) + 1)
        for inputs, outputs in [(dumps(turn["inputs"]), dumps(turn["outputs"]))]
    ]
    await connection.execute(update(sessions).where(this).values(last_turn=sessions.c.last_turn + len(rows)))
    await connection.execute(insert(schema.turns), rows)
