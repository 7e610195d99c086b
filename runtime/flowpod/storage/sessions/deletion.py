"""Deletes sessions with everything that belongs to them."""

from collections.abc import Sequence
from functools import partial

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from flowpod.storage.database import Database
from flowpod.storage.schema import Schema

_MAX_TURNS = 200


async def delete_sessions(database: Database, ids: Sequence[str], condition: ColumnElement[bool]) -> dict[str, int]:
    """Delete the sessions whose row meets the condition, with their turns, variables, recorded runs and events.

    Returns how many turns each deleted session had. A long one takes several transactions, so that others do not wait.
    A run that is still active ends when its owner finds that its row is gone.
    """
    deleted: dict[str, int] = {}
    for session_id in ids:
        turns, complete = 0, False
        while not complete:
            step = await database.transact(partial(_delete_some, database.schema, session_id, condition))
            if step is None:
                break  # there is no such session, or it has been used since
            count, complete = step
            turns += count
        if complete:
            deleted[session_id] = turns
    return deleted


async def _delete_some(
    schema: Schema, session_id: str, condition: ColumnElement[bool], connection: AsyncConnection
) -> tuple[int, bool] | None:
    """Delete some turns of a session and, after its last turn, the session; return how many, and whether it is gone."""
    sessions, turns, variables = schema.sessions, schema.turns, schema.variables
    # The session's row is the lock under which its turns and variables are written.
    lock = update(sessions).where(sessions.c.session_id == session_id, condition).values(last_turn=sessions.c.last_turn)
    if not (await connection.execute(lock)).rowcount:
        return None
    some = select(turns.c.id).where(turns.c.session_id == session_id).order_by(turns.c.turn).limit(_MAX_TURNS)
    ids = list((await connection.execute(some)).scalars())
    if ids:
        await connection.execute(delete(turns).where(turns.c.id.in_(ids)))
    if len(ids) == _MAX_TURNS:
        return len(ids), False
    await connection.execute(delete(variables).where(variables.c.session_id == session_id))
    runs, events = schema.runs, schema.events
    recorded = select(runs.c.run_id).where(runs.c.session_id == session_id)
    await connection.execute(delete(events).where(events.c.run_id.in_(recorded)))
    await connection.execute(delete(runs).where(runs.c.session_id == session_id))
    await connection.execute(delete(sessions).where(sessions.c.session_id == session_id))
    return len(ids), True
