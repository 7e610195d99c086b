"""Recorded runs, their events, leases and cancel requests, on both databases."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from flowpod.storage.database import Database
from flowpod.storage.runs.cancel_requests import CancelRequest, CancelRequests
from flowpod.storage.runs.continuations import Continuation
from flowpod.storage.runs.records import EventBatch, Lease, NewRun
from flowpod.storage.runs.store import RunStore
from flowpod.storage.sessions.deletion import delete_sessions
from tests.support.history import NOW, Sessions, opened, turn

LATER = NOW + timedelta(seconds=30)


@asynccontextmanager
async def run_store(url: str) -> AsyncIterator[tuple[RunStore, Database]]:
    async with opened(url) as (database, _):
        yield RunStore(database), database


def new(run_id: str, **changes: Any) -> NewRun:
    return NewRun(**{"run_id": run_id, "session_id": "s", "user_id": None, "facts": {"kind": "run"}, **changes})


def batch(run_id: str, last: int, *events: Any, status: Any = "Running", at: datetime | None = None) -> EventBatch:
    return EventBatch(run_id, events, last, status, NOW, at)


async def test_events_are_read_after_any_number(history_url: str) -> None:
    async with run_store(history_url) as (store, _):
        await store.add_run(new("r"), "me", LATER)
        for last in range(3, 1000, 3):
            assert await store.append_events("me", [batch("r", last, last - 2, last - 1, last)]) == set()
        events: list[tuple[int, Any]] = []
        while page := await store.read_events("r", events[-1][0] if events else 1):
            events += page
        assert events == [(number, number) for number in range(2, 1000)]
        run = await store.find_run("r")
    assert run is not None
    assert (run.status, run.last_event, run.started_at, run.finished_at) == ("Running", 999, NOW, None)


async def test_a_batch_that_is_stored_again_changes_nothing(history_url: str) -> None:
    async with run_store(history_url) as (store, _):
        await store.add_run(new("r"), "me", LATER)
        end = batch("r", 2, "a", "b", status="Completed", at=LATER)
        for _ in range(2):
            assert await store.append_events("me", [end]) == set()
        assert await store.read_events("r", 0) == [(1, "a"), (2, "b")]


async def test_only_the_owner_of_an_active_run_stores_events(history_url: str) -> None:
    async with run_store(history_url) as (store, _):
        for run_id in ("mine", "over", "others"):
            await store.add_run(new(run_id), "other" if run_id == "others" else "me", LATER)
        await store.append_events("me", [batch("over", 1, "end", status="Failed", at=NOW)])
        batches = [batch(run_id, 2, "x", "y") for run_id in ("mine", "over", "others", "gone")]
        assert await store.append_events("me", batches) == {"over", "others", "gone"}
        assert [len(await store.read_events(run_id, 0)) for run_id in ("mine", "over", "others")] == [2, 1, 0]


async def test_one_instance_fails_a_run_whose_lease_is_not_renewed(history_url: str) -> None:
    def end(run_id: str, count: int) -> list[str]:
        return [f"end {run_id} {count}"]

    async with run_store(history_url) as (one, _), run_store(history_url) as (two, _):
        await one.add_run(new("r"), "dead", NOW)
        await one.append_events("dead", [batch("r", 2, "a", "b")])
        old = Lease("dead", NOW)
        assert await one.list_leases("dead") == []
        assert await two.list_leases("alive") == [old]
        assert await one.renew_leases("dead", ["r"], LATER) == set()
        assert await two.fail_lost_runs(old, end) == []
        lease = Lease("dead", LATER)
        assert await two.list_leases("alive") == [lease]
        tries = [store.fail_lost_runs(lease, end) for store in (one, two) * 10]
        assert sorted(await asyncio.gather(*tries))[-2:] == [[], ["r"]]
        assert await one.read_events("r", 0) == [(1, "a"), (2, "b"), (3, "end r 2")]
        assert await one.renew_leases("dead", ["r"], LATER) == {"r"}
        for number in (3, 4):  # a batch that ends with the last stored event, or after it, is refused
            assert await one.append_events("dead", [batch("r", number, "late", status="Completed", at=LATER)]) == {"r"}
        run = await one.find_run("r")
    assert run is not None
    assert run.finished_at is not None
    assert (run.status, run.last_event, run.finished_at >= NOW) == ("Failed", 3, True)


async def test_a_run_that_another_clock_began_in_the_future_ends_no_earlier(history_url: str) -> None:
    future = datetime(2099, 1, 1, tzinfo=UTC)
    async with run_store(history_url) as (store, _):
        await store.add_run(new("r"), "dead", NOW)
        await store.append_events("dead", [EventBatch("r", ["a"], 1, "Running", future, None)])
        assert await store.fail_lost_runs(Lease("dead", NOW), lambda _, count: [f"end {count}"]) == ["r"]
        run = await store.find_run("r")
    assert run is not None
    assert run.finished_at == run.started_at == future


async def test_only_the_owner_renews_a_lease(history_url: str) -> None:
    async with run_store(history_url) as (store, _):
        for run_id, owner in (("mine", "me"), ("not renewed", "me"), ("other", "other")):
            await store.add_run(new(run_id), owner, NOW)
        assert await store.renew_leases("me", ["mine", "other", "gone"], LATER) == {"other", "gone"}
        leases = await store.list_leases("nobody")
    assert set(leases) == {Lease("me", NOW), Lease("me", LATER), Lease("other", NOW)}


async def test_an_idempotency_key_names_one_run(history_url: str) -> None:
    async with run_store(history_url) as (one, _), run_store(history_url) as (two, _):
        tries = [store.add_run(new(f"r{n}", key="k"), "me", LATER) for n, store in enumerate((one, two) * 10)]
        added = {run.run_id for run in await asyncio.gather(*tries)}
        found = await one.find_run_by_key("k")
        assert found is not None
        assert added == {found.run_id}
        others = [await one.find_run(f"r{n}") for n in range(20)]
        assert sum(run is not None for run in others) == 1


async def test_the_owner_lists_the_active_runs_that_clients_asked_to_cancel(history_url: str) -> None:
    async with run_store(history_url) as (store, _):
        await store.add_run(new("a"), "me", LATER)
        await store.add_run(new("b"), "other", LATER)
        assert [await store.mark_cancel_requested(run_id) for run_id in ("a", "b", "c")] == [True, True, False]
        assert await store.list_cancel_requested("me") == ["a"]
        await store.append_events("me", [batch("a", 1, "end", status="Canceled", at=NOW)])
        assert await store.list_cancel_requested("me") == []
        assert not await store.mark_cancel_requested("a")


async def test_an_instance_accepts_cancel_requests_for_runs_that_are_not_recorded(history_url: str) -> None:
    async with run_store(history_url) as (_, database):
        requests = CancelRequests(database)
        ann, bob = [await requests.add_cancel_request("x", user) for user in ("ann", "bob")]
        of_ann = CancelRequest(ann, "x", "ann")
        assert await requests.pending_cancel_requests() == [of_ann, CancelRequest(bob, "x", "bob")]
        await requests.accept_cancel_requests([bob])
        assert await requests.pending_cancel_requests() == [of_ann]
        assert [await requests.is_cancel_request_accepted(request_id) for request_id in (ann, bob)] == [False, True]
        await requests.delete_cancel_request(ann)
        assert await requests.pending_cancel_requests() == []
        await requests.delete_old_cancel_requests(datetime.now(NOW.tzinfo) + timedelta(seconds=1))
        assert not await requests.is_cancel_request_accepted(bob)


async def test_old_runs_are_deleted_unless_they_are_active(history_url: str) -> None:
    async with run_store(history_url) as (store, _):
        for number in range(150):
            await store.add_run(new(f"r{number}"), "me", LATER)
        ended = [batch(f"r{n}", 1, "end", status="Completed", at=NOW + timedelta(seconds=n)) for n in range(149)]
        await store.append_events("me", ended)
        before = NOW + timedelta(seconds=120)
        assert await store.delete_old_runs(before)
        assert not await store.delete_old_runs(before)
        left = [n for n in range(150) if await store.find_run(f"r{n}") is not None]
        assert left == list(range(120, 150))
        assert await store.read_events("r0", 0) == []
        assert await store.delete_runs(["r149", "r120"]) == 1


async def test_a_long_session_is_copied_without_reading_it_into_memory(history_url: str) -> None:
    async with run_store(history_url) as (store, database):
        sessions, size = Sessions(database), 1_000_000
        for number in range(20):
            await sessions.add_turn(turn("s", f"r{number}", outputs={"answer": f"{number} " + "x" * size}))
        await store.add_run(new("r18"), "me", LATER)
        await store.append_events("me", [batch("r18", 1, "end", status="Completed", at=NOW)])
        tracemalloc.start()
        run = await store.add_run(new("next", session_id="copy", continuation=Continuation("r18")), "me", LATER)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        copied = await sessions.find_session(run.session_id, 99)
        original = await sessions.find_session("s", 99)
    assert used < 5 * size
    assert copied is not None
    assert original is not None
    assert (run.session_id, copied.last_turn, copied.history) == ("copy", 19, original.history[:19])


async def test_deleting_a_session_deletes_its_runs(history_url: str) -> None:
    async with run_store(history_url) as (store, database):
        await Sessions(database).add_turn(turn("s", "r"))
        for run_id, session in (("r", "s"), ("other", "t")):
            await store.add_run(new(run_id, session_id=session), "me", LATER)
            await store.append_events("me", [batch(run_id, 1, "x")])
        condition = database.schema.sessions.c.session_id == "s"
        assert await delete_sessions(database, ["s"], condition) == {"s": 1}
        assert await store.find_run("r") is None
        assert (await store.read_events("r", 0), len(await store.read_events("other", 0))) == ([], 1)
