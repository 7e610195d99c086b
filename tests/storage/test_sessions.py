"""Stored sessions as their owners list, read, change and delete them, on both databases."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from flowpod.errors import NotFound, Unavailable
from flowpod.storage.availability import Availability
from flowpod.storage.database import Database
from flowpod.storage.dialects import SQLite
from flowpod.storage.sessions.archive import Archive, Session, StoredTurn
from tests.support.history import NOW, Sessions, opened, turn


@asynccontextmanager
async def archive_of(url: str) -> AsyncIterator[tuple[Archive, Sessions]]:
    async with opened(url) as (database, store):
        yield Archive(database, available()), store


def available() -> Availability:
    availability = Availability()
    availability.migrated = True
    availability.mark_available()
    return availability


async def turns_of(archive: Archive, session: str, after: int, limit: int) -> list[StoredTurn]:
    return (await archive.list_turns(session, after, limit))[0]


def at(seconds: int) -> datetime:
    return NOW + timedelta(seconds=seconds)


async def listed(archive: Archive, owner: str | None = None) -> list[str]:
    return [session.session_id for session in await archive.list_sessions(owner, None, 100)]


async def test_sessions_are_listed_page_by_page_the_last_used_first(history_url: str) -> None:
    async with archive_of(history_url) as (archive, store):
        for number in range(7):  # two each have the same time
            await store.add_turn(turn(f"s{number}", f"r{number}", finished_at=at(number // 2)))
        sessions: list[Session] = []
        while True:
            last = (sessions[-1].updated_at, sessions[-1].session_id) if sessions else None
            page = await archive.list_sessions(None, last, 2)
            sessions += page
            if len(page) < 2:
                break
        assert [session.session_id for session in sessions] == ["s6", "s5", "s4", "s3", "s2", "s1", "s0"]
        assert sessions[-1] == Session("s0", None, "q r0", 1, NOW, NOW)


async def test_an_owner_lists_and_changes_own_sessions_only(history_url: str) -> None:
    async with archive_of(history_url) as (archive, store):
        await store.add_turn(turn("of ann", "r1", user_id="ann"))
        await store.add_turn(turn("of bob", "r2", user_id="bob"))
        await store.add_turn(turn("of nobody", "r3"))
        assert await listed(archive, "ann") == ["of ann"]
        assert sorted(await listed(archive)) == ["of ann", "of bob", "of nobody"]
        for attempt in (
            archive.fetch_session("ann", "of bob"),
            archive.delete_session("ann", "of bob"),
            archive.set_variables("ann", "of bob", {"x": 1}),
            archive.fetch_session("ann", "of nobody"),
            archive.fetch_session(None, "OF ANN"),
        ):
            with pytest.raises(NotFound, match="there is no session"):
                await attempt
        assert await archive.delete_turns("ann", at(9)) == (1, 1)
        assert sorted(await listed(archive)) == ["of bob", "of nobody"]


async def test_turns_are_listed_after_a_number_and_exported_whole(history_url: str) -> None:
    async with archive_of(history_url) as (archive, store):
        for number in range(1, 251):
            await store.add_turn(turn(run=f"r{number}", error={"message": "x"} if number == 2 else None))
        assert [turn.turn for turn in await turns_of(archive, "s", 0, 3)] == [1, 2, 3]
        assert [turn.turn for turn in await turns_of(archive, "s", 248, 9)] == [249, 250]
        assert [turn.run_id async for turn in archive.export_turns("s")] == [f"r{n}" for n in range(1, 251)]
        second = (await turns_of(archive, "s", 1, 1))[0]
        assert (second.error, second.started_at, second.inputs) == ({"message": "x"}, NOW, {"question": "q r2"})


async def test_a_page_of_large_turns_is_a_short_one(history_url: str) -> None:
    large = {"answer": "x" * 3 * 1024 * 1024}
    async with archive_of(history_url) as (archive, store):
        for number in range(5):
            await store.add_turn(turn(run=f"r{number}", outputs=large))
        await store.add_turn(turn(run="huge", outputs={"answer": "x" * 9 * 1024 * 1024}))
        first, more = await archive.list_turns("s", 0, 100)
        assert ([turn.turn for turn in first], more) == ([1, 2], True)
        last, more = await archive.list_turns("s", 5, 100)
        assert ([turn.run_id for turn in last], more) == (["huge"], False)
        assert [turn.turn async for turn in archive.export_turns("s")] == [1, 2, 3, 4, 5, 6]


async def test_a_long_session_is_deleted_with_all_its_turns(history_url: str) -> None:
    async with archive_of(history_url) as (archive, store):
        for number in range(450):
            await store.add_turn(turn(run=f"r{number}"))
        assert await archive.delete_session(None, "s") == 450
        assert (await archive.read_totals(None)).turns == 0


async def test_setting_variables_keeps_the_others(history_url: str) -> None:
    async with archive_of(history_url) as (archive, store):
        await store.add_turn(turn(variables={"a": 1, "b": [2]}))
        await archive.set_variables(None, "s", {"b": None, "c": "three"})
        assert await archive.read_variables("s") == {"a": 1, "b": None, "c": "three"}


async def test_a_deleted_session_leaves_nothing_and_can_start_again(history_url: str) -> None:
    async with archive_of(history_url) as (archive, store):
        await store.add_turn(turn(run="r1", variables={"a": 1}))
        await store.add_turn(turn(run="r2"))
        assert await archive.delete_session(None, "s") == 2
        assert await turns_of(archive, "s", 0, 9) == []
        assert await archive.read_variables("s") == {}
        await store.add_turn(turn(run="r3"))
        assert [turn.turn for turn in await turns_of(archive, "s", 0, 9)] == [1]


async def test_a_session_that_is_deleted_while_it_is_used_stays_consistent(history_url: str) -> None:
    async def delete_often(archive: Archive) -> None:
        for _ in range(20):
            with suppress(NotFound):
                await archive.delete_session(None, "s")
            await asyncio.sleep(0.005)

    async with archive_of(history_url) as (archive, one), archive_of(history_url) as (_, two):
        writes = (store.add_turn(turn(run=f"{name}{n}")) for n in range(20) for name, store in (("a", one), ("b", two)))
        await asyncio.gather(delete_often(archive), *writes)
        await one.add_turn(turn(run="last"))
        numbers = [turn.turn for turn in await turns_of(archive, "s", 0, 99)]
        assert numbers == list(range(1, (await archive.fetch_session(None, "s")).last_turn + 1))


async def test_all_sessions_of_a_user_are_deleted(history_url: str) -> None:
    async with archive_of(history_url) as (archive, store):
        for number in range(120):
            await store.add_turn(turn(f"a{number}", f"a{number}", user_id="ann"))
        await store.add_turn(turn("a0", "again", user_id="ann"))
        await store.add_turn(turn("b", "b", user_id="bob"))
        assert await archive.delete_user_sessions("ann") == (120, 121)
        assert await archive.delete_user_sessions("ann") == (0, 0)
        assert await listed(archive) == ["b"]


async def test_deleting_old_turns_does_not_reuse_their_numbers(history_url: str) -> None:
    async with archive_of(history_url) as (archive, store):
        for number in range(150):
            await store.add_turn(turn("used", f"u{number}", finished_at=at(number)))
        await store.add_turn(turn("unused", "x", finished_at=at(5)))
        assert await archive.delete_turns(None, at(149)) == (1, 150)
        assert await listed(archive) == ["used"]
        await store.add_turn(turn("used", "new", finished_at=at(200)))
        assert [turn.turn for turn in await turns_of(archive, "used", 0, 9)] == [150, 151]


async def test_totals_are_those_of_the_owner(history_url: str) -> None:
    async with archive_of(history_url) as (archive, store):
        empty = await archive.read_totals(None)
        for number in range(3):
            await store.add_turn(turn("s", f"r{number}"))
        totals = await archive.read_totals(None)
        assert (empty.sessions, empty.turns) == (0, 0)
        assert (totals.sessions, totals.turns) == (1, 3)
        of_ann = await archive.read_totals("ann")
        assert (of_ann.sessions, of_ann.turns) == (0, 0)
        assert totals.bytes > 10_000


async def test_a_file_that_is_not_a_database_makes_the_archive_unavailable(tmp_path: Path) -> None:
    file = tmp_path / "chat_history.db"
    file.write_bytes(b"this is not a database" * 1000)
    database, availability = Database(SQLite(file), "svc"), available()
    with pytest.raises(Unavailable):
        await Archive(database, availability).read_totals(None)
    assert "not a database" in availability.failure
    await database.close()
