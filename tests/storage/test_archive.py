"""Stored conversations as their owners see them, the same for both databases."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from flowpod.errors import NotFound, Unavailable
from flowpod.storage.address import history_address
from flowpod.storage.availability import Availability
from flowpod.storage.database import Database, as_stored
from flowpod.storage.sessions.archive import Archive, Session, StoredTurn
from flowpod.storage.sessions.retention import Retention
from sqlalchemy import update

from tests.support.history import NOW, Sessions, opened, turn


@asynccontextmanager
async def archive_of(url: str) -> AsyncIterator[tuple[Archive, Sessions]]:
    async with opened(url) as (database, store):
        yield Archive(database, answering()), store


def answering() -> Availability:
    """Return what is known of a database that answers."""
    availability = Availability()
    availability.mark_migrated()
    return availability


async def turns_of(archive: Archive, session: str, after: int, limit: int) -> list[StoredTurn]:
    return (await archive.turns(session, after, limit))[0]


def at(seconds: int) -> datetime:
    return NOW + timedelta(seconds=seconds)


async def listed(archive: Archive, owner: str | None = None) -> list[str]:
    return [session.session_id for session in await archive.sessions(owner, None, 100)]


async def test_sessions_are_listed_newest_first_and_page_by_page(history_url: str) -> None:
    async with archive_of(history_url) as (archive, store):
        for number in range(7):  # two each have the same time
            await store.add_turn(turn(f"s{number}", f"r{number}", finished_at=at(number // 2)))
        seen: list[Session] = []
        while True:
            last = (seen[-1].updated_at, seen[-1].session_id) if seen else None
            found = await archive.sessions(None, last, 2)
            seen += found
            if len(found) < 2:
                break
        assert [session.session_id for session in seen] == ["s6", "s5", "s4", "s3", "s2", "s1", "s0"]
        assert seen[-1] == Session("s0", None, "q r0", 1, NOW, NOW)


async def test_an_owner_sees_and_changes_own_sessions_only(history_url: str) -> None:
    async with archive_of(history_url) as (archive, store):
        await store.add_turn(turn("of ann", "r1", user_id="ann"))
        await store.add_turn(turn("of bob", "r2", user_id="bob"))
        await store.add_turn(turn("of nobody", "r3"))
        assert await listed(archive, "ann") == ["of ann"]
        assert sorted(await listed(archive)) == ["of ann", "of bob", "of nobody"]
        for attempt in (
            archive.session("ann", "of bob"),
            archive.delete_session("ann", "of bob"),
            archive.set_variables("ann", "of bob", {"x": 1}),
            archive.session("ann", "of nobody"),
            archive.session(None, "OF ANN"),
        ):
            with pytest.raises(NotFound, match="there is no session"):
                await attempt
        assert await archive.delete_turns("ann", at(9)) == (1, 1)
        assert sorted(await listed(archive)) == ["of bob", "of nobody"]


async def test_turns_are_read_from_a_number_on(history_url: str) -> None:
    async with archive_of(history_url) as (archive, store):
        for number in range(1, 251):
            await store.add_turn(turn(run=f"r{number}", error={"message": "x"} if number == 2 else None))
        assert [found.turn for found in await turns_of(archive, "s", 0, 3)] == [1, 2, 3]
        assert [found.turn for found in await turns_of(archive, "s", 248, 9)] == [249, 250]
        assert [found.run_id async for found in archive.all_turns("s")] == [f"r{n}" for n in range(1, 251)]
        second = (await turns_of(archive, "s", 1, 1))[0]
        assert (second.error, second.started_at, second.inputs) == ({"message": "x"}, NOW, {"question": "q r2"})


async def test_a_page_of_large_turns_is_a_short_one(history_url: str) -> None:
    large = {"answer": "x" * 3 * 1024 * 1024}
    async with archive_of(history_url) as (archive, store):
        for number in range(5):
            await store.add_turn(turn(run=f"r{number}", outputs=large))
        await store.add_turn(turn(run="huge", outputs={"answer": "x" * 9 * 1024 * 1024}))
        first, more = await archive.turns("s", 0, 100)
        assert ([found.turn for found in first], more) == ([1, 2], True)
        last, more = await archive.turns("s", 5, 100)
        assert ([found.run_id for found in last], more) == (["huge"], False)
        assert [found.turn async for found in archive.all_turns("s")] == [1, 2, 3, 4, 5, 6]


async def test_a_long_session_is_deleted_with_all_its_turns(history_url: str) -> None:
    async with archive_of(history_url) as (archive, store):
        for number in range(450):
            await store.add_turn(turn(run=f"r{number}"))
        assert await archive.delete_session(None, "s") == 450
        assert (await archive.totals(None)).turns == 0


async def test_variables_are_written_one_by_one(history_url: str) -> None:
    async with archive_of(history_url) as (archive, store):
        await store.add_turn(turn(variables={"a": 1, "b": [2]}))
        await archive.set_variables(None, "s", {"b": None, "c": "three"})
        assert await archive.variables("s") == {"a": 1, "b": None, "c": "three"}


async def test_a_deleted_session_leaves_nothing_and_may_begin_again(history_url: str) -> None:
    async with archive_of(history_url) as (archive, store):
        await store.add_turn(turn(run="r1", variables={"a": 1}))
        await store.add_turn(turn(run="r2"))
        assert await archive.delete_session(None, "s") == 2
        assert await turns_of(archive, "s", 0, 9) == []
        assert await archive.variables("s") == {}
        await store.add_turn(turn(run="r3"))
        assert [found.turn for found in await turns_of(archive, "s", 0, 9)] == [1]


async def test_a_session_that_is_deleted_while_it_is_used_stays_whole(history_url: str) -> None:
    async def delete_often(archive: Archive) -> None:
        for _ in range(20):
            with suppress(NotFound):
                await archive.delete_session(None, "s")
            await asyncio.sleep(0.005)

    async with archive_of(history_url) as (archive, one), archive_of(history_url) as (_, two):
        writes = (store.add_turn(turn(run=f"{name}{n}")) for n in range(20) for name, store in (("a", one), ("b", two)))
        await asyncio.gather(delete_often(archive), *writes)
        await one.add_turn(turn(run="last"))
        numbers = [found.turn for found in await turns_of(archive, "s", 0, 99)]
        session = await archive.session(None, "s")
        assert numbers == list(range(1, session.last_turn + 1))


async def test_all_sessions_of_a_user_are_deleted(history_url: str) -> None:
    async with archive_of(history_url) as (archive, store):
        for number in range(120):
            await store.add_turn(turn(f"a{number}", f"a{number}", user_id="ann"))
        await store.add_turn(turn("a0", "again", user_id="ann"))
        await store.add_turn(turn("b", "b", user_id="bob"))
        assert await archive.delete_user("ann") == (120, 121)
        assert await archive.delete_user("ann") == (0, 0)
        assert await listed(archive) == ["b"]


async def test_old_turns_are_deleted_and_numbers_go_on(history_url: str) -> None:
    async with archive_of(history_url) as (archive, store):
        for number in range(150):
            await store.add_turn(turn("used", f"u{number}", finished_at=at(number)))
        await store.add_turn(turn("unused", "x", finished_at=at(5)))
        assert await archive.delete_turns(None, at(149)) == (1, 150)
        assert await listed(archive) == ["used"]
        await store.add_turn(turn("used", "new", finished_at=at(200)))
        assert [found.turn for found in await turns_of(archive, "used", 0, 9)] == [150, 151]


async def test_totals_count_everything(history_url: str) -> None:
    async with archive_of(history_url) as (archive, store):
        empty = await archive.totals(None)
        for number in range(3):
            await store.add_turn(turn("s", f"r{number}"))
        totals = await archive.totals(None)
        assert (empty.sessions, empty.turns) == (0, 0)
        assert (totals.sessions, totals.turns) == (1, 3)
        of_ann = await archive.totals("ann")
        assert (of_ann.sessions, of_ann.turns) == (0, 0)
        assert totals.bytes > 10_000


async def test_old_sessions_go_in_steps(history_url: str) -> None:
    old, now = timedelta(days=40), datetime.now(NOW.tzinfo)
    async with opened(history_url) as (database, store):
        archive = Archive(database, answering())
        for number in range(130):
            await store.add_turn(turn(f"old{number}", f"o{number}", started_at=now - old, finished_at=now - old))
        await store.add_turn(turn("new", "n", finished_at=now))
        keeps = Retention(database, timedelta(days=1), None)
        assert await keeps.step() > 60
        assert (await archive.totals(None)).sessions == 131
        retention = Retention(database, timedelta(days=1), timedelta(days=30))
        assert await retention.step() < 1
        assert (await archive.totals(None)).sessions == 31
        assert await retention.step() > 60
        assert await listed(archive) == ["new"]


async def test_single_turns_under_assigned_ids_go_after_a_day(history_url: str) -> None:
    now = datetime.now(NOW.tzinfo)
    old = now - timedelta(days=2)
    async with opened(history_url) as (database, store):
        archive = Archive(database, answering())
        await store.add_turn(turn("old", "r1", assigned=True, started_at=old, finished_at=old))
        await store.add_turn(turn("new", "r2", assigned=True, finished_at=now))
        await store.add_turn(turn("named", "r3", started_at=old, finished_at=old))
        await store.add_turn(turn("two", "r4", assigned=True, started_at=old, finished_at=old))
        await store.add_turn(turn("two", "r5", started_at=old, finished_at=old))
        await store.claim("never used", "ann")
        changed = update(database.schema.sessions).where(database.schema.sessions.c.session_id == "never used")
        await database.write(lambda connection: connection.execute(changed.values(updated_at=as_stored(old))))
        await Retention(database, timedelta(days=1), None).step()
        assert await listed(archive) == ["new", "two", "named"]
        assert await turns_of(archive, "old", 0, 9) == []


async def test_a_database_that_is_away_is_named_as_such(tmp_path: Path) -> None:
    file = tmp_path / "chat_history.db"
    file.write_bytes(b"this is no database" * 1000)
    database, availability = Database(history_address(f"sqlite:///{file}"), "svc"), answering()
    with pytest.raises(Unavailable):
        await Archive(database, availability).totals(None)
    assert "not a database" in availability.failure
    await database.close()
