"""Stores recorded runs and their events, for any instance to read, and which instance performs each run."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Insert, Row, bindparam, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from flowpod.jsonable import dumps
from flowpod.storage.database import Database, as_stored
from flowpod.storage.runs.continuations import Continuations
from flowpod.storage.runs.records import EventBatch, Lease, NewRun, RecordedRun
from flowpod.storage.schema import ACTIVE
from flowpod.storage.sessions.reader import History

_PAGE = 200
_BATCH = 100


class RunStore:
    """The recorded runs of one service. Every method is one transaction, and may raise SQLAlchemy's errors.

    `owner` is the id of the process that performs a run. It holds a lease, which it renews while it is alive.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._runs = database.schema.runs
        self._events = database.schema.events
        self._continuations = Continuations(database)

    async def add_run(self, run: NewRun, owner: str, lease_until: datetime) -> RecordedRun:
        """Record a run that `owner` will perform; when another run has its idempotency key, return that one.

        A continuation gets the session that it continues. Raises NotFound or InvalidRequest for a run that cannot be
        continued.
        """

        async def write(connection: AsyncConnection) -> RecordedRun | None:
            session_id = run.session_id
            if (continuation := run.continuation) is not None:
                session_id = await self._continuations.continue_session(
                    connection, continuation, session_id, run.user_id
                )
            new = self._insert(replace(run, session_id=session_id), owner, lease_until)
            if not (await connection.execute(new)).rowcount:
                await connection.rollback()
                return None
            return _recorded_run(
                (await connection.execute(select(self._runs).where(self._runs.c.run_id == run.run_id))).one()
            )

        while (added := await self._database.transact(write)) is None:
            if run.key is not None and (other := await self.find_run_by_key(run.key)) is not None:
                return other
        return added

    async def find_run(self, run_id: str) -> RecordedRun | None:
        """Return a run, or None when it is not recorded."""
        return await self._find(self._runs.c.run_id == run_id)

    async def find_run_by_key(self, key: str) -> RecordedRun | None:
        """Return the run that has an idempotency key, or None."""
        return await self._find(self._runs.c.idempotency_key == key)

    async def append_events(self, owner: str, batches: Sequence[EventBatch]) -> set[str]:
        """Store events of the owner's runs; return the ids of runs that the owner has lost.

        The events of those are not stored. A batch that is stored already changes nothing.
        """
        runs = self._runs
        ids = sorted(batch.run_id for batch in batches)
        query = select(runs.c.run_id, runs.c.owner, runs.c.status, runs.c.last_event).where(runs.c.run_id.in_(ids))

        async def write(connection: AsyncConnection) -> set[str]:
            locked = await connection.execute(query.order_by(runs.c.run_id).with_for_update())
            rows = {row.run_id: row for row in locked}
            lost, due = set[str](), list[EventBatch]()
            for batch in batches:
                row = rows.get(batch.run_id)
                if row is not None and row.owner == owner and row.last_event >= batch.last:
                    continue
                if row is None or row.owner != owner or row.status not in ACTIVE:
                    lost.add(batch.run_id)
                else:
                    due.append(batch)
            if due:
                await connection.execute(self._update, [_changes(batch) for batch in due])
                await connection.execute(insert(self._events), [_event_row(batch) for batch in due])
            return lost

        return await self._database.transact(write)

    async def read_events(self, run_id: str, after: int) -> list[tuple[int, Any]]:
        """Return (number, event) of the next events of a run after number `after`; none after the last one."""
        events = self._events
        query = (
            select(events.c.last, events.c.events)
            .where(events.c.run_id == run_id, events.c.last > after)
            .order_by(events.c.last)
            .limit(_PAGE)
        )
        numbered: list[tuple[int, Any]] = []
        for last, text in await self._database.fetch_rows(query):
            events_of_row = orjson.loads(text)
            numbered += enumerate(events_of_row, last - len(events_of_row) + 1)
        return [(number, event) for number, event in numbered if number > after]

    async def renew_leases(self, owner: str, run_ids: Sequence[str], until: datetime) -> set[str]:
        """Renew the owner's leases of these runs; return the ids of those that the owner has lost."""
        runs = self._runs
        owned = runs.c.run_id.in_(run_ids) & (runs.c.owner == owner)
        renewed = update(runs).where(owned, runs.c.status.in_(ACTIVE)).values(lease_until=as_stored(until))

        async def write(connection: AsyncConnection) -> set[str]:
            await connection.execute(renewed)
            return set(run_ids) - set((await connection.execute(select(runs.c.run_id).where(owned))).scalars())

        return await self._database.transact(write)

    async def mark_cancel_requested(self, run_id: str) -> bool:
        """Ask the owner of a run to cancel it; return whether the run is still active."""
        active = (self._runs.c.run_id == run_id) & self._runs.c.status.in_(ACTIVE)
        return bool(await self._database.execute(update(self._runs).where(active).values(cancel_requested=True)))

    async def list_cancel_requested(self, owner: str) -> list[str]:
        """Return the ids of the owner's active runs that a client has asked to cancel."""
        runs = self._runs
        query = select(runs.c.run_id).where(runs.c.owner == owner, runs.c.status.in_(ACTIVE), runs.c.cancel_requested)
        return [run_id for (run_id,) in await self._database.fetch_rows(query)]

    async def list_leases(self, except_of: str) -> list[Lease]:
        """Return the leases of all active runs that `except_of` does not own."""
        runs = self._runs
        query = select(runs.c.owner, runs.c.lease_until).distinct()
        rows = await self._database.fetch_rows(query.where(runs.c.status.in_(ACTIVE), runs.c.owner != except_of))
        return [Lease(owner, until.replace(tzinfo=UTC)) for owner, until in rows]

    async def fail_lost_runs(self, lease: Lease, end: Callable[[str, int], Sequence[Any]]) -> list[str]:
        """Mark some active runs that still have this lease as failed; return the ids of those that this call marked.

        From then on a run has no owner, so its previous owner's events are refused. `end` returns a run's last events
        as JSON, given its id and the number of its events so far.
        """
        runs = self._runs
        lost = (runs.c.owner == lease.owner) & (runs.c.lease_until == as_stored(lease.until))
        query = select(runs).where(lost, runs.c.status.in_(ACTIVE)).order_by(runs.c.run_id).limit(_BATCH)

        async def write(connection: AsyncConnection) -> list[str]:
            rows = (await connection.execute(query.with_for_update())).all()
            for row in rows:
                # The previous owner's clock may be ahead of this one.
                now = max(datetime.now(UTC), (row.started_at or row.created_at).replace(tzinfo=UTC))
                events = end(row.run_id, row.last_event)
                batch = EventBatch(row.run_id, events, row.last_event + len(events), "Failed", row.started_at, now)
                changes = {"status": "Failed", "last_event": batch.last, "finished_at": as_stored(now), "owner": ""}
                await connection.execute(update(runs).where(runs.c.run_id == row.run_id).values(changes))
                await connection.execute(insert(self._events), [_event_row(batch)])
            return [row.run_id for row in rows]

        return await self._database.transact(write)

    async def check_writes(self) -> None:
        """Raise what a write raises when the database is unavailable, full or read-only."""
        await self._database.check_writes()

    async def read_history(self, run_id: str, user_id: str | None, rounds: int, budget: int) -> History:
        """Return the newest `rounds` completed turns up to that of a run, as many as fit in `budget` bytes of JSON.

        Raises NotFound or InvalidRequest for a run that cannot be continued.
        """

        async def read(connection: AsyncConnection) -> History:
            return await self._continuations.read_history(connection, run_id, user_id, rounds, budget)

        return await self._database.transact(read)

    async def delete_runs(self, run_ids: Sequence[str], *, turns: bool = False) -> int:
        """Delete those runs that have ended, with their events, and their `turns` too; return how many were deleted."""
        ended = self._runs.c.run_id.in_(run_ids) & self._runs.c.status.not_in(ACTIVE)

        async def write(connection: AsyncConnection) -> int:
            ids = list((await connection.execute(select(self._runs.c.run_id).where(ended).with_for_update())).scalars())
            tables = (self._runs, self._events, *([self._database.schema.turns] if turns else []))
            for table in tables:
                await connection.execute(delete(table).where(table.c.run_id.in_(ids)))
            return len(ids)

        return await self._database.transact(write)

    async def delete_old_runs(self, before: datetime) -> bool:
        """Delete some runs that ended before a time; return whether there may be more."""
        old = select(self._runs.c.run_id).where(self._runs.c.finished_at < as_stored(before)).limit(_BATCH)
        ids = [run_id for (run_id,) in await self._database.fetch_rows(old)]
        return bool(ids) and await self.delete_runs(ids) == _BATCH

    def _insert(self, run: NewRun, owner: str, lease_until: datetime) -> Insert:
        return self._database.dialect.insert_ignore(self._runs).values(
            run_id=run.run_id,
            session_id=run.session_id,
            user_id=run.user_id,
            idempotency_key=run.key,
            fingerprint=run.fingerprint,
            facts=dumps(run.facts).decode(),
            status="Queued",
            last_event=0,
            owner=owner,
            lease_until=as_stored(lease_until),
            cancel_requested=False,
            created_at=as_stored(datetime.now(UTC)),
        )

    @property
    def _update(self) -> Any:
        names = ("status", "last_event", "started_at", "finished_at")
        values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in names}
        return update(self._runs).where(self._runs.c.run_id == bindparam("this")).values(values)

    async def _find(self, condition: ColumnElement[bool]) -> RecordedRun | None:
        rows = await self._database.fetch_rows(select(self._runs).where(condition))
        return _recorded_run(rows[0]) if rows else None


def _changes(batch: EventBatch) -> dict[str, Any]:
    return {
        "this": batch.run_id,
        "new_status": batch.status,
        "new_last_event": batch.last,
        "new_started_at": batch.started_at and as_stored(batch.started_at),
        "new_finished_at": batch.finished_at and as_stored(batch.finished_at),
    }


def _event_row(batch: EventBatch) -> dict[str, Any]:
    return {"run_id": batch.run_id, "last": batch.last, "events": dumps(batch.events).decode()}


def _recorded_run(row: Row[*tuple[Any, ...]]) -> RecordedRun:
    return RecordedRun(
        run_id=row.run_id,
        session_id=row.session_id,
        user_id=row.user_id,
        fingerprint=row.fingerprint,
        facts=orjson.loads(row.facts),
        status=row.status,
        last_event=row.last_event,
        cancel_requested=row.cancel_requested,
        created_at=row.created_at.replace(tzinfo=UTC),
        started_at=row.started_at and row.started_at.replace(tzinfo=UTC),
        finished_at=row.finished_at and row.finished_at.replace(tzinfo=UTC),
    )
