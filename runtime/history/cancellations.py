"""Wishes to cancel runs of which the database knows nothing."""

from datetime import UTC, datetime
from functools import partial
from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from runtime.history.database import Database, as_stored


class Cancellations:
    """Wishes to cancel runs that are not recorded, of which only the instance that performs one knows."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._table = database.schema.cancellations

    async def ask(self, run_id: str, user_id: str | None) -> None:
        """Ask whichever instance performs a run to cancel it."""
        wish = (
            insert(self._table)
            .prefix_with("OR IGNORE", dialect="sqlite")
            .prefix_with("IGNORE", dialect="mysql")
            .values(run_id=run_id, user_id=user_id, taken=False, asked_at=as_stored(datetime.now(UTC)))
        )
        await self._database.write(partial(_execute, wish))

    async def waiting(self) -> list[tuple[str, str | None]]:
        """Return (run, user) of the wishes that no instance has taken."""
        query = select(self._table.c.run_id, self._table.c.user_id).where(~self._table.c.taken)
        async with self._database.reading() as connection:
            return [(row[0], row[1]) for row in await connection.execute(query)]

    async def take(self, run_id: str) -> None:
        """Say that this instance cancels the run."""
        this = self._table.c.run_id == run_id
        await self._database.write(partial(_execute, update(self._table).where(this).values(taken=True)))

    async def taken(self, run_id: str) -> bool:
        """Return whether an instance has taken the wish."""
        query = select(self._table.c.taken).where(self._table.c.run_id == run_id)
        async with self._database.reading() as connection:
            return bool(await connection.scalar(query))

    async def forget(self, run_id: str) -> None:
        """Take a wish back."""
        await self._database.write(partial(_execute, delete(self._table).where(self._table.c.run_id == run_id)))

    async def forget_old(self, before: datetime) -> None:
        """Take back the wishes of instances that ended before they could."""
        old = self._table.c.asked_at < as_stored(before)
        await self._database.write(partial(_execute, delete(self._table).where(old)))


async def _execute(statement: Any, connection: AsyncConnection) -> None:
    await connection.execute(statement)
