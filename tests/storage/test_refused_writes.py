"""A database that answers reads and refuses writes: its disk is full, or the server is read-only."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from flowpod.background.recording import BackgroundRecording
from flowpod.engine.request import RunRequest
from flowpod.errors import Unavailable
from flowpod.storage.database import Database
from flowpod.storage.dialects import dialect_of
from flowpod.storage.sessions.service import HistoryService
from tests.support.background import write_sleepy_flow
from tests.support.flows import SESSION, client_of, service_of
from tests.support.history import history_turn, turn, turns_of
from tests.support.outages import LockedFile, Outage
from tests.support.waiting import until

FULL = "the database's disk is full, or the server is read-only"
ORDER = "writes fail, and later turns of the session follow"


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[HistoryService]:
    service = HistoryService(Database(dialect_of(url), "svc"), write_timeout_s=0.5, single_turn_days=1)
    await service.open()
    try:
        yield service
    finally:
        await service.close()


@pytest.mark.fault(ORDER)
async def test_the_turns_of_each_session_stay_in_order(outage: Outage) -> None:
    async with opened(outage.url) as service:
        assert await service.store_turn(turn(run="r0"))
        outage.begin()
        # The first is large: a disk that is almost full refuses it and would accept the others.
        large = turn(run="r1", outputs={"answer": "x" * 300_000})
        runs = [large, *(turn(session, run) for session, run in (("s", "r2"), ("t", "t1"), ("s", "r3"), ("t", "t2")))]
        assert not any(await asyncio.gather(*map(service.store_turn, runs)))
        outage.end()
        state = await turns_of(service, 4)
        assert state.history[0] == history_turn("r0")
        assert [one["inputs"]["question"] for one in state.history] == ["q r0", "q r1", "q r2", "q r3"]
        assert (await service.read_state("t", None, 9)).history == (history_turn("t1"), history_turn("t2"))


@pytest.mark.fault(ORDER)
async def test_later_turns_wait_behind_one_that_the_database_refuses(tmp_path: Path) -> None:
    locked = LockedFile(tmp_path / "chat_history.db")
    async with opened(locked.url) as service:
        locked.begin()
        first = asyncio.create_task(service.store_turn(turn(run="r1")))
        await asyncio.sleep(0.1)
        assert not await service.store_turn(turn(run="r2"))
        assert not await first
        locked.end()
        assert (await turns_of(service, 2)).history == (history_turn("r1"), history_turn("r2"))


@pytest.mark.fault(FULL)
async def test_failing_writes_make_the_history_unavailable_until_a_write_succeeds(outage: Outage) -> None:
    async with opened(outage.url) as service:
        assert await service.store_turn(turn(run="r1"))
        outage.begin()
        assert not await service.store_turn(turn(run="r2"))
        await until(lambda: service.availability.failure)
        for _ in range(20):  # it does not count as available in between, although it answers reads
            with pytest.raises(Unavailable):
                await service.read_state("s", None, 9)
            await asyncio.sleep(0.05)
        outage.end()
        assert (await turns_of(service, 2)).history == (history_turn("r1"), history_turn("r2"))


@pytest.mark.fault(FULL)
async def test_an_instance_that_starts_with_such_a_database_shows_it(outage: Outage) -> None:
    async with opened(outage.url) as service:
        assert await service.store_turn(turn(run="r1"))
    outage.begin()
    async with opened(outage.url) as service:
        assert service.availability.failure
        outage.end()
        assert (await turns_of(service, 1)).history == (history_turn("r1"),)


@pytest.mark.fault(FULL)
async def test_the_readiness_probe_and_stored_sessions_show_it(chat_flow: Path, outage: Outage) -> None:
    named = {"Chat-Session-Id": SESSION}
    async with client_of(chat_flow, database=outage.url, history_write_timeout_s=0.5) as client:
        outage.begin()
        first = await client.post("/", json={"question": "hi"})
        assert (first.status_code, first.headers["x-flowpod-history"]) == (200, "deferred")
        await _until_it_says(client, {"status": "ready", "history": "out of reach"})
        refused = await client.post("/", json={"question": "hi"}, headers=named)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "history_unavailable")
        assert refused.headers["retry-after"]
        outage.end()
        await _until_it_says(client, {"status": "ready"})
        answer = await client.post("/", json={"question": "hi"}, headers=named)
        assert (answer.status_code, "x-flowpod-history" in answer.headers) == (200, False)
        await until_stored(client, first.headers["chat-session-id"])


async def _until_it_says(client: httpx.AsyncClient, state: dict[str, str]) -> None:
    async with asyncio.timeout(30):
        while (await client.get("/readyz")).json() != state:
            await asyncio.sleep(0.05)


async def until_stored(client: httpx.AsyncClient, session_id: str) -> None:
    async with asyncio.timeout(30):
        while (await client.get(f"/chat/sessions/{session_id}")).status_code != 200:
            await asyncio.sleep(0.05)


@pytest.mark.fault(FULL)
async def test_a_background_run_goes_on_and_its_events_are_stored_later(tmp_path: Path, outage: Outage) -> None:
    async with service_of(write_sleepy_flow(tmp_path / "flow"), database=outage.url) as service:
        request = RunRequest(inputs={"name": "x" * 300_000, "seconds": 1}, session_id=SESSION, assigned=True)
        run_id = (await service.start(request, BackgroundRecording({"kind": "run"}))).run_id
        outage.begin()
        await asyncio.sleep(3)
        outage.end()
        assert service.run_queue is not None
        reader = service.run_queue.reader
        async with asyncio.timeout(30):
            async for _ in reader.follow(run_id):
                pass
        assert (await reader.read_run(run_id, None)).status == "Completed"
