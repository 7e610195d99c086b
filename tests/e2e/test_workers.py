"""Several worker processes behind one port: what they share, and what a dying one does to the others."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.support.flows import write_chat_flow, write_flow
from tests.support.model_server import ModelServer
from tests.support.serving import ROOT, Served, environment, start_server, wait_for_status, wait_for_workers

# The supervisor itself opens the flow before its workers do.
FRAGILE_DAG = """
inputs:
  how: {type: string}
outputs:
  pid: {reference: "${n.output}"}
nodes:
- {name: n, type: python, source: {type: code, path: n.py}, inputs: {how: "${inputs.how}"}}
"""
FRAGILE_CODE = """
import os, signal, sys
from pathlib import Path

from promptflow.core import tool

if "--fd" in sys.orig_argv and Path("broken").exists():
    raise ImportError("there is no weights.bin")
if "--fd" in sys.orig_argv and Path("leaves").exists():
    os._exit(7)

@tool
def main(how: str) -> int:
    if how == "exit":
        os._exit(7)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()
"""
TURNS = "SELECT session_id, turn, status FROM langstudio_chat_history_flow ORDER BY session_id, turn"


async def test_workers_share_the_tokens_and_a_sqlite_history(tmp_path: Path, chat_flow: Path) -> None:
    sessions, each = [f"{number:032}" for number in range(4)], 15
    with start_server(chat_flow, tmp_path, "--workers", "3", FLOWPOD_TOKENS="new,old") as served:
        wait_for_workers(served, 3)
        # No connection is kept, so that each request goes to any of them.
        limits = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=served.url, limits=limits, timeout=30) as client:

            async def ask(session: str, number: int) -> int:
                token = {} if number == 0 else {"Authorization": f"Bearer {'new' if number % 2 else 'old'}"}
                headers = {"Chat-Session-Id": session, **token}
                return (await client.post("/", json={"question": "hi"}, headers=headers)).status_code

            asked = (ask(session, number) for session in sessions for number in range(each + 1))
            assert Counter(await asyncio.gather(*asked)) == {401: len(sessions), 200: len(sessions) * each}
        assert served.stop() == 0
    database = sqlite3.connect(tmp_path / "data" / "chat_history.db")
    rows = database.execute(TURNS).fetchall()
    database.close()
    assert rows == [(session, number + 1, "Completed") for session in sessions for number in range(each)]


async def lines_of(client: httpx.AsyncClient) -> AsyncIterator[str]:
    async with client.stream("POST", "/run", json={"inputs": {"question": "hi"}}) as response:
        async for line in response.aiter_lines():
            yield line


def open_files(pid: str) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.fault("a worker is killed")
async def test_clients_of_a_dying_worker_get_an_end_and_others_go_on(tmp_path: Path, model_server: ModelServer) -> None:
    flow = write_chat_flow(tmp_path / "flow", model_server.url, "words:40:0.1")
    with start_server(flow, tmp_path, "--workers", "2") as served:
        wait_for_workers(served, 2)
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=served.url, limits=limits, timeout=30) as client:
            all_stream = asyncio.Barrier(17)

            async def follow() -> str:
                """Return how a stream ended: its last event, or the break."""
                last, met = "", False
                try:
                    async for line in lines_of(client):
                        if line:
                            last = line
                        if not met:
                            met = True
                            await all_stream.wait()
                except httpx.RemoteProtocolError:
                    return "broken off"
                return str(json.loads(last.removeprefix("data: "))["flow_run_info"]["status"])

            streams = [asyncio.create_task(follow()) for _ in range(16)]
            await all_stream.wait()
            # One worker may have them all: the one with the most has some.
            victim = max(re.findall(r"worker (\d+) started", served.log), key=open_files)
            os.kill(int(victim), signal.SIGKILL)
            ends = Counter(await asyncio.gather(*streams))
        assert set(ends) <= {"broken off", "Completed"}
        assert ends["broken off"], ends
        wait_for_workers(served, 3)
        assert f"worker {victim} was killed by SIGKILL" in served.log
        wait_for_status(served, "/readyz", 200)
        assert served.stop() == 0


def write_fragile_flow(folder: Path, *marks: str) -> Path:
    flow = write_flow(folder, FRAGILE_DAG, {"n.py": FRAGILE_CODE})
    for mark in marks:
        (flow / mark).touch()
    return flow


def started(log: str) -> list[int]:
    return [int(pid) for pid in re.findall(r"worker (\d+) started", log)]


def wait_for_more_than(served: Served, pids: list[int]) -> int:
    """Wait until a worker besides `pids` has been started, and return its process id."""
    deadline = time.monotonic() + 30
    while not (new := [pid for pid in started(served.log) if pid not in pids]):
        assert time.monotonic() < deadline, served.log
        time.sleep(0.02)
    return new[0]


def post_until_answered(url: str, how: str) -> httpx.Response:
    """Post again while the connection is lost to a worker that ends, or no worker listens."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            return httpx.post(f"{url}/", json={"how": how}, timeout=30)
        time.sleep(0.02)
    raise AssertionError("no worker answers")


@pytest.mark.fault("one worker keeps dying")
def test_a_worker_that_keeps_dying_is_started_ever_later_and_the_other_serves(
    tmp_path: Path, figures: dict[str, object]
) -> None:
    with start_server(write_fragile_flow(tmp_path / "flow"), tmp_path, "--workers", "2") as served:
        wait_for_workers(served, 2)
        victim, healthy = started(served.log)
        killed = []
        for _ in range(6):
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)
            victim = wait_for_more_than(served, [healthy, *killed])
        assert post_until_answered(served.url, "").json() == {"pid": healthy}  # the victim is not ready yet
        delays = re.findall(r"was killed by SIGKILL after [\d.]+ s.*; the next one starts in ([\d.]+) s", served.log)
        assert delays == ["0.1", "0.2", "0.4", "0.8", "1.6", "3.2"]
        assert Path(f"/proc/{healthy}").exists()
        figures["deaths in a row"] = len(killed)
        assert served.stop() == 0


@pytest.mark.fault("a request kills its worker")
def test_requests_that_kill_their_workers_leave_a_service_that_serves(tmp_path: Path) -> None:
    with start_server(write_fragile_flow(tmp_path / "flow"), tmp_path, "--workers", "2") as served:
        wait_for_workers(served, 2)
        for how in ["exit", "kill"] * 3:
            assert post_until_answered(served.url, "").status_code == 200
            with pytest.raises(httpx.TransportError):
                httpx.post(f"{served.url}/", json={"how": how}, timeout=30)
        assert post_until_answered(served.url, "").status_code == 200
        assert served.log.count("ended with status 7") == served.log.count("was killed by SIGKILL") == 3
        assert served.stop() == 0


@pytest.mark.fault("no worker can start")
@pytest.mark.parametrize(("mark", "reason"), [("broken", "there is no weights.bin"), ("leaves", "ended with status 7")])
def test_workers_that_cannot_start_end_the_command_with_their_reason(tmp_path: Path, mark: str, reason: str) -> None:
    flow = write_fragile_flow(tmp_path / "flow", mark)
    command = [sys.executable, "-m", "flowpod", "serve", str(flow), "--port", "0", "--workers", "2"]
    done = subprocess.run(command, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert reason in done.stderr
    assert done.stderr.count("before it was ready; the next one starts in 0.1 s") >= 2
    assert "no worker could start" in done.stderr
    assert "Fatal Python error" not in done.stderr


@pytest.mark.fault("a worker cannot start again")
def test_a_worker_that_cannot_start_again_leaves_the_others_serving(tmp_path: Path) -> None:
    flow = write_fragile_flow(tmp_path / "flow")
    with start_server(flow, tmp_path, "--workers", "2") as served:
        wait_for_workers(served, 2)
        victim, healthy = started(served.log)
        (flow / "broken").touch()
        os.kill(victim, signal.SIGKILL)
        pids = [victim, healthy]
        for _ in range(3):
            pids.append(wait_for_more_than(served, pids))
        assert "there is no weights.bin" in served.log
        assert post_until_answered(served.url, "").json() == {"pid": healthy}
        assert "Fatal Python error" not in served.log
        (flow / "broken").unlink()
        wait_for_workers(served, 3)
        assert served.stop() == 0


def test_no_other_program_gets_the_port_of_workers(tmp_path: Path, chat_flow: Path) -> None:
    with start_server(chat_flow, tmp_path, "--workers", "2") as served:
        wait_for_workers(served, 2)
        port = served.url.rpartition(":")[2]
        for workers in ("1", "2"):
            command = [sys.executable, "-m", "flowpod", "serve", str(chat_flow), "--port", port, "--workers", workers]
            done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=60)
            assert done.returncode == 1
            assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in done.stderr
