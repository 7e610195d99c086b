"""Turns as runs store and read them, on both databases."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import select

from flowpod.errors import NotFound
from flowpod.storage.database import Database, as_stored
from flowpod.storage.dialects import dialect_of
from flowpod.storage.sessions.reader import StoredSession
from flowpod.storage.sessions.service import HistoryService
from flowpod.storage.sessions.turns import title_of
from tests.support.history import NOW, NotStored, history_turn, opened, turn


async def test_the_newest_turns_are_read_oldest_first_within_the_limits(history_url: str) -> None:
    async with opened(history_url) as (_, store):
        assert await store.find_session("s", 3) is None
        for number in range(5):
            await store.add_turn(turn(run=f"r{number}"))
        stored = await store.find_session("s", 3)
        assert stored is not None
        assert stored.last_turn == 5
        assert stored.history == (history_turn("r2"), history_turn("r3"), history_turn("r4"))
        size = len('{"question":"q r2"}{"answer":"a r2"}')
        for budget, history in (
            (0, ()),
            (size, (history_turn("r4"),)),
            (3 * size - 1, (history_turn("r3"), history_turn("r4"))),
        ):
            bounded = await store.find_session("s", 3, budget)
            assert bounded is not None
            assert bounded.history == history
        assert await store.find_session("s", 0) == StoredSession(None, 5)
        assert await store.find_session("other", 3) is None


async def test_failed_and_cancelled_turns_are_stored_but_not_in_the_history(history_url: str) -> None:
    async with opened(history_url) as (_, store):
        await store.add_turn(turn(run="r1"))
        await store.add_turn(turn(run="r2", status="Failed", error={"message": "x"}))
        await store.add_turn(turn(run="r3", status="Canceled"))
        stored = await store.find_session("s", 9)
        assert stored is not None
        assert (stored.history, stored.last_turn) == ((history_turn("r1"),), 3)


async def test_a_run_that_is_stored_again_changes_nothing(history_url: str) -> None:
    async with opened(history_url) as (_, store):
        await store.add_turn(turn(variables={"n": 1}))
        await store.add_turn(turn(variables={"n": 2}))
        stored = await store.find_session("s", 9)
        assert stored is not None
        assert (stored.last_turn, len(stored.history), stored.variables) == (1, 1, {"n": 1})


async def test_a_session_belongs_to_the_first_user_that_names_it(history_url: str) -> None:
    async with opened(history_url) as (_, store):
        await store.add_turn(turn(run="r1"))
        await store.add_turn(turn(run="r2", user_id="ann"))
        with pytest.raises(NotStored, match="belongs to another user"):
            await store.add_turn(turn(run="r3", user_id="bob"))
        assert await store.find_session("s", 0) == StoredSession("ann", 2)


async def test_a_session_of_another_user_is_not_found(history_url: str) -> None:
    service = HistoryService(Database(dialect_of(history_url), "svc"), write_timeout_s=5, single_turn_days=1)
    await service.open()
    assert await service.read_state("s", "ann", 9) == StoredSession()
    assert await service.store_turn(turn(run="r1", user_id="ann"))
    state = StoredSession("ann", 1, (history_turn("r1"),))
    assert await service.read_state("s", "ann", 9) == state
    assert await service.read_state("s", None, 9) == state
    with pytest.raises(NotFound) as caught:
        await service.read_state("s", "bob", 9)
    assert caught.value.param == "Chat-Session-Id"
    await service.close()


async def test_a_turn_that_is_stored_late_does_not_set_the_last_use_back(history_url: str) -> None:
    async with opened(history_url) as (database, store):
        await store.add_turn(turn(run="r1", finished_at=NOW))
        await store.add_turn(turn(run="r2", finished_at=NOW - timedelta(hours=1)))
        async with database.reading() as connection:
            assert await connection.scalar(select(database.schema.sessions.c.updated_at)) == as_stored(NOW)


@pytest.mark.needs("mariadbd")
async def test_a_turn_over_the_limit_of_the_server_is_refused_at_once(mysql_url: str) -> None:
    async with opened(mysql_url) as (_, store):
        await store.add_turn(turn(run="fits", outputs={"answer": "x" * (15 * 1024 * 1024)}))
        for answer in ("x" * 17_000_000, "\\" * 5_000_000, "\u4f60" * 6_000_000):
            with pytest.raises(NotStored, match="max_allowed_packet"):
                await store.add_turn(turn(run="not", outputs={"answer": answer}))


async def test_of_users_who_claim_a_session_concurrently_one_gets_it(history_url: str) -> None:
    async with opened(history_url) as (_, one), opened(history_url) as (_, two):
        names = [f"user {n}" for n in range(10)]
        owners = await asyncio.gather(
            *(store.claim_session("new", name) for name, store in zip(names, [one, two] * 5, strict=True))
        )
        assert set(owners) == {owners[0]}
        await one.add_turn(turn("old"))
        assert await one.claim_session("old", "ann") == "ann"
        assert await two.claim_session("old", "bob") == "ann"
        assert await one.find_session("new", 9) == StoredSession(owners[0], 0)


async def test_session_ids_are_case_sensitive(history_url: str) -> None:
    async with opened(history_url) as (_, store):
        await store.add_turn(turn("abc", "r1"))
        await store.add_turn(turn("ABC", "r2"))
        lower, upper = await store.find_session("abc", 9), await store.find_session("ABC", 9)
        assert lower is not None
        assert upper is not None
        assert (lower.history, upper.history) == ((history_turn("r1"),), (history_turn("r2"),))


async def test_a_megabyte_of_any_characters_is_read_as_it_was_stored(history_url: str) -> None:
    long = "\U0001f600 \u00e9\u4f60'\"\\%s:x\0" * 100_000
    async with opened(history_url) as (_, store):
        await store.add_turn(turn(outputs={"answer": long}, user_id="\U0001f600", question=long))
        stored = await store.find_session("s", 1)
        assert stored is not None
        assert stored.history[0]["outputs"] == {"answer": long}
        assert stored.user_id == "\U0001f600"


async def test_concurrent_writers_of_one_session_number_every_turn(history_url: str) -> None:
    async with opened(history_url) as (database, one), opened(history_url) as (_, two):
        await asyncio.gather(
            *(store.add_turn(turn(run=f"{name}{n}")) for n in range(20) for name, store in (("a", one), ("b", two)))
        )
        stored = await two.find_session("s", 99)
        assert stored is not None
        assert (stored.last_turn, len(stored.history)) == (40, 40)
        async with database.reading() as connection:
            turns = database.schema.turns
            numbers = (await connection.execute(turns.select().with_only_columns(turns.c.turn))).scalars()
            assert sorted(numbers) == list(range(1, 41))


async def test_a_run_that_is_stored_concurrently_is_one_turn(history_url: str) -> None:
    async with opened(history_url) as (_, one), opened(history_url) as (_, two):
        await asyncio.gather(*(store.add_turn(turn(run="r")) for store in (one, two) for _ in range(5)))
        stored = await one.find_session("s", 9)
        assert stored is not None
        assert (stored.last_turn, stored.history) == (1, (history_turn("r"),))


async def test_services_that_share_a_database_have_sessions_of_their_own(history_url: str) -> None:
    async with opened(history_url, "one") as (_, one), opened(history_url, "two") as (_, two):
        await one.add_turn(turn())
        assert await two.find_session("s", 9) is None


@pytest.mark.parametrize(
    ("question", "title"),
    [
        ("Hello", "Hello"),
        (" one\n two\t three ", "one two three"),
        ("x" * 120, "x" * 120),
        ("x" * 121, "x" * 119 + "…"),
        ("  \n", None),
        ("", None),
    ],
)
def test_a_title_is_the_beginning_of_the_question(question: str, title: str | None) -> None:
    assert title_of(question) == title
