"""Wishes to cancel runs of which the database knows nothing."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from flowpod.storage.database import Database, as_stored


class CancelRequests:
    """Wishes to cancel runs that are not recorded, of which only the instance that performs one knows."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._table = database.schema.cancellations

    async def ask(self, run_id: str, user_id: str | None) -> int:
        """Ask whichever instance performs a run to cancel it; return the wish's number."""
        values = {"run_id": run_id, "user_id": user_id, "taken": False, "asked_at": as_stored(datetime.now(UTC))}

        async def write(connection: AsyncConnection) -> int:
            key = (await connection.execute(insert(self._table).values(values))).inserted_primary_key
            assert key is not None
            return int(key[0])

        return await self._database.write(write)

    async def waiting(self) -> list[tuple[int, str, str | None]]:
        """Return (number, run, user) of the wishes that no instance has taken."""
        table = self._table
        query = select(table.c.id, table.c.run_id, table.c.user_id).where(~table.c.taken)
        async with self._database.reading() as connection:
            return [(row[0], row[1], row[2]) for row in await connection.execute(query)]

    async def take(self, numbers: Sequence[int]) -> None:
        """Say that this instance does as it is asked."""
        these = self._table.c.id.in_(numbers)
        await self._database.write(partial(_execute, update(self._table).where(these).values(taken=True)))

    async def taken(self, number: int) -> bool:
        """Return whether an instance has taken a wish."""
        query = select(self._table.c.taken).where(self._table.c.id == number)
        async with self._database.reading() as connection:
            return bool(await connection.scalar(query))

    async def forget(self, number: int) -> None:
        """Take a wish back."""
        await self._database.write(partial(_execute, delete(self._table).where(self._table.c.id == number)))

    async def forget_old(self, before: datetime) -> None:
        """Take back the wishes of instances that ended before they could."""
        old = self._table.c.asked_at < as_stored(before)
        await self._database.write(partial(_execute, delete(self._table).where(old)))


async def _execute(statement: Any, connection: AsyncConnection) -> None:
    await connection.execute(statement)
