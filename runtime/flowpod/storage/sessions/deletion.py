"""How sessions are deleted, by whomever."""

from collections.abc import Sequence
from functools import partial

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from flowpod.storage.database import Database
from flowpod.storage.schema import Schema

_TURNS = 200


async def delete_sessions(database: Database, ids: Sequence[str], allowed: ColumnElement[bool]) -> dict[str, int]:
    """Delete those of the sessions for whose row `allowed` holds, with all that belongs to them.

    Returns how many turns each of them had. A long one goes by several transactions, so that nobody waits behind it.
    A recorded run of it that is still performed ends when its owner finds its record gone.
    """
    deleted: dict[str, int] = {}
    for session_id in ids:
        gone, whole = 0, False
        while not whole:
            step = await database.write(partial(_delete_some, database.schema, session_id, allowed))
            if step is None:
                break  # it is not there, or was used again meanwhile
            count, whole = step
            gone += count
        if whole:
            deleted[session_id] = gone
    return deleted


async def _delete_some(
    schema: Schema, session_id: str, allowed: ColumnElement[bool], connection: AsyncConnection
) -> tuple[int, bool] | None:
    """Delete some turns of a session and, once it has no more, the session; return how many, and whether it is gone."""
    sessions, turns, variables = schema.sessions, schema.turns, schema.variables
    # The session's row is the lock under which its turns and variables are written.
    lock = update(sessions).where(sessions.c.session_id == session_id, allowed).values(last_turn=sessions.c.last_turn)
    if not (await connection.execute(lock)).rowcount:
        return None
    some = select(turns.c.id).where(turns.c.session_id == session_id).order_by(turns.c.turn).limit(_TURNS)
    ids = list((await connection.execute(some)).scalars())
    if ids:
        await connection.execute(delete(turns).where(turns.c.id.in_(ids)))
    if len(ids) == _TURNS:
        return len(ids), False
    await connection.execute(delete(variables).where(variables.c.session_id == session_id))
    runs, events = schema.runs, schema.events
    recorded = select(runs.c.run_id).where(runs.c.session_id == session_id)
    await connection.execute(delete(events).where(events.c.run_id.in_(recorded)))
    await connection.execute(delete(runs).where(runs.c.session_id == session_id))
    await connection.execute(delete(sessions).where(sessions.c.session_id == session_id))
    return len(ids), True
