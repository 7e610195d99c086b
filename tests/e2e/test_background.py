"""Background runs on real sockets: instances that are killed, readers that come back, many runs at once."""

import asyncio
import json
import signal
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx
import pytest

from tests.support.background import PATIENCE_S, Seen, seen_in, state, submit, wait_for, write_sleepy_flow
from tests.support.flows import write_chat_flow
from tests.support.model_server import ModelServer
from tests.support.serving import serving

WORDS = 12
T = TypeVar("T")


async def some_at_once(calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """Make the calls, no more than 20 at once: httpx takes long over requests that wait for a connection."""
    places = asyncio.Semaphore(20)

    async def one(call: Callable[[], Awaitable[T]]) -> T:
        async with places:
            return await call()

    return await asyncio.gather(*map(one, calls))


@pytest.mark.needs("mariadbd")
@pytest.mark.fault("an instance with background runs is killed")
async def test_what_a_killed_instance_performed_has_failed(tmp_path: Path, mysql_url: str) -> None:
    flow = write_sleepy_flow(tmp_path / "flow")
    settings = {"FLOWPOD_HISTORY": mysql_url, "FLOWPOD_MAX_BACKGROUND_RUNS": "2", "FLOWPOD_LEASE_S": "3"}
    (tmp_path / "two").mkdir()
    with serving(flow, tmp_path, **settings) as one, serving(flow, tmp_path / "two", **settings) as two:
        async with httpx.AsyncClient(base_url=one.url) as first, httpx.AsyncClient(base_url=two.url) as second:
            ended = await submit(first, {"name": "ended"})
            await wait_for(second, ended)
            running = [await submit(first, {"name": f"r{n}", "seconds": 60}) for n in range(2)]
            queued = await submit(first, {"name": "queued"})
            other = await submit(second, {"name": "other", "seconds": 60})
            for run_id in (*running, other):
                await wait_for(second, run_id, "Running")
            following = asyncio.create_task(second.get(f"/runs/{running[0]}/events", timeout=PATIENCE_S))
            one.process.send_signal(signal.SIGKILL)
            one.process.wait()
            assert (await state(second, running[0]))["status"] == "Running"  # until its lease has run out
            for run_id in (*running, queued):
                await wait_for(second, run_id, "Failed")
            lost = await asyncio.gather(*(state(second, run_id) for run_id in (*running, queued) * 5))
            followed = seen_in((await following).text)
            assert [(await state(second, run_id))["status"] for run_id in (ended, other)] == ["Completed", "Running"]
    assert {(run["status"], run["error"]["code"]) for run in lost} == {("Failed", "instance_lost")}
    assert [event.data["event"] for event in followed] == ["RunStarted", "NodeUpdated", "RunTerminated"]
    assert all(run["last_event_id"] == (2 if run["run_id"] == queued else 3) for run in lost[:3])


async def test_a_thousand_runs_at_once_end_each_exactly_once(tmp_path: Path, history_url: str) -> None:
    flow, log = write_sleepy_flow(tmp_path / "flow"), tmp_path / "log"
    (tmp_path / "two").mkdir()
    with (
        serving(flow, tmp_path, FLOWPOD_HISTORY=history_url) as one,
        serving(flow, tmp_path / "two", FLOWPOD_HISTORY=history_url) as two,
    ):
        async with (
            httpx.AsyncClient(base_url=one.url, timeout=PATIENCE_S) as first,
            httpx.AsyncClient(base_url=two.url, timeout=PATIENCE_S) as second,
        ):
            names = [f"r{number}" for number in range(1000)]
            ids = await some_at_once(
                [partial(submit, first, {"name": name, "seconds": 0.05, "log": str(log)}) for name in names]
            )
            ended = await some_at_once([partial(wait_for, second, run_id) for run_id in ids])
            streams = [seen_in((await second.get(f"/runs/{run_id}/events")).text) for run_id in ids[::50]]
    assert Counter(run["status"] for run in ended) == {"Completed": 1000}
    assert [run["outputs"]["out"] for run in ended] == names
    assert Counter(log.read_text().split()) == dict.fromkeys(names, 1)
    for seen in streams:
        assert [event.data["event"] for event in seen].count("RunTerminated") == 1
        assert [event.id for event in seen] == [1, 2, 3, 4, 5]


async def test_a_returning_reader_sees_every_event_once(
    tmp_path: Path, history_url: str, model_server: ModelServer
) -> None:
    key = tmp_path.name + str(len(history_url))
    flow = write_chat_flow(tmp_path / "flow", model_server.url, f"steps:{WORDS}:{key}")
    (tmp_path / "two").mkdir()
    with (
        serving(flow, tmp_path, FLOWPOD_HISTORY=history_url) as one,
        serving(flow, tmp_path / "two", FLOWPOD_HISTORY=history_url) as two,
    ):
        async with httpx.AsyncClient(base_url=one.url) as client:
            run_id = await submit(client, {"question": "hi"})
        seen: list[Seen] = []
        for visit, url in enumerate((two.url, one.url, two.url, one.url)):
            for _ in range(WORDS // 4):
                model_server.step(key)
            enough = None if visit == 3 else f"w{(visit + 1) * WORDS // 4 - 1} "
            await read_until(url, run_id, seen, enough)
        async with httpx.AsyncClient(base_url=one.url) as client:
            whole = seen_in((await client.get(f"/runs/{run_id}/events")).text)
            ended = await state(client, run_id)
    assert [event.id for event in seen] == list(range(1, len(whole) + 1))
    assert seen == whole
    assert "".join(event.text for event in seen) == "".join(f"w{n} " for n in range(WORDS))
    assert ended["outputs"] == {"answer": "".join(f"w{n} " for n in range(WORDS))}
    assert seen[-1].data["event"] == "RunTerminated"


async def read_until(url: str, run_id: str, seen: list[Seen], enough: str | None) -> None:
    """Read a run's events from behind the last one that was seen, until one ends with `enough`, or to the end."""
    headers = {"Last-Event-ID": str(seen[-1].id)} if seen else {}
    async with (
        httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as client,
        client.stream("GET", f"/runs/{run_id}/events", headers=headers) as response,
    ):
        number = 0
        async for line in response.aiter_lines():
            if line.startswith("id: "):
                number = int(line[4:])
            elif line.startswith("data: "):
                seen.append(Seen(number, json.loads(line[6:])))
                if enough is not None and seen[-1].text.endswith(enough):
                    return


async def test_workers_that_share_a_file_tell_of_each_others_runs(tmp_path: Path) -> None:
    flow, history = write_sleepy_flow(tmp_path / "flow"), f"sqlite:///{tmp_path / 'runs.db'}"
    with serving(flow, tmp_path, "--workers", "3", FLOWPOD_HISTORY=history) as served:
        async with httpx.AsyncClient(base_url=served.url, limits=httpx.Limits(max_keepalive_connections=0)) as client:
            ids = [await submit(client, {"name": f"r{n}", "seconds": 0.2}) for n in range(20)]
            assert [(await wait_for(client, run_id))["outputs"] for run_id in ids] == [
                {"out": f"r{n}"} for n in range(20)
            ]
            endless = await submit(client, {"name": "endless", "seconds": 60})
            await wait_for(client, endless, "Running")
            assert (await client.post(f"/runs/{endless}/cancel")).status_code == 202
            assert (await wait_for(client, endless))["status"] == "Canceled"
            await wait_for(client, await submit(client, {"name": "last", "seconds": 1}), "Running")
        assert served.stop() == 0
    database = sqlite3.connect(tmp_path / "runs.db")
    rows = database.execute(
        "SELECT status, COUNT(*) FROM langstudio_run_flow GROUP BY status ORDER BY status"
    ).fetchall()
    database.close()
    assert rows == [("Canceled", 1), ("Completed", 21)]
