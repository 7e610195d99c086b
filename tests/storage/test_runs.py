"""What the database keeps of recorded runs."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from flowpod.storage.database import Database
from flowpod.storage.runs.cancel_requests import CancelRequests
from flowpod.storage.runs.continuations import Continuation
from flowpod.storage.runs.store import Batch, NewRun, RunStore
from flowpod.storage.sessions.deletion import delete_sessions
from flowpod.storage.sessions.reader import SessionReader
from flowpod.storage.sessions.retention import Retention

from tests.support.history import NOW, Sessions, opened, turn

LATER = NOW + timedelta(seconds=30)


@asynccontextmanager
async def run_store(url: str) -> AsyncIterator[tuple[RunStore, Database]]:
    async with opened(url) as (database, _):
        yield RunStore(database), database


def new(run_id: str, **changes: Any) -> NewRun:
    return NewRun(**{"run_id": run_id, "session_id": "s", "user_id": None, "facts": {"kind": "run"}, **changes})


def batch(run_id: str, last: int, *events: Any, status: Any = "Running", at: datetime | None = None) -> Batch:
    return Batch(run_id, events, last, status, NOW, at)


async def test_events_are_read_from_any_number_on(history_url: str) -> None:
    async with run_store(history_url) as (store, _):
        await store.add(new("r"), "me", LATER)
        for last in range(3, 1000, 3):
            assert await store.append("me", [batch("r", last, last - 2, last - 1, last)]) == set()
        found: list[tuple[int, Any]] = []
        while page := await store.events("r", found[-1][0] if found else 1):
            found += page
        assert found == [(number, number) for number in range(2, 1000)]
        run = await store.get("r")
    assert run is not None
    assert (run.status, run.last_event, run.started_at, run.finished_at) == ("Running", 999, NOW, None)


async def test_a_batch_that_is_stored_again_changes_nothing(history_url: str) -> None:
    async with run_store(history_url) as (store, _):
        await store.add(new("r"), "me", LATER)
        end = batch("r", 2, "a", "b", status="Completed", at=LATER)
        for _ in range(2):
            assert await store.append("me", [end]) == set()
        assert await store.events("r", 0) == [(1, "a"), (2, "b")]


async def test_only_the_owner_of_an_active_run_writes(history_url: str) -> None:
    async with run_store(history_url) as (store, _):
        for run_id in ("mine", "over", "others"):
            await store.add(new(run_id), "other" if run_id == "others" else "me", LATER)
        await store.append("me", [batch("over", 1, "end", status="Failed", at=NOW)])
        batches = [batch(run_id, 2, "x", "y") for run_id in ("mine", "over", "others", "gone")]
        assert await store.append("me", batches) == {"over", "others", "gone"}
        assert [len(await store.events(run_id, 0)) for run_id in ("mine", "over", "others")] == [2, 1, 0]


async def test_of_those_who_find_a_dead_run_one_fails_it(history_url: str) -> None:
    async with run_store(history_url) as (one, _), run_store(history_url) as (two, _):
        await one.add(new("r"), "dead", LATER)
        await one.append("dead", [batch("r", 2, "a", "b")])
        assert await one.expired(NOW) == []
        assert not await two.fail_expired("r", NOW, lambda count: ["never"])
        late = LATER + timedelta(seconds=1)
        assert [run.run_id for run in await two.expired(late)] == ["r"]
        tries = [store.fail_expired("r", late, lambda count: [f"end {count}"]) for store in (one, two) * 10]
        assert sum(await asyncio.gather(*tries)) == 1
        assert await one.events("r", 0) == [(1, "a"), (2, "b"), (3, "end 2")]
        assert await one.renew("dead", ["r"], late) == {"r"}
        for number in (3, 4):  # as many events as there are now, or more: its owner learns that they are not its own
            assert await one.append("dead", [batch("r", number, "late", status="Completed", at=late)]) == {"r"}
        run = await one.get("r")
    assert run is not None
    assert (run.status, run.last_event, run.finished_at) == ("Failed", 3, late)


async def test_the_leases_of_those_runs_last_that_are_renewed(history_url: str) -> None:
    async with run_store(history_url) as (store, _):
        for run_id, owner in (("mine", "me"), ("nobody holds it", "me"), ("other", "other")):
            await store.add(new(run_id), owner, NOW)
        assert await store.renew("me", ["mine", "other", "gone"], LATER) == {"other", "gone"}
        expired = await store.expired(NOW + timedelta(seconds=1))
    assert {run.run_id for run in expired} == {"nobody holds it", "other"}


async def test_a_key_names_one_run(history_url: str) -> None:
    async with run_store(history_url) as (one, _), run_store(history_url) as (two, _):
        tries = [store.add(new(f"r{n}", key="k"), "me", LATER) for n, store in enumerate((one, two) * 10)]
        added = {run.run_id for run in await asyncio.gather(*tries)}
        found = await one.with_key("k")
        assert found is not None
        assert added == {found.run_id}
        others = [await one.get(f"r{n}") for n in range(20)]
        assert sum(run is not None for run in others) == 1


async def test_cancellation_is_asked_of_active_runs(history_url: str) -> None:
    async with run_store(history_url) as (store, database):
        await store.add(new("a"), "me", LATER)
        await store.add(new("b"), "other", LATER)
        assert [await store.request_cancel(run_id) for run_id in ("a", "b", "c")] == [True, True, False]
        assert await store.to_cancel("me") == ["a"]
        await store.append("me", [batch("a", 1, "end", status="Canceled", at=NOW)])
        assert await store.to_cancel("me") == []
        assert not await store.request_cancel("a")
        wishes = CancelRequests(database)
        ann, bob = await wishes.ask("x", "ann"), await wishes.ask("x", "bob")
        assert await wishes.waiting() == [(ann, "x", "ann"), (bob, "x", "bob")]
        await wishes.take([bob])
        assert await wishes.waiting() == [(ann, "x", "ann")]
        assert [await wishes.taken(number) for number in (ann, bob)] == [False, True]
        await wishes.forget(ann)
        assert await wishes.taken(bob)
        await wishes.forget_old(datetime.now(NOW.tzinfo) + timedelta(seconds=1))
        assert not await wishes.taken(bob)


async def test_a_session_is_copied_by_the_database(history_url: str) -> None:
    async with run_store(history_url) as (store, database):
        sessions, size = Sessions(database), 1_000_000
        for number in range(20):
            await sessions.add_turn(turn("s", f"r{number}", outputs={"answer": f"{number} " + "x" * size}))
        await store.add(new("r18"), "me", LATER)
        await store.append("me", [batch("r18", 1, "end", status="Completed", at=NOW)])
        tracemalloc.start()
        reply = await store.add(new("reply", session_id="copy", reply=Continuation("r18")), "me", LATER)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        copied = await sessions.past(reply.session_id, 99)
        original = await sessions.past("s", 99)
    assert used < 5 * size
    assert copied is not None
    assert original is not None
    assert (reply.session_id, copied.last_turn, copied.pairs) == ("copy", 19, original.pairs[:19])


async def test_old_runs_go_and_active_ones_stay(history_url: str) -> None:
    async with run_store(history_url) as (store, _):
        for number in range(150):
            await store.add(new(f"r{number}"), "me", LATER)
        ended = [batch(f"r{n}", 1, "end", status="Completed", at=NOW + timedelta(seconds=n)) for n in range(149)]
        await store.append("me", ended)
        before = NOW + timedelta(seconds=120)
        assert await store.delete_old(before)
        assert not await store.delete_old(before)
        left = [n for n in range(150) if await store.get(f"r{n}") is not None]
        assert left == list(range(120, 150))
        assert await store.events("r0", 0) == []
        assert await store.delete(["r149", "r120"]) == 1


async def test_a_session_takes_its_runs_with_it(history_url: str) -> None:
    async with run_store(history_url) as (store, database):
        await Sessions(database).add_turn(turn("s", "r"))
        for run_id, session in (("r", "s"), ("other", "t")):
            await store.add(new(run_id, session_id=session), "me", LATER)
            await store.append("me", [batch(run_id, 1, "x")])
        allowed = database.schema.sessions.c.session_id == "s"
        assert await delete_sessions(database, ["s"], allowed) == {"s": 1}
        assert await store.get("r") is None
        assert (await store.events("r", 0), len(await store.events("other", 0))) == ([], 1)


@pytest.mark.parametrize("recorded", [True, False])
async def test_a_session_of_one_turn_stays_while_its_run_does(history_url: str, recorded: bool) -> None:
    async with run_store(history_url) as (store, database):
        await Sessions(database).add_turn(turn("s", "r", assigned=True))
        if recorded:
            await store.add(new("r"), "me", LATER)
        await Retention(database, timedelta(days=1), None).step()
        assert (await SessionReader(database).past("s", 1) is not None) == recorded
