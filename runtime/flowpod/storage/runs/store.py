"""Recorded runs and their events: what any instance can tell of a run, and which instance performs it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Insert, Row, Select, bindparam, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from flowpod.jsonable import dumps
from flowpod.storage.database import Database, as_stored
from flowpod.storage.runs.continuations import Continuation, past, place
from flowpod.storage.schema import ACTIVE, RecordStatus
from flowpod.storage.sessions.reader import RecentTurns

_PAGE = 200
_STEP = 100


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run to be recorded. `facts` are what its protocol needs to show it; `key` and `fingerprint` make it unique.

    `key` stands for the caller and its Idempotency-Key, `fingerprint` for what it asked.
    """

    run_id: str
    session_id: str
    user_id: str | None
    facts: Mapping[str, Any]
    key: str | None = None
    fingerprint: str = ""
    reply: Continuation | None = None


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A run as it is stored; `last_event` is the number of its newest event, 0 while there is none."""

    run_id: str
    session_id: str
    user_id: str | None
    fingerprint: str
    facts: Mapping[str, Any]
    status: RecordStatus
    last_event: int
    lease_until: datetime
    cancel_requested: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def active(self) -> bool:
        """Whether the run has not ended."""
        return self.status in ACTIVE


@dataclass(frozen=True, slots=True)
class Batch:
    """Some events of a run as JSON, the last of which is number `last`, and what the run is by then."""

    run_id: str
    events: Sequence[Any]
    last: int
    status: RecordStatus
    started_at: datetime | None
    finished_at: datetime | None


class RunStore:
    """Reads and writes recorded runs. Every method is one transaction, or raises SQLAlchemy's errors."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._runs = database.schema.runs
        self._events = database.schema.events
        self._pairs = RecentTurns(database.schema)

    async def add(self, run: NewRun, owner: str, lease_until: datetime) -> RecordedRun:
        """Record a run that `owner` will perform; where its key is taken already, return the run that has it.

        A reply gets the session to which it belongs; raises NotFound or InvalidRequest for one that replies to nothing.
        """

        async def write(connection: AsyncConnection) -> RecordedRun | None:
            session_id = run.session_id
            if run.reply is not None:
                session_id = await place(connection, self._database.schema, run.reply, session_id, run.user_id)
            new = self._insert(replace(run, session_id=session_id), owner, lease_until)
            if not (await connection.execute(new)).rowcount:
                await connection.rollback()
                return None
            return _run((await connection.execute(self._select(self._runs.c.run_id == run.run_id))).one())

        while (added := await self._database.write(write)) is None:
            if run.key is not None and (other := await self.with_key(run.key)) is not None:
                return other
        return added

    async def get(self, run_id: str) -> RecordedRun | None:
        """Return a run, None when it is not recorded."""
        return await self._one(self._runs.c.run_id == run_id)

    async def with_key(self, key: str) -> RecordedRun | None:
        """Return the run that has an idempotency key, None when none has."""
        return await self._one(self._runs.c.idempotency_key == key)

    async def append(self, owner: str, batches: Sequence[Batch]) -> set[str]:
        """Store events of the owner's runs; return the ids of runs that are not the owner's any more.

        Of these nothing is stored. A batch that is stored already changes nothing.
        """
        runs = self._runs
        ids = sorted(batch.run_id for batch in batches)
        held = select(runs.c.run_id, runs.c.owner, runs.c.status, runs.c.last_event).where(runs.c.run_id.in_(ids))

        async def write(connection: AsyncConnection) -> set[str]:
            rows = {row.run_id: row for row in await connection.execute(held.order_by(runs.c.run_id).with_for_update())}
            lost, due = set[str](), list[Batch]()
            for batch in batches:
                row = rows.get(batch.run_id)
                if row is not None and row.owner == owner and row.last_event >= batch.last:
                    continue
                if row is None or row.owner != owner or row.status not in ACTIVE:
                    lost.add(batch.run_id)
                else:
                    due.append(batch)
            if due:
                await connection.execute(self._change, [_changes(batch) for batch in due])
                await connection.execute(insert(self._events), [_event_row(batch) for batch in due])
            return lost

        return await self._database.write(write)

    async def events(self, run_id: str, after: int) -> list[tuple[int, Any]]:
        """Return (number, event) of some events of a run, in order, from behind number `after`; all of them at last."""
        events = self._events
        query = (
            select(events.c.last, events.c.events)
            .where(events.c.run_id == run_id, events.c.last > after)
            .order_by(events.c.last)
            .limit(_PAGE)
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
        found: list[tuple[int, Any]] = []
        for last, text in rows:
            batch = orjson.loads(text)
            found += enumerate(batch, last - len(batch) + 1)
        return [(number, event) for number, event in found if number > after]

    async def renew(self, owner: str, run_ids: Sequence[str], until: datetime) -> set[str]:
        """Renew the owner's lease of these of its runs; return the ids of those that are not the owner's any more."""
        runs = self._runs
        mine = runs.c.run_id.in_(run_ids) & (runs.c.owner == owner)
        renewed = update(runs).where(mine, runs.c.status.in_(ACTIVE)).values(lease_until=as_stored(until))

        async def write(connection: AsyncConnection) -> set[str]:
            await connection.execute(renewed)
            return set(run_ids) - set((await connection.execute(select(runs.c.run_id).where(mine))).scalars())

        return await self._database.write(write)

    async def request_cancel(self, run_id: str) -> bool:
        """Ask the owner of a run to cancel it; return whether the run is still active."""
        active = (self._runs.c.run_id == run_id) & self._runs.c.status.in_(ACTIVE)
        return bool(await self._execute(update(self._runs).where(active).values(cancel_requested=True)))

    async def to_cancel(self, owner: str) -> list[str]:
        """Return the ids of the owner's runs that somebody wants cancelled."""
        runs = self._runs
        query = select(runs.c.run_id).where(runs.c.owner == owner, runs.c.status.in_(ACTIVE), runs.c.cancel_requested)
        async with self._database.reading() as connection:
            return list((await connection.execute(query)).scalars())

    async def expired(self, now: datetime) -> list[RecordedRun]:
        """Return some active runs whose lease has run out."""
        runs = self._runs
        old = runs.c.status.in_(ACTIVE) & (runs.c.lease_until < as_stored(now))
        async with self._database.reading() as connection:
            return [_run(row) for row in await connection.execute(self._select(old).limit(_STEP))]

    async def fail_expired(self, run_id: str, now: datetime, end: Callable[[int], Sequence[Any]]) -> bool:
        """Fail a run whose lease has run out; return whether it was this call that did so.

        From then on it is nobody's: what its owner has still to tell comes too late. `end` makes its last events as
        JSON, told how many there are already.
        """
        runs = self._runs
        dead = (runs.c.run_id == run_id) & runs.c.status.in_(ACTIVE) & (runs.c.lease_until < as_stored(now))

        async def write(connection: AsyncConnection) -> bool:
            failed = update(runs).where(dead).values(status="Failed", finished_at=as_stored(now), owner="")
            if not (await connection.execute(failed)).rowcount:
                return False
            row = (await connection.execute(self._select(runs.c.run_id == run_id))).one()
            events = end(row.last_event)
            batch = Batch(run_id, events, row.last_event + len(events), "Failed", None, now)
            await connection.execute(update(runs).where(runs.c.run_id == run_id).values(last_event=batch.last))
            await connection.execute(insert(self._events), [_event_row(batch)])
            return True

        return await self._database.write(write)

    async def past(self, run_id: str, user: str | None, rounds: int, budget: int) -> list[dict[str, Any]]:
        """Return the last completed turns up to a run's own, as `Store.past` does; raises what a reply raises."""
        work = partial(past, self._database.schema, self._pairs, run_id, user, rounds, budget)
        return await self._database.write(work)

    async def delete(self, run_ids: Sequence[str], *, turns: bool = False) -> int:
        """Delete runs that have ended, with their events, and with their turns; return how many there were."""
        ended = self._runs.c.run_id.in_(run_ids) & self._runs.c.status.not_in(ACTIVE)

        async def write(connection: AsyncConnection) -> int:
            ids = list((await connection.execute(select(self._runs.c.run_id).where(ended).with_for_update())).scalars())
            tables = (self._runs, self._events, *([self._database.schema.turns] if turns else []))
            for table in tables:
                await connection.execute(delete(table).where(table.c.run_id.in_(ids)))
            return len(ids)

        return await self._database.write(write)

    async def delete_old(self, before: datetime) -> bool:
        """Delete some runs that ended before a time; return whether there may be more."""
        old = select(self._runs.c.run_id).where(self._runs.c.finished_at < as_stored(before)).limit(_STEP)
        async with self._database.reading() as connection:
            ids = list((await connection.execute(old)).scalars())
        return bool(ids) and await self.delete(ids) == _STEP

    def _insert(self, run: NewRun, owner: str, lease_until: datetime) -> Insert:
        return (
            insert(self._runs)
            .prefix_with("OR IGNORE", dialect="sqlite")
            .prefix_with("IGNORE", dialect="mysql")
            .values(
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
        )

    @property
    def _change(self) -> Any:
        names = ("status", "last_event", "started_at", "finished_at")
        values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in names}
        return update(self._runs).where(self._runs.c.run_id == bindparam("this")).values(values)

    def _select(self, which: ColumnElement[bool]) -> Select[*tuple[Any, ...]]:
        return select(self._runs).where(which)

    async def _one(self, which: ColumnElement[bool]) -> RecordedRun | None:
        async with self._database.reading() as connection:
            row = (await connection.execute(self._select(which))).one_or_none()
        return None if row is None else _run(row)

    async def _execute(self, statement: Any) -> int:
        return await self._database.write(partial(_rowcount, statement))


async def _rowcount(statement: Any, connection: AsyncConnection) -> int:
    return int((await connection.execute(statement)).rowcount)


def _changes(batch: Batch) -> dict[str, Any]:
    return {
        "this": batch.run_id,
        "new_status": batch.status,
        "new_last_event": batch.last,
        "new_started_at": batch.started_at and as_stored(batch.started_at),
        "new_finished_at": batch.finished_at and as_stored(batch.finished_at),
    }


def _event_row(batch: Batch) -> dict[str, Any]:
    return {"run_id": batch.run_id, "last": batch.last, "events": dumps(batch.events).decode()}


def _run(row: Row[*tuple[Any, ...]]) -> RecordedRun:
    return RecordedRun(
        run_id=row.run_id,
        session_id=row.session_id,
        user_id=row.user_id,
        fingerprint=row.fingerprint,
        facts=orjson.loads(row.facts),
        status=row.status,
        last_event=row.last_event,
        lease_until=row.lease_until.replace(tzinfo=UTC),
        cancel_requested=row.cancel_requested,
        created_at=row.created_at.replace(tzinfo=UTC),
        started_at=row.started_at and row.started_at.replace(tzinfo=UTC),
        finished_at=row.finished_at and row.finished_at.replace(tzinfo=UTC),
    )
