"""How sessions are deleted, by whomever."""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, delete
from sqlalchemy.ext.asyncio import AsyncConnection

from runtime.history.database import Database


async def delete_sessions(database: Database, ids: Sequence[str], allowed: ColumnElement[bool]) -> dict[str, int]:
    """Delete those of the sessions for whose row `allowed` holds, in one transaction, with all that belongs to them.

    Returns how many turns each of them had.
    """
    schema = database.schema

    async def delete_them(connection: AsyncConnection) -> dict[str, int]:
        deleted: dict[str, int] = {}
        for session_id in ids:
            # The session's row goes first: it is the lock under which its turns and variables are written.
            gone = delete(schema.sessions).where(schema.sessions.c.session_id == session_id, allowed)
            if (await connection.execute(gone)).rowcount:
                turns, _ = [
                    (await connection.execute(delete(table).where(table.c.session_id == session_id))).rowcount
                    for table in (schema.turns, schema.variables)
                ]
                deleted[session_id] = turns
        return deleted

    return await database.write(delete_them)
