"""Which sessions are deleted because they are old, on both databases."""

from datetime import datetime, timedelta

import pytest
from sqlalchemy import select, update

from flowpod.storage.database import Database, as_stored
from flowpod.storage.runs.records import NewRun
from flowpod.storage.runs.store import RunStore
from flowpod.storage.sessions.retention import Retention
from tests.support.history import NOW, opened, turn


async def stored_sessions(database: Database) -> set[str]:
    async with database.reading() as connection:
        return set((await connection.execute(select(database.schema.sessions.c.session_id))).scalars())


async def test_unused_sessions_are_deleted_a_hundred_at_a_time(history_url: str) -> None:
    old, now = timedelta(days=40), datetime.now(NOW.tzinfo)
    async with opened(history_url) as (database, store):
        for number in range(130):
            await store.add_turn(turn(f"old{number}", f"o{number}", started_at=now - old, finished_at=now - old))
        await store.add_turn(turn("new", "n", finished_at=now))
        assert await Retention(database, timedelta(days=1), None).delete_expired() > 60
        assert len(await stored_sessions(database)) == 131
        retention = Retention(database, timedelta(days=1), timedelta(days=30))
        assert await retention.delete_expired() < 1
        assert len(await stored_sessions(database)) == 31
        assert await retention.delete_expired() > 60
        assert await stored_sessions(database) == {"new"}


async def test_single_turns_under_assigned_ids_are_deleted_after_a_day(history_url: str) -> None:
    now = datetime.now(NOW.tzinfo)
    old = now - timedelta(days=2)
    async with opened(history_url) as (database, store):
        await store.add_turn(turn("old", "r1", assigned=True, started_at=old, finished_at=old))
        await store.add_turn(turn("new", "r2", assigned=True, finished_at=now))
        await store.add_turn(turn("named", "r3", started_at=old, finished_at=old))
        await store.add_turn(turn("two", "r4", assigned=True, started_at=old, finished_at=old))
        await store.add_turn(turn("two", "r5", started_at=old, finished_at=old))
        await store.claim_session("never used", "ann")
        sessions = database.schema.sessions
        unused = update(sessions).where(sessions.c.session_id == "never used").values(updated_at=as_stored(old))
        await database.transact(lambda connection: connection.execute(unused))
        await Retention(database, timedelta(days=1), None).delete_expired()
        assert await stored_sessions(database) == {"new", "two", "named"}


@pytest.mark.parametrize("recorded", [True, False])
async def test_a_session_of_one_turn_stays_as_long_as_its_recorded_run(history_url: str, recorded: bool) -> None:
    async with opened(history_url) as (database, store):
        await store.add_turn(turn("s", "r", assigned=True))
        if recorded:
            await RunStore(database).add_run(NewRun("r", "s", None, {}), "me", NOW)
        await Retention(database, timedelta(days=1), None).delete_expired()
        assert (await store.find_session("s", 1) is not None) == recorded
