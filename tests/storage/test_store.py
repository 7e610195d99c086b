"""The store's contract, the same for both databases."""

import asyncio
from datetime import timedelta

import pytest
from flowpod.storage.database import as_stored
from flowpod.storage.sessions.reader import StoredSession
from flowpod.storage.sessions.turns import title_of
from sqlalchemy import select

from tests.support.history import NOW, NotStored, opened, pair, turn


async def test_turns_come_back_oldest_first_and_limited(history_url: str) -> None:
    async with opened(history_url) as (_, store):
        assert await store.past("s", 3) is None
        for number in range(5):
            await store.add_turn(turn(run=f"r{number}"))
        past = await store.past("s", 3)
        assert past is not None
        assert past.last_turn == 5
        assert past.pairs == (pair("r2"), pair("r3"), pair("r4"))
        size = len('{"question":"q r2"}{"answer":"a r2"}')
        for budget, pairs in ((0, ()), (size, (pair("r4"),)), (3 * size - 1, (pair("r3"), pair("r4")))):
            bounded = await store.past("s", 3, budget)
            assert bounded is not None
            assert bounded.pairs == pairs
        assert await store.past("s", 0) == StoredSession(None, 5)
        assert await store.past("other", 3) is None


async def test_failed_turns_are_stored_and_stay_out_of_the_conversation(history_url: str) -> None:
    async with opened(history_url) as (_, store):
        await store.add_turn(turn(run="r1"))
        await store.add_turn(turn(run="r2", status="Failed", error={"message": "x"}))
        await store.add_turn(turn(run="r3", status="Canceled"))
        past = await store.past("s", 9)
        assert past is not None
        assert (past.pairs, past.last_turn) == ((pair("r1"),), 3)


async def test_a_run_is_stored_once(history_url: str) -> None:
    async with opened(history_url) as (_, store):
        await store.add_turn(turn(variables={"n": 1}))
        await store.add_turn(turn(variables={"n": 2}))
        past = await store.past("s", 9)
        assert past is not None
        assert (past.last_turn, len(past.pairs), past.variables) == (1, 1, {"n": 1})


async def test_the_first_user_keeps_the_session(history_url: str) -> None:
    async with opened(history_url) as (_, store):
        await store.add_turn(turn(run="r1"))
        await store.add_turn(turn(run="r2", user_id="ann"))
        with pytest.raises(NotStored, match="belongs to another user"):
            await store.add_turn(turn(run="r3", user_id="bob"))
        assert await store.past("s", 0) == StoredSession("ann", 2)


async def test_a_turn_that_lands_late_does_not_turn_the_clock_back(history_url: str) -> None:
    async with opened(history_url) as (database, store):
        await store.add_turn(turn(run="r1", finished_at=NOW))
        await store.add_turn(turn(run="r2", finished_at=NOW - timedelta(hours=1)))
        async with database.reading() as connection:
            assert await connection.scalar(select(database.schema.sessions.c.updated_at)) == as_stored(NOW)


@pytest.mark.needs("mariadbd")
async def test_a_turn_over_the_servers_limit_is_given_up_at_once(mysql_url: str) -> None:
    async with opened(mysql_url) as (database, store):
        assert database.max_packet == 16 * 1024 * 1024
        await store.add_turn(turn(run="fits", outputs={"answer": "x" * (15 * 1024 * 1024)}))
        for answer in ("x" * 17_000_000, "\\" * 5_000_000, "\u4f60" * 6_000_000):
            with pytest.raises(NotStored, match="max_allowed_packet"):
                await store.add_turn(turn(run="not", outputs={"answer": answer}))


async def test_of_users_who_claim_a_session_together_one_gets_it(history_url: str) -> None:
    async with opened(history_url) as (_, one), opened(history_url) as (_, two):
        names = [f"user {n}" for n in range(10)]
        owners = await asyncio.gather(
            *(store.claim("new", name) for name, store in zip(names, [one, two] * 5, strict=True))
        )
        assert set(owners) == {owners[0]}
        await one.add_turn(turn("old"))
        assert await one.claim("old", "ann") == "ann"
        assert await two.claim("old", "bob") == "ann"
        assert await one.past("new", 9) == StoredSession(owners[0], 0)


async def test_ids_that_differ_in_case_are_two_sessions(history_url: str) -> None:
    async with opened(history_url) as (_, store):
        await store.add_turn(turn("abc", "r1"))
        await store.add_turn(turn("ABC", "r2"))
        lower, upper = await store.past("abc", 9), await store.past("ABC", 9)
        assert lower is not None
        assert upper is not None
        assert (lower.pairs, upper.pairs) == ((pair("r1"),), (pair("r2"),))


async def test_emoji_and_a_megabyte_survive(history_url: str) -> None:
    long = "\U0001f600 \u00e9\u4f60'\"\\%s:x\0" * 100_000
    async with opened(history_url) as (_, store):
        await store.add_turn(turn(outputs={"answer": long}, user_id="\U0001f600", question=long))
        past = await store.past("s", 1)
        assert past is not None
        assert past.pairs[0]["outputs"] == {"answer": long}
        assert past.user_id == "\U0001f600"


async def test_writers_of_one_session_lose_nothing(history_url: str) -> None:
    async with opened(history_url) as (database, one), opened(history_url) as (_, two):
        await asyncio.gather(
            *(store.add_turn(turn(run=f"{name}{n}")) for n in range(20) for name, store in (("a", one), ("b", two)))
        )
        past = await two.past("s", 99)
        assert past is not None
        assert (past.last_turn, len(past.pairs)) == (40, 40)
        async with database.reading() as connection:
            turns = database.schema.turns
            numbers = (await connection.execute(turns.select().with_only_columns(turns.c.turn))).scalars()
            assert sorted(numbers) == list(range(1, 41))


async def test_the_same_run_written_twice_at_once_is_one_turn(history_url: str) -> None:
    async with opened(history_url) as (_, one), opened(history_url) as (_, two):
        await asyncio.gather(*(store.add_turn(turn(run="r")) for store in (one, two) for _ in range(5)))
        past = await one.past("s", 9)
        assert past is not None
        assert (past.last_turn, past.pairs) == (1, (pair("r"),))


async def test_services_share_a_database_and_nothing_else(history_url: str) -> None:
    async with opened(history_url, "one") as (_, one), opened(history_url, "two") as (_, two):
        await one.add_turn(turn())
        assert await two.past("s", 9) is None


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
