"""Clocks that are set while runs are in progress, and processes that are stopped, as on a laptop that sleeps."""

import asyncio
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.background import PATIENCE_S, state, submit, wait_for, write_sleepy_flow
from tests.support.needs import need_library
from tests.support.serving import Served, serving

STEP = "the wall clock is set forward or back"
SLEEP = "the machine sleeps, or its processes are stopped"
DAY_S = 86_400


class WallClock:
    """The wall clock of a process, which a test can set; its monotonic clock goes on as it should."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.settings = {
            "LD_PRELOAD": str(need_library("*/faketime/libfaketimeMT.so.1")),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self.set(0)

    def set(self, seconds: int) -> None:
        """Set the clock `seconds` ahead of the real one."""
        self._file.with_suffix(".new").write_text(f"{seconds:+d}")
        self._file.with_suffix(".new").replace(self._file)


@contextmanager
def with_settable_clock(flow: Path, folder: Path, **settings: str) -> Iterator[tuple[Served, WallClock]]:
    folder.mkdir(exist_ok=True)
    clock = WallClock(folder / "clock")
    with serving(flow, folder, **clock.settings, **settings) as served:
        yield served, clock


def durations(log: str) -> list[float]:
    return [float(seconds) for seconds in re.findall(r"run \S+ \w+ in (\S+) s", log)]


@pytest.mark.fault(STEP)
@pytest.mark.parametrize("seconds", [DAY_S, -DAY_S])
async def test_a_process_whose_clock_is_set_finishes_its_runs(
    tmp_path: Path, seconds: int, figures: dict[str, object]
) -> None:
    flow = write_sleepy_flow(tmp_path / "flow")
    with with_settable_clock(flow, tmp_path, FLOWPOD_LEASE_S="2") as (served, clock):
        async with httpx.AsyncClient(base_url=served.url, timeout=PATIENCE_S) as client:
            run_id = await submit(client, {"name": "a", "seconds": 5})
            await wait_for(client, run_id, "Running")
            reading = asyncio.create_task(client.post("/run", json={"inputs": {"name": "b", "seconds": 4}}))
            await asyncio.sleep(0.5)
            clock.set(seconds)
            answer = await reading
            ended = await wait_for(client, run_id)
            traces = (await client.get("/traces")).json()["data"]
    assert ended["status"] == "Completed", ended
    assert ended["started_at"] < ended["finished_at"]
    assert all(0 <= node["duration"] < 60 for node in ended["node_run_infos"])
    assert "RunTerminated" in answer.text
    taken = [*durations(served.log), *(trace["duration"] for trace in traces)]
    assert len(taken) == 4
    assert all(4 <= one < 60 for one in taken), taken
    figures["s of clock"] = seconds


@pytest.mark.needs("mariadbd")
@pytest.mark.fault(STEP)
@pytest.mark.parametrize("seconds", [DAY_S, -DAY_S])
async def test_an_instance_with_a_wrong_clock_fails_no_run_of_another(
    tmp_path: Path, mysql_url: str, seconds: int
) -> None:
    flow = write_sleepy_flow(tmp_path / "flow")
    settings = {"FLOWPOD_HISTORY": mysql_url, "FLOWPOD_LEASE_S": "3"}
    with (
        with_settable_clock(flow, tmp_path / "wrong", **settings) as (wrong, clock),
        serving(flow, tmp_path, **settings) as right,
    ):
        async with (
            httpx.AsyncClient(base_url=wrong.url) as first,
            httpx.AsyncClient(base_url=right.url) as second,
        ):
            clock.set(seconds)
            runs = [await submit(client, {"name": "a", "seconds": 6}) for client in (first, second)]
            ended = [await wait_for(second, run_id) for run_id in runs]
            # A process that is gone is noticed all the same.
            lost = await submit(second, {"name": "lost", "seconds": 60})
            await wait_for(first, lost, "Running")
            right.process.send_signal(signal.SIGKILL)
            failed = await wait_for(first, lost)
    assert [run["status"] for run in ended] == ["Completed"] * 2
    assert (failed["status"], failed["error"]["code"]) == ("Failed", "instance_lost")
    assert failed["started_at"] <= failed["finished_at"]


@pytest.mark.fault(SLEEP)
async def test_processes_that_are_stopped_for_a_while_finish_their_runs(tmp_path: Path) -> None:
    flow, history = write_sleepy_flow(tmp_path / "flow"), f"sqlite:///{tmp_path / 'runs.db'}"
    settings = {"FLOWPOD_HISTORY": history, "FLOWPOD_LEASE_S": "3"}
    with serving(flow, tmp_path, "--workers", "2", **settings) as served:
        async with httpx.AsyncClient(base_url=served.url, limits=httpx.Limits(max_keepalive_connections=0)) as client:
            runs = [await submit(client, {"name": f"r{n}", "seconds": 8}) for n in range(6)]
            for run_id in runs:
                await wait_for(client, run_id, "Running")
            await asyncio.sleep(2)
            pids = [served.process.pid, *map(int, re.findall(r"worker (\d+) started", served.log))]
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(6)  # two leases
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            ended: list[dict[str, Any]] = [await wait_for(client, run_id) for run_id in runs]
            assert {run["status"] for run in ended} == {"Completed"}, ended
            assert (await state(client, runs[0]))["outputs"] == {"out": "r0"}
