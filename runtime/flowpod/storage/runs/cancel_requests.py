"""Cancel requests for runs that are not recorded, which only the instance performing such a run can find."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from flowpod.storage.database import Database, as_stored


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """A client's request to cancel a run; `user_id` limits it to a run of that user."""

    id: int
    run_id: str
    user_id: str | None


class CancelRequests:
    """The cancel requests of one service. Every method is one transaction, and may raise SQLAlchemy's errors."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._table = database.schema.cancel_requests

    async def add_cancel_request(self, run_id: str, user_id: str | None) -> int:
        """Ask whichever instance performs a run to cancel it; return the request's id."""
        values = {"run_id": run_id, "user_id": user_id, "taken": False, "asked_at": as_stored(datetime.now(UTC))}

        async def write(connection: AsyncConnection) -> int:
            key = (await connection.execute(insert(self._table).values(values))).inserted_primary_key
            assert key is not None
            return int(key[0])

        return await self._database.transact(write)

    async def pending_cancel_requests(self) -> list[CancelRequest]:
        """Return the requests that no instance has accepted."""
        table = self._table
        query = select(table.c.id, table.c.run_id, table.c.user_id).where(~table.c.taken)
        return [CancelRequest(*row) for row in await self._database.fetch_rows(query)]

    async def accept_cancel_requests(self, ids: Sequence[int]) -> None:
        """Record that this instance cancels the runs of these requests."""
        await self._database.execute(update(self._table).where(self._table.c.id.in_(ids)).values(taken=True))

    async def is_cancel_request_accepted(self, request_id: int) -> bool:
        """Return whether an instance has accepted a request."""
        query = select(self._table.c.id).where(self._table.c.id == request_id, self._table.c.taken)
        return bool(await self._database.fetch_rows(query))

    async def delete_cancel_request(self, request_id: int) -> None:
        """Delete a request."""
        await self._database.execute(delete(self._table).where(self._table.c.id == request_id))

    async def delete_old_cancel_requests(self, before: datetime) -> None:
        """Delete requests made before a time, by instances that ended before they could delete them."""
        await self._database.execute(delete(self._table).where(self._table.c.asked_at < as_stored(before)))
