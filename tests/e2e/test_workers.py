"""Several worker processes behind one port: what they share, and what a dying one does to the others."""

import asyncio
import json
import os
import re
import signal
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import httpx

from tests.support.flows import write_chat_flow
from tests.support.model_server import ModelServer
from tests.support.serving import start_server, wait_for_status, wait_for_workers

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
        assert f"worker {victim} ended with status -9" in served.log
        wait_for_status(served, "/readyz", 200)
        assert served.stop() == 0
